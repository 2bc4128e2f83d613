"""Exports open in their own libraries, with the values and metadata of the store; record batches of
a view."""

import gc
import io
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from store import View
from store.exchange.arrow import record_batches
from store.format.quantise import dequantise
from tests.store.conftest import Run, opened

from .conftest import ABSENT, FAILED, FORGOTTEN, FORMATS, KEYS

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Datasets of Hugging Face are cached in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module in ("datasets.config", "datasets.builder"):
        if module in sys.modules:
            monkeypatch.setattr(
                f"{module.split('.')[0]}.config.HF_DATASETS_CACHE", tmp_path / "cache"
            )


ARRAYS = ("tokens", "embedding", "q", "q_scale")
Held = dict[str, Any]
"""what a library reads of an export: keys, metadata `step` and `made`, and the arrays"""


def with_polars(out: Path) -> Held:
    """Read Parquet with Polars; pandas and pyarrow see the same."""
    frame, table = pl.read_parquet(out / "data/*.parquet"), pq.read_table(out)
    other = np.stack(pd.read_parquet(out)["tokens"].to_list())
    assert other.tobytes() == frame["tokens"].to_numpy().tobytes()
    assert str(table.schema.field("tokens").type) == "fixed_size_list<element: halffloat>[15]"
    assert table.schema.field("tokens").metadata[b"shape"] == b"[3, 5]"
    assert [path.name for path in sorted((out / "data").iterdir())] == [
        f"part-{n:06d}.parquet" for n in range(4)
    ]
    return {name: frame[name].to_list() for name in LABELS} | {
        name: frame[name].to_numpy() for name in ARRAYS
    }


def with_lance(out: Path) -> Held:
    """Read a Lance dataset, and search it with an index."""
    import lance

    dataset = lance.dataset(str(out))
    table = dataset.to_table()
    assert dataset.version == 1 and dataset.count_rows() == len(table)
    dataset.create_index("embedding", "IVF_FLAT", num_partitions=1, metric="l2")
    query = np.array(table["embedding"][3].as_py(), np.float32)
    nearest = dataset.to_table(nearest={"column": "embedding", "q": query, "k": 1})
    assert nearest["key"].to_pylist() == table["key"].to_pylist()[3:4]
    arrays = {name: table[name].combine_chunks().flatten().to_numpy() for name in ARRAYS}
    return {name: table[name].to_pylist() for name in LABELS} | arrays


def with_datasets(out: Path) -> Held:
    """Read with Hugging Face's datasets, whole and streaming; it makes float32 of float16."""
    import datasets

    load = lambda **more: datasets.load_dataset(str(out), cache_dir=str(out.parent / ("c")), **more)  # noqa: E731
    rows = load(split="train")
    assert rows.features["tokens"] == datasets.Array2D((3, 5), "float16")
    assert rows.features["q"] == datasets.Array2D((2, 70), "int8")
    assert [row["key"] for row in load(split="train", streaming=True)] == rows["key"][:]
    _, header, _ = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"
    arrays = rows.with_format("numpy")[:]
    return {name: rows[name][:] for name in LABELS} | {name: arrays[name] for name in ARRAYS}


def with_webdataset(out: Path) -> Held:
    """Read tar files with webdataset."""
    import webdataset as wds

    url = str(out / "data/features-{000000..000003}.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False).decode())
    about = [sample["json"] for sample in samples]
    assert [unquote(sample["__key__"]) for sample in samples] == [row["key"] for row in about]
    assert about[1].keys() == {"key", "video", "start", "step", "seen", "made", "crc32c"}
    (raw, *_) = wds.WebDataset(url, shardshuffle=False)
    np.load(io.BytesIO(raw["tokens.npy"]), allow_pickle=False)
    gc.collect()  # it leaves closing files to the collector
    arrays = {name: np.stack([sample[f"{name}.npy"] for sample in samples]) for name in ARRAYS}
    made = [datetime.fromisoformat(row["made"]) for row in about]
    return {
        "key": [row["key"] for row in about],
        "step": [row.get("step") for row in about],
        "made": made,
    } | arrays


LABELS = ("key", "step", "made")
LIBRARIES = {
    "parquet": with_polars,
    "lance": with_lance,
    "huggingface": with_datasets,
    "webdataset": with_webdataset,
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
def test_an_export_opens_in_its_own_libraries(
    view: View, finished: np.ndarray, save: Run, tmp_path: Path, format: str
) -> None:
    record = save("out", "--format", format, "--license", "cc-by-4.0", "--json").json
    assert [record[name] for name in ("rows", "failed", "absent", "forgotten", "parts")] == [
        10,
        1,
        1,
        1,
        4,
    ]
    held, catalog = LIBRARIES[format](tmp_path / "out"), view.catalog.frame()
    for name in LABELS:
        assert held[name] == catalog[name].gather(finished).to_list(), name
    levels, scale = view.read_quantised("q", finished)
    expected = {name: view.read(name, finished) for name in ("tokens", "embedding")} | {
        "q": levels,
        "q_scale": scale,
    }
    for name, values in expected.items():
        read = held[name].reshape(values.shape)
        assert read.dtype == values.dtype or (format == "huggingface" and name != "embedding")
        assert (read == values).all(), name


def test_a_dtype_dequantises(view: View, finished: np.ndarray, save: Run, tmp_path: Path) -> None:
    assert (
        save("out.parquet", "--dtype", "float16", "--features", "q", "--columns", "video").status
        == 0
    )
    frame = pl.read_parquet(tmp_path / "out.parquet/data/*.parquet")
    assert frame.columns == ["key", "video", "q", "crc32c"]
    floats, expected = (
        frame["q"].to_numpy().reshape(-1, 2, 70),
        view.read("q", finished, dtype="float16"),
    )
    assert floats.tobytes() == expected.tobytes()
    assert (floats == dequantise(*view.read_quantised("q", finished)).astype("float16")).all()


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_says_what_was_exported_and_how_to_open_it(
    save: Run, tmp_path: Path, format: str
) -> None:
    assert "(left out: 1 failed, 1 absent, 1 forgotten)" in save("out", "--format", format).out
    card = (tmp_path / "out" / ("_README.md" if format == "parquet" else "README.md")).read_text()
    for text in (
        "- encoder: `net`",
        "0" * 64,
        "rows 10, failed 1, absent 1, forgotten 1",
        "stepdiff-store 1",
    ):
        assert text in card, text
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    script = f"{code}\nimport numpy as np\nprint(np.asarray(values).size)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr[-2000:]


def values(batches: list, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(
        [b[name].flatten().to_numpy().reshape(b.num_rows, *shape) for b in batches]
    )


def address(array: Any) -> int:
    return (
        array.values.buffers()[1].address + array.values.offset * array.values.type.bit_width // 8
    )


def test_floats_that_are_in_memory_are_not_copied(view: View, finished: np.ndarray) -> None:
    # they are in the page cache now
    view.read("tokens", finished), view.read("embedding", finished)
    batches = list(record_batches(view, ["tokens", "embedding"]))
    assert len(batches) == 4
    for batch in batches:
        rows = view.rows(batch["key"].to_pylist())
        for name in ("tokens", "embedding"):
            in_memory = view.in_place(name, rows)
            assert in_memory is not None and address(batch[name]) == in_memory.ctypes.data
            assert not batch[name].values.buffers()[1].is_mutable


def test_a_batch_outlives_its_view(view: View, finished: np.ndarray) -> None:
    expected = view.read("tokens", finished)
    batches = list(record_batches(opened(view), "tokens"))
    view.paths.shard("tokens", 0, 3).unlink()
    assert values(batches, "tokens", (3, 5)).tobytes() == expected.tobytes()


def test_finished_rows_are_returned_in_the_order_of_the_request(
    view: View, finished: np.ndarray
) -> None:
    batches = list(record_batches(view))
    assert [key for b in batches for key in b["key"].to_pylist()] == [KEYS[row] for row in finished]
    assert [b.num_rows for b in batches] == [4, 2, 3, 1], "batches end where shards do"
    for name, shape in (("tokens", (3, 5)), ("embedding", (7,))):
        assert values(batches, name, shape).tobytes() == view.read(name, finished).tobytes()
    levels, scale = view.read_quantised("q", finished)
    assert values(batches, "q", (2, 70)).tobytes() == levels.tobytes()
    assert values(batches, "q_scale", (2, 2)).tobytes() == scale.tobytes()
    rows = [12, FAILED, 0, ABSENT, 5, FORGOTTEN, 0, 99]
    some = list(record_batches(view, "tokens", rows=rows, batch_rows=3, columns=["step"]))
    assert [b.num_rows for b in some] == [3, 1]
    assert [key for b in some for key in b["key"].to_pylist()] == [
        KEYS[row] for row in (12, 0, 5, 0)
    ]
    assert [step for b in some for step in b["step"].to_pylist()] == [None, 0, 5, 0]
    assert values(some, "tokens", (3, 5)).tobytes() == view.read("tokens", [12, 0, 5, 0]).tobytes()
