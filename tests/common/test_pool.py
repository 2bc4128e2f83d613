"""The worker pool without a command: workers that die while they load, and room for threads."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import StepDiffError
from common.workers import pool as pools
from common.workers.cluster import connected
from common.workers.pool import ATTEMPTS, WorkerPool


def dying(log: Path, times: int) -> type:
    """Return a worker class whose first `times` workers die in `describe`. Ray can pickle it."""

    class Dying:
        def __init__(self, given: Any) -> None:
            pass

        def describe(self, answer: str) -> list[str]:
            with log.open("a") as file:
                file.write("x")
            if len(log.read_text()) <= times:
                os._exit(1)
            return [answer]

        def finished(self) -> int:
            return 0

        def run(self, task: Any) -> Any:
            return SimpleNamespace(shard=task.shard, error=None)

    return Dying


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected("local", "featurize"):
        yield


@pytest.mark.slow
def test_a_worker_that_dies_while_it_loads_is_replaced_as_often_as_one_that_dies_at_a_shard(
    ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pool(name: str, times: int) -> WorkerPool:
        worker = dying(tmp_path / name, times)
        return WorkerPool(worker, SimpleNamespace(cpus=1), False, lambda shard, why: why, joined=False)

    last = pool("last", ATTEMPTS - 1)
    assert last.call("describe", "loaded") == ["loaded"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == ATTEMPTS - 1
    assert all(re.fullmatch(r"a worker died in describe \(.+\): another does it again", line) for line in lines)
    task = SimpleNamespace(shard=3, rows=(1,), failures=())
    assert [done.shard for done in last.run([task], 1, lambda count: None)] == [3], "its worker is the new one"
    del last  # its worker's CPU
    with pytest.raises(StepDiffError, match=r"^a worker died in describe \([^\n]*\): run it again$"):
        pool("never", 99).call("describe", "loaded")
    assert len((tmp_path / "never").read_text()) == ATTEMPTS


NODE = "no node of the cluster has 8 CPUs, which a worker needs: "


class NoActor:
    """Every actor, handle and call of Ray; none ever answers."""

    def __getattr__(self, name: str) -> Any:
        return NoActor()

    def __call__(self, *given: Any, **more: Any) -> Any:
        return NoActor()


def lacking(
    monkeypatch: pytest.MonkeyPatch, cpus: int, *there: int, joined: bool, by_threads: bool, autoscaled: bool = False
) -> WorkerPool:
    """Return a pool of workers of `cpus` CPUs on nodes that have `there`."""
    labels = {"ray.io/node-group": "workers"} if autoscaled else {}
    found = [{"Alive": True, "Resources": {"CPU": float(one)}, "Labels": labels} for one in there]
    monkeypatch.setattr("ray.nodes", lambda: found)
    monkeypatch.setattr("ray.remote", NoActor())
    options = SimpleNamespace(cpus=cpus)
    return WorkerPool(object, options, False, lambda shard, why: why, joined=joined, by_threads=by_threads)


@pytest.mark.parametrize(
    ("cpus", "there", "count", "joined", "by_threads", "autoscaled", "line"),
    [
        (
            2, [2], 2, False, True, False,
            "this machine has room for 1 of 2 CPUs each, one for each thread of this process: "
            "OMP_NUM_THREADS=1 makes room for 2",
        ),
        (
            16, [16, 8], 4, True, True, False,
            "the cluster has room for 1 of 16 CPUs each, one for each thread of this process: "
            "OMP_NUM_THREADS=5 makes room for 4; the others wait for nodes that join it",
        ),
        (
            4, [2], 3, True, True, True,
            "the cluster has room for 0 of 4 CPUs each, one for each thread of this process: "
            "OMP_NUM_THREADS=1 makes room for 2; its autoscaler may add nodes",
        ),
    ],
)  # fmt: skip
def test_workers_without_room_for_their_threads_are_reported_with_the_omp_num_threads_that_makes_room(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cpus: int,
    there: list[int],
    count: int,
    joined: bool,
    by_threads: bool,
    autoscaled: bool,
    line: str,
) -> None:
    pool = lacking(monkeypatch, cpus, *there, joined=joined, by_threads=by_threads, autoscaled=autoscaled)
    monkeypatch.setattr("ray.wait", lambda calls, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(pool.run([], count, lambda rows: None))
    assert capsys.readouterr().err.splitlines() == [f"--workers {count}: {line}"]


@pytest.mark.parametrize(
    ("joined", "by_threads", "error"),
    [
        (
            False,
            True,
            "this machine does not have 8 CPUs, which a worker needs: use a larger one or set OMP_NUM_THREADS=2",
        ),
        (True, True, NODE + "start such nodes or set OMP_NUM_THREADS=2"),
        (True, False, NODE + "start such nodes"),
    ],
)
def test_a_worker_of_more_threads_than_any_node_has_cpus_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, joined: bool, by_threads: bool, error: str
) -> None:
    pool = lacking(monkeypatch, 8, 2, 1, joined=joined, by_threads=by_threads)
    monkeypatch.setattr(pools, "_PATIENCE", 0.0)
    monkeypatch.setattr("ray.wait", lambda calls, **more: ([], calls))
    with pytest.raises(StepDiffError) as raised:
        pool.call("describe")
    assert str(raised.value) == error
