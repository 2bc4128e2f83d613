"""A training on a cluster of three Ray nodes on this host: a node or the driver is killed in the middle of a step.

A worker that is not on the head node waits in its fourth step until the kill, so that the run is always in its middle.
The weights must be those of two processes that nothing interrupted, bit for bit.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from heads import train
from heads.workers import launch, room

from .heads.conftest import recipe, world
from .heads.ends import assert_same_weights
from .heads.processes import in_processes
from .heads.test_parallel import RUNS, command
from .ray_nodes import Nodes, nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["nodes", "world"]  # fixtures
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

    def waits(task, batch):
        if batch >= 6 and node != head and not marker.exists():  # the fourth of six steps
            try:
                with marker.with_name("waits").open("x") as file:
                    file.write(node)
            except FileExistsError:
                return loss(task, batch)
            time.sleep(300)  # until the node is killed
        return loss(task, batch)

    VideoTask.loss = waits
    work(config)


if __name__ == "__main__":
    launch._work = held
    raise SystemExit(train.main(sys.argv[3:]))
"""
"""A driver of a training, of whose workers outside of the head node one waits in the fourth step"""


class Training:
    """The same training as often as it is started, from this process."""

    def __init__(self, nodes: Nodes, path: str, folder: Path) -> None:
        self.script, self.marker, self.waits = folder / "held.py", folder / "now", folder / "waits"
        self.script.write_text(HELD)
        self._head = nodes.head
        self._given = ["--config", path, "--workers", "2", "--address", nodes.cluster.address]

    def start(self, *, held: bool) -> subprocess.Popen[str]:
        """Start the driver; with `held` a worker waits in the fourth step."""
        program = [str(self.script), str(self.marker), self._head] if held else ["-m", "heads.train"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        asked = [sys.executable, *program, *self._given]
        return subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def waiting(self, driver: subprocess.Popen[str]) -> str:
        """Return the node of the worker that waits, as soon as one does."""
        while not self.waits.exists() or not self.waits.read_text():
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        return self.waits.read_text()


@pytest.fixture(scope="module")
def whole(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    path = str(recipe(world, tiny_lm, folder / "run", **RUNS))
    assert in_processes(command, 2, folder / "logs", path, None) == [0, 0]
    return folder / "run"


def check_resumed(driver: subprocess.Popen[str], run: Path, whole: Path) -> None:
    """Wait for a training; assert that it resumed once and has the weights of the run that nothing interrupted."""
    try:
        out, err = driver.communicate(timeout=400)
    finally:
        driver.kill()
    assert driver.returncode == 0, err
    assert err.count("run: resumes from checkpoint-000003") == 1 and "best checkpoint: step" in out, err
    assert_same_weights(run, whole)


def test_a_training_that_loses_a_node_resumes(
    nodes: Nodes, whole: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    nodes.complete()
    training = Training(nodes, str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), tmp_path)
    driver = training.start(held=True)
    try:
        node = training.waiting(driver)
        second = training.start(held=False)
        _, refused = second.communicate(timeout=200)
        assert second.returncode == 2 and len(refused.splitlines()) == 1, refused
        assert f"run is being written by process {driver.pid} on host" in refused
        training.marker.write_text(node)
        nodes.lose(node)
        check_resumed(driver, tmp_path / "run", whole)
    finally:
        driver.kill()


def test_a_training_whose_driver_is_killed_continues_when_it_is_started_again(
    nodes: Nodes, whole: Path, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    nodes.complete()
    training = Training(nodes, str(recipe(world, tiny_lm, tmp_path / "run", **RUNS)), tmp_path)
    driver = training.start(held=True)
    try:
        training.waiting(driver)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert len(list((tmp_path / "run").glob(".ray-*"))) == 1
    finally:
        driver.kill()
    check_resumed(training.start(held=False), tmp_path / "run", whole)
    assert not list((tmp_path / "run").glob(".ray-*"))


def test_a_training_of_more_workers_than_the_cluster_has_room_for_is_refused(
    nodes: Nodes,
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes.complete()
    monkeypatch.setattr(room, "PATIENCE", 2.0)
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule={"steps": 2, "accumulate": 4}))
    assert train.main(["--config", path, "--workers", "4"]) == 2
    error = capsys.readouterr().err
    assert "4 workers need 4 CPUs and the cluster has 3: give --workers 2, or add nodes" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_what_the_driver_knows_of_its_workers_is_kept_on_its_own_node(nodes: Nodes) -> None:
    import ray

    nodes.complete()

    def node(_: Any) -> str:
        return str(ray.get_runtime_context().get_node_id())

    outcomes = [launch._outcome("halve the batch") for _ in range(3)]
    assert set(ray.get([one.__ray_call__.remote(node) for one in outcomes])) == {node(None)}
