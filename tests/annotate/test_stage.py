"""Guarantees of annotate.stages.stage, annotate.stages.worker and annotate.stages.versions."""

import json
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate.describe import DescribeOptions
from annotate.stages import stage, worker
from annotate.stages.job import StageOptions, plain
from annotate.stages.stage import Items, pending, run_stage
from annotate.stages.versions import Version, chosen, versions
from annotate.stages.worker import Answered, StageWorkerOptions, Worker
from common.errors import StepDiffError
from common.io.locks import locked
from common.io.sealed import BLANK
from heads.data.clip_texts import ClipTexts
from store import Store
from store.format.layout import write_json

sys.path.insert(0, str(Path(__file__).parent))  # a worker process imports the jobs from here
from stage_jobs import Shout  # noqa: E402


def items(words: list[str | None], first: int = 0) -> pl.DataFrame:
    rows = range(first, first + len(words))
    return pl.DataFrame({"key": [f"v_{row}_1" for row in rows], "row": rows, "narration": words})


@pytest.fixture
def job(tmp_path: Path) -> Shout:
    return Shout(str(tmp_path / "log"))


def lines(job: Shout) -> list[str]:
    return Path(job.log).read_text().split() if Path(job.log).exists() else []


def work(store: Store, job: Shout, asked: pl.DataFrame, retry_failed: bool = False) -> list[Answered]:
    """Run a stage without Ray: one worker in this process."""
    version = Version(store, "shout", job.provenance())
    version.create()
    shouting = Worker(StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1))
    return [shouting.run(task) for task in pending(version, asked, retry_failed)]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SHARD", 4)


def test_heads_reads_the_answers_as_texts(store: Store, job: Shout, small_shards: None) -> None:
    asked = items([f"word {i}" for i in range(10)])
    outcomes = work(store, job, asked)
    assert [o.done for o in outcomes] == [4, 4, 2] and all(0 < o.busy <= o.seconds for o in outcomes)
    version = chosen(store, "shout", None)
    texts = ClipTexts(str(version.folder), "shout")
    assert dict(texts.items()) == {f"v_{i}_1": f"WORD {i}" for i in range(10)} == version.texts("shout")
    assert [json.loads(line) for line in texts.provenance] == [job.provenance()]
    assert len(list(version.folder.glob("*.parquet"))) == 3


def test_an_answered_item_is_never_answered_again(store: Store, job: Shout, small_shards: None) -> None:
    work(store, job, items(["a", "b", "c"]))
    assert work(store, job, items(["a", "b", "c"])) == []
    before = lines(job)
    work(store, job, items(["a", "b", "c", "d", "e", None]))  # shard 0 is complete, shard 1 started
    assert lines(job) == [*before, "v_3_1", "v_4_1", "v_5_1"]
    assert len(chosen(store, "shout", None).texts("shout")) == 5
    assert work(store, job, items(["a", "b", "c", "d", "e", None])) == []  # neither is a failed one
    Path(job.log).with_suffix(".repaired").touch()
    work(store, job, items(["a", "b", "c", "d", "e", None]), retry_failed=True)
    assert lines(job)[6:] == ["v_5_1"]


def test_a_failure_no_longer_counts_once_its_item_is_answered(store: Store, job: Shout) -> None:
    work(store, job, items(["a", None]))
    assert chosen(store, "shout", None).failures()["key"].to_list() == ["v_1_1"]
    Path(job.log).with_suffix(".repaired").touch()
    work(store, job, items(["a", None]), retry_failed=True)
    version = chosen(store, "shout", None)
    assert version.texts("shout")["v_1_1"] == "NONE" and version.failures().is_empty()


def test_the_model_is_loaded_once_per_worker(
    store: Store, job: Shout, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = Shout.load, []
    monkeypatch.setattr(Shout, "load", lambda *arguments: loaded.append(1) or load(*arguments))
    assert len(work(store, job, items(["a"] * 9))) == 3 and loaded == [1]


def test_failures_are_recorded_with_their_reason(store: Store, job: Shout) -> None:
    (outcome,) = work(store, job, items(["a", None, "busy", "b"]))
    version = chosen(store, "shout", None)
    assert version.failures().to_dicts() == [{"key": "v_1_1", "reason": "no narration: say something"}]
    assert outcome.done == 2 and outcome.error == "the server is busy"  # no failure is recorded
    Path(job.log).with_suffix(".repaired").touch()
    (outcome,) = work(store, job, items(["a", None, "busy", "b"]))  # retried without --retry-failed
    assert lines(job)[4:] == ["v_2_1"] and outcome.error is None


def test_answers_that_came_before_the_model_failed_are_kept(store: Store, job: Shout, small_shards: None) -> None:
    asked = items(["a", "b", "down", "c", "d"])
    assert [o.error for o in work(store, job, asked)] == ["the model went away", None]
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1", "v_4_1"}
    Path(job.log).with_suffix(".up").touch()
    assert [o.error for o in work(store, job, asked)] == [None]
    assert lines(job) == ["v_0_1", "v_1_1", "v_4_1", "v_2_1", "v_3_1"]  # each once


def test_another_provenance_is_another_folder(store: Store, job: Shout) -> None:
    other = Shout(job.log, "SHOUT")
    for each in (job, other):
        work(store, each, items(["a", "b"]))
    both = versions(store, "shout")
    assert len({version.name for version in both}) == 2
    for version in both:
        assert set(ClipTexts(str(version.folder), "shout").provenance) == {version.line}


def test_one_of_several_versions_is_only_used_if_it_is_named(store: Store, job: Shout) -> None:
    for each in (job, Shout(job.log, "SHOUT")):
        work(store, each, items(["a", "b"]))
    with pytest.raises(StepDiffError, match="2 versions of shout; name one of"):
        chosen(store, "shout", None)
    name = versions(store, "shout")[1].name
    assert chosen(store, "shout", name[:8]).name == name
    with pytest.raises(StepDiffError, match="0 versions of shout begin with 'xyz'"):
        chosen(store, "shout", "xyz")
    with pytest.raises(StepDiffError, match="no describe in it yet; run python -m annotate.describe"):
        chosen(store, "describe", None)


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        (None, "holds no provenance (KeyError"),
        ([["model", 1, 2]], "holds no provenance (TypeError"),
        ({"model": "\ud800"}, "holds no provenance (UnicodeEncodeError"),
        ({"model": "another"}, "is that of version"),
    ],
)
def test_a_provenance_json_of_another_form_or_in_another_folder_than_its_own_is_refused_in_one_line(
    store: Store, job: Shout, provenance: Any, message: str
) -> None:
    work(store, job, items(["a"]))
    path = chosen(store, "shout", None).folder / "provenance.json"
    write_json(path, {"seal": BLANK} | ({} if provenance is None else {"provenance": provenance}))
    with pytest.raises(StepDiffError) as refused:
        chosen(store, "shout", None)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_that_changed_since_the_start_of_the_run_are_refused(store: Store, job: Shout) -> None:
    version = Version(store, "shout", {"model": "another"})
    shouting = Worker(StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1))
    outcome = shouting.run(next(pending(version, items(["a"]), False)))
    assert outcome.error is not None and "not those that the run began with" in outcome.error
    assert not list(version.folder.glob("*.parquet"))


def test_a_damaged_shard_is_refused(store: Store, job: Shout) -> None:
    work(store, job, items(["a"]))
    version = chosen(store, "shout", None)
    path = version.folder / "000000.parquet"
    assert isinstance(path, Path)
    path.write_bytes(path.read_bytes().replace(b"shout", b"snout"))
    with pytest.raises(StepDiffError, match="is not as it was written"):
        work(store, job, items(["a", "b"]))


def test_stored_answers_are_valid_unicode() -> None:
    assert plain(" half \ud83d of a pair\0 ") == "half ? of a pair"
    assert plain("Crème brûlée 🍮") == "Crème brûlée 🍮"


def _write(folder: str, log: str) -> None:
    worker._COMMIT_EVERY = 0.05
    work(Store.open(folder), Shout(log), items(["a", "b", "die", "c"]))


def test_a_killed_run_continues_where_it_stopped(store: Store, job: Shout) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_write, args=(str(store.path), job.log))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1"}
    work(store, job, items(["a", "b", "die", "c"]))
    assert lines(job) == ["v_0_1", "v_1_1", "v_2_1", "v_3_1"]


def test_the_worker_that_takes_over_the_shard_of_a_dead_one_answers_the_rest(store: Store, job: Shout) -> None:
    version = Version(store, "shout", job.provenance())
    version.create()
    (task,) = pending(version, items(["a", "b", "c"]), False)
    work(store, job, items(["a", "b"]))  # saved by the dead worker for the same task
    outcome = Worker(StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1)).run(task)
    assert outcome.done == 1 and lines(job) == ["v_0_1", "v_1_1", "v_2_1"]
    keys = version.shard(0).filter(kind="shout")["key"].to_list()
    assert keys == ["v_0_1", "v_1_1", "v_2_1"]


def test_an_unexpected_error_loses_no_answer(store: Store, job: Shout) -> None:
    with pytest.raises(MemoryError):
        work(store, job, items(["a", "b", "unforeseen", "c"]))
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1"}


def options(store: Store, **more: Any) -> StageOptions:
    return StageOptions(store=str(store.path), **more)


def test_a_run_on_ray_replaces_a_worker_that_dies(
    store: Store, job: Shout, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = items(["a", "b", "c", "d", "die", "e", None, "f"])
    record = run_stage(options(store, workers=1), "shout", job, asked)
    assert (record["done"], record["failed"], record["absent"], record["errors"]) == (7, 1, 0, [])
    assert record["failures"] == [{"key": "v_6_1", "reason": "no narration: say something"}]
    assert 0 < record["busy"] <= 1
    texts = chosen(store, "shout", None).texts("shout")
    assert texts == {f"v_{i}_1": w.upper() for i, w in enumerate("a b c d die e - f".split()) if i != 6}
    again = run_stage(options(store), "shout", job, asked)  # nothing to do: Ray is not started
    assert again["already"] == 7 and again["done"] == 0 and again["seconds"] < 2


def test_two_runs_cannot_write_one_version_at_the_same_time(store: Store, job: Shout) -> None:
    version = Version(store, "shout", job.provenance())
    assert isinstance(version.folder, Path)
    version.folder.mkdir(parents=True)
    with locked(version.folder / "lock.json", wait=False):
        with pytest.raises(StepDiffError, match="is being written by process"):
            run_stage(options(store), "shout", job, items(["a"]))


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:1/v1"])
def test_a_stage_with_a_served_model_requests_no_gpu(
    store: Store, job: Shout, monkeypatch: pytest.MonkeyPatch, endpoint: str | None
) -> None:
    """On a cluster whose GPUs are used by the server, a worker that requests one would never start."""
    taken: list[bool] = []

    def pool(worker: type, options: StageWorkerOptions, gpu: bool, failed: object, **more: object) -> None:
        taken.append(gpu)
        raise StepDiffError("enough")

    monkeypatch.setattr(stage, "connected", lambda *_: nullcontext(True))
    monkeypatch.setattr(stage, "has_gpu", lambda *_: True)
    monkeypatch.setattr(stage, "pool_size", lambda *_: (1, 1))
    monkeypatch.setattr(stage, "WorkerPool", pool)
    with pytest.raises(StepDiffError, match="enough"):
        run_stage(DescribeOptions(store=str(store.path), endpoint=endpoint), "shout", job, items(["a"]))
    assert taken == [endpoint is None]


def test_items_are_read_shard_by_shard(store: Store, job: Shout, small_shards: None) -> None:
    asked = items([f"word {i}" for i in range(11)], first=2)
    read: list[int] = []

    def blocks(size: int) -> Iterator[pl.DataFrame]:
        for block in asked.iter_slices(size):
            read.append(block.height)
            yield block

    for size in (1, 3, 4, 20):
        shards = list(Items(lambda size=size: blocks(size)).shards())
        assert [number for number, _ in shards] == [0, 1, 2, 3] and pl.concat(rows for _, rows in shards).equals(asked)
    read.clear()
    version = Version(store, "shout", job.provenance())
    tasks = pending(version, Items(lambda: blocks(2), lambda shard, rows: rows.with_columns(shard=shard)), False)
    task = next(tasks)
    assert (task.shard, [row["shard"] for row in task.rows]) == (0, [0, 0]) and read == [2, 2]
    assert [len(task.rows) for task in tasks] == [4, 4, 1]
    assert list(Items(lambda: [asked.clear()]).shards()) == list(Items(lambda: []).shards()) == []


def test_a_snapshot_is_not_annotated(store: Store, job: Shout) -> None:
    store.tag("v1")
    given = StageOptions(store=f"{store.path}@v1")
    with pytest.raises(StepDiffError, match="snapshot v1 of .* is not annotated: give the store without @v1"):
        run_stage(given, "shout", job, items(["a"]))
    assert not (store.path / "annotations").exists()


def test_the_absolute_path_of_a_store_keeps_its_snapshot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.tag("v1")
    monkeypatch.chdir(tmp_path)
    name = store.path.name
    assert stage.absolute(f"{name}@v1") == f"{tmp_path / name}@v1" and stage.absolute(name) == str(tmp_path / name)
