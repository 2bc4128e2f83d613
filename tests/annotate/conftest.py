"""A store with a catalog of clips."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest

from annotate.stages import stage
from annotate.stages.job import Job, StageOptions
from annotate.stages.versions import Version
from annotate.stages.worker import Answered, StageWorkerOptions, Task, Worker
from store import Store
from tests.llm_server import server as server

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of six clips, of which the second has no narration."""
    made = Store.open(tmp_path / "features", create=True)
    said = [f"now we whisk {i} eggs" if i != 1 else None for i in range(6)]
    rows = {"key": CLIPS, "step": ["whisk"] * 6, "split": ["train"] * 4 + ["test"] * 2, "narration": said}
    with made.lock():
        made.catalog("clips").append(pl.DataFrame(rows))
    return made


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run stages in this process; test_stage tests the same on Ray."""

    def work(options: StageOptions, version: Version, job: Job, tasks: Iterable[Task], *counts: int) -> list[Answered]:
        worker = Worker(StageWorkerOptions(options.store, version.stage, version.name, job, "cpu", 1))
        return [worker.run(task) for task in tasks]

    monkeypatch.setattr(stage, "_work", work)
