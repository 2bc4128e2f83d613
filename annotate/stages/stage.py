"""A stage over many items: in shards, on Ray, each item answered once.

Guarantees
- an answered item is never answered again, a failed one only with `--retry-failed`
- a killed run continues where it stopped, and ends with the same answers
- another model, prompt, sampling or input is another version, and no folder mixes two
- failures are recorded with their reason; where the item is not to blame, the next run tries again
- only clips that show a step are annotated, if the catalog has steps: stills of captioned images are left out
"""

import time
from collections.abc import Sequence
from typing import Any

import polars as pl

from annotate.stages.job import SHOWN, Job, StageOptions
from annotate.stages.versions import Version
from annotate.stages.worker import Answered, StageWorkerOptions, Task, Worker
from common.errors import StepDiffError
from common.io.files import make_folder
from common.io.locks import locked
from common.progress import progress, say
from common.workers.cluster import connected, refuse_relative
from common.workers.pool import WorkerPool, has_gpu, pool_size
from store import Store

SHARD = 256  # rows of a shard
CPUS = 8  # of a worker without a GPU, at most


def run_stage(options: StageOptions, name: str, job: Job, items: pl.DataFrame) -> dict[str, Any]:
    """Answer the items of stage `name` that have no answer yet; returns what `annotate.stages.job.show` prints.

    items: `key`, `row` (its permanent place, which decides its shard) and the fields that the job's model reads.
    StepDiffError: another run writes the version, or no cluster answers.
    """
    if not Store.open(options.store).path.remote:
        refuse_relative([("--store", options.store)])
    version = Version(Store.open(absolute(options.store)), name, job.provenance())
    make_folder(version.folder)
    begin = time.monotonic()
    with locked(version.folder / "lock.json", wait=False):
        version.create()
        tasks = pending(version, items, options.retry_failed)
        outcomes = _work(options, version, job, tasks) if tasks else []
        return _record(options, version, items, outcomes, time.monotonic() - begin)


def pending(version: Version, items: pl.DataFrame, retry_failed: bool) -> list[Task]:
    """Return the tasks of the shards with unanswered items, in order."""
    tasks = []
    for (shard,), rows in items.sort("row").group_by(pl.col("row") // SHARD, maintain_order=True):
        number = int(shard)  # type: ignore[call-overload]
        rows = rows.join(version.shard(number), on="key", how="anti", maintain_order="left")
        if not retry_failed:
            rows = rows.join(version.shard_failures(number), on="key", how="anti", maintain_order="left")
        if rows.height:
            tasks.append(Task(number, tuple(rows.drop("row").to_dicts())))
    return tasks


def _work(options: StageOptions, version: Version, job: Job, tasks: Sequence[Task]) -> list[Answered]:
    """Run all tasks on Ray."""
    total = sum(len(task.rows) for task in tasks)
    device = None if options.device == "auto" else options.device
    outcomes = []
    with connected(options.address, "annotate") as joined:
        gpu = not options.served and has_gpu(device, joined)
        count, cpus = pool_size(options.workers, CPUS, gpu, joined)
        of_workers = StageWorkerOptions(absolute(options.store), version.stage, version.name, job, device, cpus)
        pool = WorkerPool(Worker, of_workers, gpu, lambda shard, why: Answered(shard, error=why))
        with progress(version.stage, total, "items") as advance:
            for outcome in pool.run(tasks, min(count, len(tasks)), advance):
                outcomes.append(outcome)
                if outcome.error:
                    say(f"error: {outcome.error}")
    return outcomes


def _record(
    options: StageOptions, version: Version, items: pl.DataFrame, outcomes: Sequence[Answered], seconds: float
) -> dict[str, Any]:
    failed = items.select("key").join(version.failures(), on="key")
    answered = items.select("key").join(version.keys(), on="key", how="semi").height
    done = sum(outcome.done for outcome in outcomes)
    working = sum(outcome.seconds for outcome in outcomes)
    return {
        "stage": version.stage,
        "version": version.name,
        "folder": str(version.folder),
        "asked": items.height,
        "done": done,
        "already": answered - done,
        "failed": failed.height,
        "absent": items.height - answered - failed.height,
        "allowed": options.allow_failed,
        "seconds": round(seconds, 3),
        "working": round(working, 3),
        "busy": round(sum(outcome.busy for outcome in outcomes) / working, 4) if working else None,
        "errors": list(dict.fromkeys(outcome.error for outcome in outcomes if outcome.error)),
        "failures": failed.head(SHOWN).to_dicts(),
    }


def absolute(store: str) -> str:
    """Return the absolute path or URL of a store, for workers in another working folder."""
    return str(Store.open(store).path.expanduser().absolute())


def clip_items(store: Store, split: str | None, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return `key`, `row` and `columns` of the clips of a split (None: all), in the store's order."""
    rows = store.catalog("clips").frame()
    wanted = [*columns, *(["split"] if split is not None else [])]
    if missing := [name for name in wanted if name not in rows.columns]:
        raise StepDiffError(f"{store.path}: no column {missing[0]!r} in its catalog; featurize a manifest that has it")
    if "step" in rows.columns:
        rows = rows.filter(pl.col("step").is_not_null())
    if split is not None:
        rows = rows.filter(pl.col("split") == split)
    if rows.is_empty():
        raise StepDiffError(f"{store.path}: no clips{f' of split {split!r}' if split else ''}; featurize some")
    return rows.select("key", "row", *columns)
