"""Every stage on a cluster of three Ray nodes on this host, of which one is killed in the middle.

The nodes are real: each has its own raylet, ports and workers. A worker that is not on the head node takes a task, and
its node is killed with SIGKILL before the task is done; the others wait until the node is chosen, so that the run is
always in its middle. The results must be complete, and equal to those of one worker.
"""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from annotate.stages import stage
from annotate.stages.job import StageOptions
from annotate.stages.stage import run_stage
from annotate.stages.versions import chosen
from common.workers import pool
from common.workers.pool import WorkerPool
from featurize.__main__ import main as featurize
from heads import embed, evaluate, train
from retrieval.index.builder import build_index
from store import Store

from .featurize.conftest import tiny_clip, video, write_video
from .heads.conftest import recipe, world
from .ray_nodes import Nodes, nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["nodes", "tiny_clip", "video", "world"]  # fixtures


@pytest.fixture
def losing(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the test, the first worker outside of the head node that takes a task loses its node."""
    nodes.complete()
    marker, head = tmp_path / "chosen", nodes.head
    own, lost, stop = WorkerPool.__init__, list[str](), threading.Event()

    def on_its_way(worker: type) -> type:
        module, name = worker.__module__, worker.__name__

        class OnItsWay:  # Ray pickles it, but no class with checked types
            def __init__(self, options: Any) -> None:
                self._own = getattr(import_module(module), name)(options)

            def describe(self, *given: Any) -> Any:
                return self._own.describe(*given)

            def finished(self) -> int:
                return self._own.finished()

            def run(self, task: Any) -> Any:
                import ray

                node = ray.get_runtime_context().get_node_id()
                if node != head and not marker.exists():
                    try:
                        with marker.open("x") as file:
                            file.write(node)
                        time.sleep(300)  # until the node is killed
                    except FileExistsError:  # another worker was faster
                        pass
                while not marker.exists():
                    time.sleep(0.05)
                return self._own.run(task)

        return OnItsWay

    def init(self: WorkerPool, worker: type, *given: Any, **more: Any) -> None:
        own(self, on_its_way(worker), *given, **more)

    monkeypatch.setattr(WorkerPool, "__init__", init)
    killer = threading.Thread(target=nodes.lose_chosen, args=(marker, stop, lost))
    killer.start()
    yield
    stop.set()
    killer.join()
    assert len(lost) == 1


def same_files(one: Path, other: Path) -> int:
    """Compare two folders to the byte, except info of shards (it has times); return the number of files."""
    found, expected = ({p.relative_to(root) for p in root.rglob("*") if p.is_file()} for root in (one, other))
    assert found == expected
    for path in found:
        assert (one / path).read_bytes() == (other / path).read_bytes(), path
    return len(found)


def test_featurize(
    nodes: Nodes,
    losing: None,
    tiny_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("store.feature_store._MOST_ROWS", 2)  # rows of a shard
    write_video(tmp_path / "v.mp4", g=10)
    clips = [(f"v_{i}_1", str(tmp_path / "v.mp4"), i / 10, 1 + i / 10) for i in range(10)]
    pl.DataFrame(clips, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    given = ["--manifest", str(tmp_path / "clips.csv"), "--encoder", "clip", "--weights", str(tiny_clip)]
    monkeypatch.setattr(pool, "_LOOK_AT_NODES", 0.0)
    assert featurize([*given, "--store", str(tmp_path / "three"), "--workers", "3"]) == 0
    log = capsys.readouterr().err
    died = r"^a worker died at shard \d \(its node does not answer\): its 2 clips start again on another worker$"
    assert re.search(died, log, re.MULTILINE)
    assert re.search(r"^node [\d.]+ was lost: 2 nodes are left$", log, re.MULTILINE)
    assert featurize([*given, "--store", str(tmp_path / "one"), "--workers", "1"]) == 0
    three, one = (Store.open(tmp_path / name).view("clips", "clip") for name in ("three", "one"))
    assert len(three.features) == 3
    for feature in three.features:
        np.testing.assert_array_equal(three.read(feature, np.arange(10)), one.read(feature, np.arange(10)))


def shouting(log: Path) -> Any:
    """Return a stage's job that answers with the narration in capitals (Ray pickles it)."""

    class Shouter:
        busy = 0.0

        def annotate(self, items: Sequence[Any]) -> Iterator[tuple[str, dict[str, str]]]:
            for item in items:
                with log.open("a") as lines:
                    lines.write(item["key"] + "\n")
                yield item["key"], {"shout": item["narration"].upper()}

    class Shout:
        def provenance(self) -> dict[str, Any]:
            return {"model": "shout"}

        def load(self, device: str, threads: int) -> Shouter:
            return Shouter()

    return Shout()


def test_annotate(
    nodes: Nodes, losing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "SHARD", 4)
    store = Store.open(tmp_path / "features", create=True)
    items = pl.DataFrame({"key": [f"v_{row}_1" for row in range(30)], "row": range(30)})
    items = items.with_columns(narration=pl.format("word {}", "row"))
    options = StageOptions(store=str(store.path), workers=3)
    record = run_stage(options, "shout", shouting(tmp_path / "log"), items)
    assert (record["done"], record["absent"], record["errors"]) == (30, 0, [])
    assert "a worker died at shard" in capsys.readouterr().err
    assert chosen(store, "shout", None).texts("shout") == {f"v_{row}_1": f"WORD {row}" for row in range(30)}
    assert sorted((tmp_path / "log").read_text().split()) == sorted(items["key"]), "each item is answered once"


def test_retrieval_build(
    nodes: Nodes, losing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from store import Feature, Provenance

    made = []
    for name in ("one", "three"):
        store = Store.open(tmp_path / name, create=True)
        by = Provenance("vectors", "0" * 64, "last", "8", "none", {"embedding": "float32"})
        with store.writer("clips", "vectors", by, {"embedding": Feature((8,), "float32")}, rows_per_shard=64) as writer:
            vectors = np.random.default_rng(0).normal(size=(512, 8)).astype(np.float32)
            writer.write([f"c{row}" for row in range(512)], {"embedding": vectors})
        made.append((store, store.view("clips", "vectors")))
    cards = [
        build_index(store, view, factory="IVF4,SQ8", workers=workers, part_rows=64)
        for (store, view), workers in zip(made, (1, 3), strict=True)
    ]
    assert "a worker died at shard" in capsys.readouterr().err
    one, three = ({file["sha256"] for file in card["files"].values()} for card in cards)
    assert one == three and len(one) >= 1 and cards[1]["rows"] == 512


@pytest.fixture(scope="module")
def heads(world: Path, tiny_lm: str) -> dict[str, Path]:
    """A StepDiff head and a contrastive head of a few steps."""
    short = {"schedule": {"steps": 2, "accumulate": 1, "warmup": 1, "validate_every": 2}}
    stepdiff = recipe(world, tiny_lm, world / "on_cluster", **short)
    contrastive = {
        "view": "visual",
        "text_view": "words",
        "width": 8,
        "clips": 6,
        "projector": {"width": 16, "heads": 2, "outputs": 1},
        "schedule": {"steps": 2, "validate_every": 2},
    }
    align = world / "align_on_cluster.yaml"
    made = {"store": str(world / "features"), "out": str(world / "align_on_cluster"), "contrastive": contrastive}
    align.write_text(yaml.safe_dump(made))
    for path in (stepdiff, align):
        assert train.main(["--config", str(path)]) == 0
    return {"stepdiff": world / "on_cluster", "align": world / "align_on_cluster"}


def test_evaluate(
    nodes: Nodes, heads: dict[str, Path], losing: None, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "diffmcq", "--method", "video-lm", "--head", str(heads["stepdiff"]), "--allow-seen"]
    given += ["--store", str(world / "features"), "--test-set", str(world / "diffmcq_test.jsonl"), "--bootstrap", "0"]
    given += ["--rows-at-once", "1"]
    assert evaluate.main([*given, "--out", str(tmp_path / "three.jsonl"), "--workers", "3"]) == 0
    assert "a worker died at shard" in capsys.readouterr().err
    assert evaluate.main([*given, "--out", str(tmp_path / "one.jsonl")]) == 0
    assert (tmp_path / "three.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_embed(
    nodes: Nodes,
    heads: dict[str, Path],
    losing: None,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    monkeypatch.setattr(embed, "BLOCK", 6)
    monkeypatch.setattr(embed, "PART", 6)  # the blocks of a worker are its parts
    world = heads["align"].parent
    for name, workers in (("three", "3"), ("one", "1")):
        shutil.copytree(world / "features", tmp_path / name)
        given = ["--head", str(heads["align"]), "--store", str(tmp_path / name), "--view", "aligned"]
        assert embed.main([*given, "--workers", workers]) == 0
    assert "a worker died at shard" in capsys.readouterr().err
    for entity in ("clips", "texts"):
        three, one = (Store.open(tmp_path / name).view(entity, "aligned") for name in ("three", "one"))
        np.testing.assert_array_equal(three.read("embedding", np.arange(24)), one.read("embedding", np.arange(24)))
