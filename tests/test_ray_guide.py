"""The Ray Data pipeline of the library guide, on a cluster of two Ray nodes on this host, equals numpy."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from store import Feature, Provenance, Store

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/guides/library.md"
pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]
COUNT, SHARD, WIDTH = 4096, 128, 32


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def test_the_pipeline_on_two_nodes_equals_numpy(address: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = [f"step {row % 5}" if row % 13 else None for row in range(COUNT)]
    split = ["train" if row % 3 else "test" for row in range(COUNT)]
    frame = pl.DataFrame({"key": [f"c{row}" for row in range(COUNT)], "step": steps, "split": split})
    vectors = np.eye(5, WIDTH)[np.arange(COUNT) % 5] + rng.normal(0, 0.5, (COUNT, WIDTH))
    done = np.arange(COUNT) % 17 > 0  # other rows are absent
    made = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", {"embedding": "float16"})
    store = Store.open(tmp_path / "store", create=True)
    store.catalog("clips").append(frame)
    form = {"embedding": Feature((WIDTH,), "float16")}
    with store.writer("clips", "net", made, form, rows_per_shard=SHARD) as writer:
        writer.write(frame.filter(pl.Series(done)), {"embedding": vectors[done].astype(np.float32)})

    scripts = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (script,) = (script for script in scripts if "read_view" in script)
    for words, ours in (
        ('"data/features"', repr(str(tmp_path / "store"))),
        ('"efficientnet-lite0"', '"net"'),
        ('"data/nearest"', repr(str(tmp_path / "nearest"))),
        ('"cosine": cosines.max(1)', '"cosine": cosines.max(1), "node": [node()] * len(cosines)'),
        (
            "def nearest(",
            "def node():\n    import ray\n    return ray.get_runtime_context().get_node_id()\n\ndef nearest(",
        ),
    ):
        assert script.count(words) == 1
        script = script.replace(words, ours)
    few = "import ray.data\nray.data.DataContext.get_current().target_min_block_size = 4096\n"  # bytes, for many tasks
    (tmp_path / "script.py").write_text(few + script)
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    done_script = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, cwd=tmp_path)
    assert done_script.returncode == 0, done_script.stderr[-4000:]

    done &= frame["step"].is_not_null().to_numpy()
    stored = store.view("clips", "net").read("embedding", np.flatnonzero(done)).astype(np.float32)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    about = frame.filter(pl.Series(done))
    names = about["step"].unique().sort().to_list()
    chosen = [((about["split"] == "train") & (about["step"] == name)).to_numpy() for name in names]
    centres = np.stack([unit[own].astype(np.float64).sum(0) for own in chosen])
    cosines = unit @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    found = pl.read_parquet(tmp_path / "nearest/*.parquet")
    assert found["node"].n_unique() == 2, "both nodes take part"
    assert sorted(found["key"]) == sorted(about["key"])
    found = about.select("key").join(found, on="key", how="left", maintain_order="left")
    assert found["step"].to_list() == about["step"].to_list()
    assert found["nearest"].to_list() == [names[place] for place in cosines.argmax(1)]
    np.testing.assert_allclose(found["cosine"].to_numpy(), cosines.max(1), rtol=1e-6)
    own = (found["step"] == found["nearest"]).mean()
    assert own > 0.5 and f"{own:.2f} of {len(about)} clips" in done_script.stdout
