"""Every stage on a cluster of three Ray nodes on this host, of which a node, or the driver, is
killed in the middle.

The nodes are real: each has its own raylet, ports and workers. A worker that is not on the head
node takes a task (or waits in the fourth step of a training), and is killed with its node by
SIGKILL before it is done; the others wait until the node is chosen, so that the run is always in
its middle. The results must be complete, and equal to those of one worker; weights, to those of two
processes that nothing interrupted, bit for bit.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featurize.__main__ import main as featurize
from heads import embed, evaluate, train
from retrieval.index.builder import build_index
from stepdiff.annotate.stages import stage
from stepdiff.annotate.stages.job import StageOptions
from stepdiff.annotate.stages.stage import Items, chosen, run_stage
from stepdiff_core.workers import pool
from stepdiff_core.workers.pool import WorkerPool
from store import Feature, Store

from .featurize.conftest import tiny_clip, video, write_video
from .heads.conftest import contrastive, evaluation, recipe, world
from .heads.runs import RUNS, assert_same_weights, command, in_processes
from .ray_nodes import Nodes, nodes
from .stores import write_view

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["nodes", "tiny_clip", "video", "world"]  # fixtures


@pytest.fixture
def losing(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the test, the first worker outside of the head node that takes a task loses its
    node."""
    nodes.complete()
    marker, head = tmp_path / "chosen", nodes.head
    own, lost, stop = WorkerPool.__init__, list[str](), threading.Event()

    def on_its_way(worker: type) -> type:
        module, name = worker.__module__, worker.__name__

        class OnItsWay:  # Ray pickles it, but no class with checked types
            outcome = getattr(import_module(module), name).outcome

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
    try:
        yield
    finally:
        stop.set()
        killer.join()
        marker.touch()  # workers that still wait go on
    assert len(lost) == 1


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
    pl.DataFrame(clips, ["clip", "video", "start", "end"], orient="row").write_csv(
        tmp_path / "clips.csv"
    )
    given = [
        "--manifest",
        str(tmp_path / "clips.csv"),
        "--encoder",
        "clip",
        "--weights",
        str(tiny_clip),
    ]
    monkeypatch.setattr(pool, "_LOOK_AT_NODES", 0.0)
    assert featurize([*given, "--store", str(tmp_path / "three"), "--workers", "3"]) == 0
    log = capsys.readouterr().err
    died = r"^a worker died at shard \d \(process \d+ on node [\d.]+, which does not answer\): "
    assert re.search(died + "its 2 clips start again on another worker$", log, re.MULTILINE)
    assert re.search(r"^node [\d.]+ was lost: 2 nodes are left$", log, re.MULTILINE)
    assert featurize([*given, "--store", str(tmp_path / "one"), "--workers", "1"]) == 0
    three, one = (Store.open(tmp_path / name).view("clips", "clip") for name in ("three", "one"))
    assert len(three.features) == 3
    for feature in three.features:
        np.testing.assert_array_equal(
            three.read(feature, np.arange(10)), one.read(feature, np.arange(10))
        )


def shouting(log: Path) -> Any:
    """Return a stage's job that answers with the narration in capitals (Ray pickles it)."""

    class Shouter:
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
    nodes: Nodes,
    losing: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stage, "SHARD", 4)
    store = Store.open(tmp_path / "features", create=True)
    items = pl.DataFrame({"key": [f"v_{row}_1" for row in range(30)], "row": range(30)})
    items = items.with_columns(narration=pl.format("word {}", "row"))
    options = StageOptions(store=str(store.path), workers=3)
    record = run_stage(options, "shout", shouting(tmp_path / "log"), Items(lambda: [items]))
    assert (record["done"], record["absent"], record["errors"]) == (30, 0, [])
    assert "a worker died at shard" in capsys.readouterr().err
    assert chosen(store, "shout", None).texts("shout") == {
        f"v_{row}_1": f"WORD {row}" for row in range(30)
    }
    assert sorted((tmp_path / "log").read_text().split()) == sorted(items["key"]), (
        "each item is answered once"
    )


def test_retrieval_build(
    nodes: Nodes, losing: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = []
    for name, workers in (("one", 1), ("three", 3)):
        store = Store.open(tmp_path / name, create=True)
        view = write_view(store, 512, {"embedding": Feature((8,), "float32")}, shard=64)
        cards.append(build_index(store, view, factory="IVF4,SQ8", workers=workers, part_rows=64))
    assert "a worker died at shard" in capsys.readouterr().err
    one, three = ({file["sha256"] for file in card["files"].values()} for card in cards)
    assert one == three and len(one) >= 1 and cards[1]["rows"] == 512


@pytest.fixture(scope="module")
def heads(world: Path, tiny_lm: str) -> dict[str, Path]:
    """A StepDiff head and a contrastive head of a few steps."""
    short = {"schedule": {"steps": 2, "accumulate": 1, "warmup": 1, "validate_every": 2}}
    made = {"stepdiff": world / "on_cluster", "align": world / "align_on_cluster"}
    few = {"steps": 2, "validate_every": 2}
    for path in (
        recipe(world, tiny_lm, made["stepdiff"], **short),
        contrastive(str(world / "features"), made["align"], schedule=few),
    ):
        assert train.main(["--config", str(path)]) == 0
    return made


def test_evaluate(
    nodes: Nodes,
    heads: dict[str, Path],
    losing: None,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--head", str(heads["stepdiff"]), "--allow-seen", "--rows-at-once", "1"]
    three, one = tmp_path / "three.jsonl", tmp_path / "one.jsonl"
    assert (
        evaluate.main(evaluation(world, "diffmcq", "video-lm", three, *given, "--workers", "3"))
        == 0
    )
    assert "a worker died at shard" in capsys.readouterr().err
    assert evaluate.main(evaluation(world, "diffmcq", "video-lm", one, *given)) == 0
    assert three.read_bytes() == one.read_bytes()


def test_embed(
    nodes: Nodes,
    heads: dict[str, Path],
    losing: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(embed, "BLOCK", 6)
    monkeypatch.setattr(embed, "PART", 6)  # the blocks of a worker are its parts
    world = heads["align"].parent
    for name, workers in (("three", "3"), ("one", "1")):
        shutil.copytree(world / "features", tmp_path / name)
        given = [
            "--head",
            str(heads["align"]),
            "--store",
            str(tmp_path / name),
            "--view",
            "aligned",
        ]
        assert embed.main([*given, "--workers", workers]) == 0
    assert "a worker died at shard" in capsys.readouterr().err
    for entity in ("clips", "texts"):
        three, one = (
            Store.open(tmp_path / name).view(entity, "aligned") for name in ("three", "one")
        )
        np.testing.assert_array_equal(
            three.read("embedding", np.arange(24)), one.read("embedding", np.arange(24))
        )


HELD = """
import sys
import time
from pathlib import Path

from heads import train
from heads.workers import launch

work, marker, head = launch._work, Path(sys.argv[1]), sys.argv[2]


def held(config):
    import ray

    from heads.training.video_task import VideoTask

    loss, node = VideoTask.loss, ray.get_runtime_context().get_node_id()

    def waits(task, batch, following=None):
        if batch >= 6 and node != head and not marker.exists():  # the fourth of six steps
            try:
                with marker.with_name("waits").open("x") as file:
                    file.write(node)
            except FileExistsError:
                return loss(task, batch, following)
            time.sleep(300)  # until the node is killed
        return loss(task, batch, following)

    VideoTask.loss = waits
    work(config)


if __name__ == "__main__":
    launch._work = held
    raise SystemExit(train.main(sys.argv[3:]))
"""
"""A driver of a training, of whose workers outside of the head node one waits in the fourth step"""


class Training:
    """The same training as often as it is started, from this process; `end` ends what is left of
    it."""

    def __init__(self, nodes: Nodes, path: str, folder: Path) -> None:
        self.run, self.drivers = folder / "run", list[subprocess.Popen[str]]()
        self.script, self.marker, self.waits = folder / "held.py", folder / "now", folder / "waits"
        self.script.write_text(HELD)
        self._head = nodes.head
        self._given = ["--config", path, "--workers", "2", "--address", nodes.cluster.address]

    def start(self, *, held: bool) -> subprocess.Popen[str]:
        """Start the driver; with `held` a worker waits in the fourth step."""
        program = (
            [str(self.script), str(self.marker), self._head] if held else ["-m", "heads.train"]
        )
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        asked, pipe = [sys.executable, *program, *self._given], subprocess.PIPE
        self.drivers.append(
            subprocess.Popen(asked, stdout=pipe, stderr=pipe, text=True, env=environment)
        )
        return self.drivers[-1]

    def waiting(self, driver: subprocess.Popen[str]) -> str:
        """Return the node of the worker that waits, as soon as one does."""
        last = time.monotonic() + 400
        while not self.waits.exists() or not self.waits.read_text():
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < last, (
                "no worker outside of the head node has come to its fourth step"
            )
            time.sleep(0.05)
        return self.waits.read_text()

    def end(self) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.communicate(timeout=60)


@pytest.fixture
def training(nodes: Nodes, world: Path, tiny_lm: str, tmp_path: Path) -> Iterator[Training]:
    """A training on three free nodes, of which no driver is left after the test."""
    nodes.complete()
    made = Training(nodes, str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def whole(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    path = str(recipe(world, tiny_lm, folder / "run", **RUNS))
    assert in_processes(command, 2, folder / "logs", path, None) == [0, 0]
    return folder / "run"


def check_resumed(driver: subprocess.Popen[str], run: Path, whole: Path) -> None:
    """Wait for a training; assert that it resumed once and has the weights of the run that nothing
    interrupted."""
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    assert (
        err.count("run: resumes from checkpoint-000003") == 1 and "best checkpoint: step" in out
    ), err
    assert_same_weights(run, whole)


def test_a_training_that_loses_a_node_resumes(
    nodes: Nodes, whole: Path, training: Training
) -> None:
    driver = training.start(held=True)
    node = training.waiting(driver)
    second = training.start(held=False)
    _, refused = second.communicate(timeout=200)
    assert second.returncode == 2 and len(refused.splitlines()) == 1, refused
    assert f"run is being written by process {driver.pid} on host" in refused
    training.marker.write_text(node)
    nodes.lose(node)
    check_resumed(driver, training.run, whole)


def test_a_training_whose_driver_is_killed_continues(whole: Path, training: Training) -> None:
    driver = training.start(held=True)
    training.waiting(driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert len(list(training.run.glob(".ray-*"))) == 1
    check_resumed(training.start(held=False), training.run, whole)
    assert not list(training.run.glob(".ray-*"))
