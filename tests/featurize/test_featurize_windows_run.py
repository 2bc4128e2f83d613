"""Runs whose manifest is planned in windows: the same store as in one piece, refusals, repetition."""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from common.workers.pool import WorkerPool
from featurize.__main__ import main
from featurize.plan import Outcome, Task
from featurize.shard import Worker, WorkerOptions
from featurize.windows import read_windows
from store import Store
from store.verbs.verify import verify

Writer = Callable[..., Path]
Run = Callable[..., tuple[int, dict[str, object], str]]
FEATURES = ("tokens", "frame_embedding", "embedding")


@pytest.fixture
def manifest(tmp_path: Path, video: Writer) -> Path:
    """A manifest of 17 clips of three videos, in mixed order; two clips cannot be computed."""
    rows = []
    for name in ("one", "two", "three"):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(video(f"{name}-short.mp4", frames=60, g=10).read_bytes())
        rows += [(f"{name}_{i}", f"{name}.mp4", i / 4, i / 4 + 1, i) for i in range(5)]
    rows += [("gone_0", "gone.mp4", 0.0, 1.0, 0), ("two_9", "two.mp4", 2.0, 1.0, 9)]
    frame = pl.DataFrame(rows, ["clip", "video", "start", "end", "step"], orient="row")
    frame.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(tmp_path / "clips.parquet")
    return tmp_path / "clips.parquet"


@pytest.fixture
def in_windows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda window: monkeypatch.setattr("featurize.job.read_windows", partial(read_windows, window=window))


class OneProcess(WorkerPool):
    """What `WorkerPool` does, with one worker in this process."""

    def __init__(self, worker: type[Worker], options: WorkerOptions, *more: object, **named: object) -> None:
        self._worker = worker(options)

    def call(self, method: str, *arguments: object) -> Any:
        answer = getattr(self._worker, method)(*arguments)
        if isinstance(answer, str):
            raise StepDiffError(answer)
        return answer

    def run(self, tasks: Iterable[Task], count: int, advance: Callable[[int], None]) -> Iterator[Outcome]:
        for task in tasks:
            yield self._worker.run(task)
            advance(len(task.rows))


@pytest.fixture
def run(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("featurize.job.WorkerPool", OneProcess)
    monkeypatch.setattr("featurize.job.connected", lambda *given: nullcontext(False))
    monkeypatch.setattr("featurize.job.has_gpu", lambda *given: False)
    monkeypatch.setattr("featurize.job.pool_size", lambda *given: (2, 1))
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)  # of this process, which runs other tests

    def do(manifest: Path, store: Path, *more: object) -> tuple[int, dict[str, object], str]:
        given = ["--manifest", manifest, "--store", store, "--encoder", "clip", "--weights", tiny_clip, *more]
        out, message = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(message):
            status = main([*map(str, given), "--json", "--device", "cpu"])
        return status, json.loads(out.getvalue()) if out.getvalue() else {}, message.getvalue()

    return do


def counts(summary: dict[str, object]) -> dict[str, object]:
    return {name: summary[name] for name in ("asked", "done", "already", "failed", "absent")}


def test_a_run_in_windows_writes_the_store_of_a_run_in_one_piece(
    tmp_path: Path, manifest: Path, in_windows: Callable[[int], None], run: Run
) -> None:
    status, whole, _ = run(manifest, tmp_path / "whole")
    assert status == 1 and counts(whole) == {"asked": 17, "done": 15, "already": 0, "failed": 2, "absent": 0}
    in_windows(4)
    status, found, message = run(manifest, tmp_path / "windows")
    assert status == 1 and counts(found) == counts(whole), message
    assert found["failures"] == whole["failures"]
    stores = [Store.open(tmp_path / name) for name in ("whole", "windows")]
    catalogs = [store.catalog("clips") for store in stores]
    assert catalogs[0].frame().equals(catalogs[1].frame()) and len(catalogs[1].parts()) > 2
    views = [store.view("clips", "clip") for store in stores]
    assert views[0].status().tolist() == views[1].status().tolist()
    good = np.flatnonzero(views[0].status() == 1)
    for name in FEATURES:
        np.testing.assert_array_equal(views[1].read(name, good), views[0].read(name, good))
    assert verify(stores[1]) == []
    status, again, message = run(manifest, tmp_path / "windows")
    assert (again["done"], again["already"], again["failed"]) == (0, 15, 2) and "nothing to do" in message


def test_a_later_window_that_is_refused_ends_the_run_after_the_earlier_ones(
    tmp_path: Path, manifest: Path, in_windows: Callable[[int], None], run: Run
) -> None:
    store = tmp_path / "features"
    clips = pl.read_parquet(manifest)
    clips.filter(video="three.mp4").write_parquet(tmp_path / "some.parquet")
    assert run(tmp_path / "some.parquet", store)[0] == 0
    (tmp_path / "three.mp4").write_bytes((tmp_path / "one.mp4").read_bytes() + b"more")
    order = ["one.mp4", "gone.mp4", "two.mp4", "three.mp4"]
    clips.sort(pl.col("video").replace_strict(order, range(4)), "start").write_parquet(manifest)
    in_windows(4)
    status, _, message = run(manifest, store)
    assert status == 2 and "was made from another file" in message and "three.mp4" in message
    view = Store.open(store).view("clips", "clip")
    done = [view.catalog.keys(np.array([row]))[0] for row in np.flatnonzero(view.status() == 1)]
    assert {key.split("_")[0] for key in done} == {"one", "two", "three"}
    (tmp_path / "three.mp4").write_bytes((tmp_path / "two.mp4").read_bytes())
    status, summary, message = run(manifest, store, "--replace")
    assert status == 1 and (summary["asked"], summary["failed"]) == (17, 2), message
    assert verify(Store.open(store)) == []


def test_windows_of_which_nothing_can_be_computed_are_refused_before_anything_is_written(
    tmp_path: Path, manifest: Path, in_windows: Callable[[int], None], run: Run
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.mp4").unlink()
    in_windows(4)
    status, _, message = run(manifest, tmp_path / "features")
    assert status == 2 and "none of 17 clips can be computed" in message and not (tmp_path / "features").exists()


def test_texts_in_windows_are_those_of_one_piece(tmp_path: Path, in_windows: Callable[[int], None], run: Run) -> None:
    texts = [f"whisk {'slowly ' * (n % 5)}{n % 11}" for n in range(40)] + [""]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "texts.parquet")
    _, whole, _ = run(tmp_path / "texts.parquet", tmp_path / "whole")
    in_windows(6)
    _, found, _ = run(tmp_path / "texts.parquet", tmp_path / "windows", "--shard-size", 1)
    assert counts(found) == counts(whole) and found["failed"] == 1
    views = [Store.open(tmp_path / name).view("texts", "clip") for name in ("whole", "windows")]
    assert views[0].catalog.frame().equals(views[1].catalog.frame())
    good = np.flatnonzero(views[0].status() == 1)
    np.testing.assert_allclose(views[1].read("embedding", good), views[0].read("embedding", good), atol=1e-5)
    status, _, message = run(tmp_path / "texts.parquet", tmp_path / "windows", "--shard-size", 2, "--retry-failed")
    assert status == 2 and "rows per shard, --shard-size 2 would be" in message


def test_tokens_are_pooled_by_workers(tmp_path: Path, manifest: Path, run: Run) -> None:
    status, _, message = run(manifest, tmp_path / "features", "--pool", 2, "--view", "pooled")
    assert status == 1, message
    view = Store.open(tmp_path / "features").view("clips", "pooled")
    assert view.features["tokens"].shape == (32, 24)
    assert view.provenance.layer.endswith("; mean of 2 x 2 patches")
    status, _, message = run(manifest, tmp_path / "features", "--pool", 2, "--view", "pooled")
    assert "nothing to do" in message
    status, _, message = run(manifest, tmp_path / "features", "--pool", 3, "--view", "thirds")
    assert status == 2 and "--pool 3 does not divide 4 x 4 patches: give 2 or 4" in message
