"""Parts of an index filled by real Ray workers that die or fail."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from common.io.local import LocalPath
from common.workers.cluster import connected
from retrieval.index import parts
from retrieval.index import parts as workers
from retrieval.index.parts import Filled, Part
from store import Store, View

Fill = Callable[..., View]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with connected(None, "retrieval"):
        yield


@pytest.fixture
def jobs(store: Store, fill: Fill, tmp_path: Path) -> list[Part]:
    """Three parts of 64 rows and the trained index."""
    values = np.random.default_rng(0).normal(size=(192, 8)).astype(np.float32)
    view = fill(store, values, [f"c{at}" for at in range(192)], shard=64)
    (tmp_path / "job").mkdir()
    job = parts.Job(store.path, "clips", view.name, "embedding", LocalPath(tmp_path) / "job")
    parts.write_index(parts.train(job, "IVF2,SQ8", parts.new_index(8, "IVF2,SQ8", 192), np.arange(192)), job.trained)
    return parts.parts_of(job, np.arange(192), 64, 64)


def worker_that(at_second_part: Callable[[], None]) -> type:
    """Return a worker class that calls a function before it fills the part of row 64 (Ray pickles it)."""

    class Worker:
        def __init__(self, options: workers.FillOptions) -> None:
            pass

        def run(self, part: Part) -> Filled:
            from retrieval.index.parts import FillOptions, FillWorker

            if part.shard == 64:
                at_second_part()
            return FillWorker(FillOptions()).run(part)

        def finished(self) -> int:
            return 0

    return Worker


def test_a_part_whose_worker_is_killed_is_filled_again(
    ray: None, jobs: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "killed"

    def die_once() -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(workers, "FillWorker", worker_that(die_once))
    advanced: list[int] = []
    workers.fill_all(jobs, 2, None, advanced.append)
    assert marker.exists() and all(part.lists.exists() for part in jobs) and sum(advanced) == 192
    assert "a worker died at shard 64" in capfd.readouterr().err


def test_a_part_that_fails_or_kills_every_worker_ends_the_build_in_one_line(
    ray: None, jobs: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail() -> None:
        raise OSError("no space left")

    for action, why in ((die, "^shard 64: 3 workers died at it"), (fail, "^shard 64: OSError: no space left$")):
        monkeypatch.setattr(workers, "FillWorker", worker_that(action))
        with pytest.raises(StepDiffError, match=why):
            workers.fill_all(jobs, 2, None, lambda rows: None)
        assert not jobs[1].lists.exists()
