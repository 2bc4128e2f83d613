"""A stage over many items: in shards, on Ray, each answered once.

Guarantees
- an item that stands answered is never answered again, a failed one only with `--retry-failed`
- killed and run again, it goes on where it stood, and ends with the same answers
- another model, prompt, sampling or input is another version, and no folder mixes two
- what fails is recorded with its reason; where the fault is not the item's, the next run tries again
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from annotate.stages.job import Job
from annotate.stages.versions import Version
from annotate.stages.worker import Answered, Equipment, Task, Worker
from common.io.files import make_folder
from common.io.locks import locked
from common.progress import progress, say
from common.workers.cluster import connected, refuse_relative
from common.workers.pool import WorkerPool, has_gpu, pool_size
from store import Store

SHARD = 256
"""rows of a shard"""
CPUS = 8
"""of a worker without a GPU, at most"""
_SHOWN = 5  # reasons that a record gives


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What every stage is told."""

    store: str
    """feature store; answers are written beside its features"""
    retry_failed: bool = False
    """try those again that failed in an earlier run"""
    allow_failed: bool = False
    """end with status 0 though items failed for good, as scripts want that go on with the others"""
    workers: int | None = None
    """processes that each load the model; null: one a GPU, else one for up to eight CPUs"""
    device: str = "auto"
    """where the model computes: auto, cpu, cuda"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; null: RAY_ADDRESS, else Ray is started here"""

    @property
    def served(self) -> bool:
        """Whether the model computes at a server, so that no worker needs a GPU."""
        return False


def run_stage(options: StageOptions, name: str, job: Job, items: pl.DataFrame) -> dict[str, Any]:
    """Answer what is missing of `items`; returns what became of them.

    items: `key`, `row` (its place for good, which decides its shard) and the fields that the job's work reads.
    Raises StepDiffError: the version is being written by another run, or no cluster.
    """
    if not Store.open(options.store).path.remote:
        refuse_relative([("--store", options.store)])
    store = Store.open(absolute(options.store))
    version = Version(store, name, job.provenance())
    make_folder(version.folder)
    begin = time.monotonic()
    outcomes: list[Answered] = []
    with locked(version.folder / "lock.json", wait=False):
        version.create()
        tasks = pending(version, items, options.retry_failed)
        if tasks:
            outcomes = _work(options, version, job, tasks)
        seconds = time.monotonic() - begin
        return _record(options, version, items, outcomes, seconds)


def pending(version: Version, items: pl.DataFrame, retry_failed: bool) -> list[Task]:
    """The shards in which items are to do, in order."""
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
    """All tasks, by workers on Ray."""
    total = sum(len(task.rows) for task in tasks)
    device = None if options.device == "auto" else options.device
    outcomes = []
    with connected(options.address) as joined:
        gpu = not options.served and has_gpu(device, joined)
        count, cpus = pool_size(options.workers, CPUS, gpu, joined)
        equipment = Equipment(absolute(options.store), version.stage, version.name, job, device, cpus)
        pool = WorkerPool(Worker, equipment, gpu, lambda shard, why: Answered(shard, error=why))
        with progress(version.stage, total, "items") as advance:
            for outcome in pool.run(tasks, min(count, len(tasks)), advance):
                outcomes.append(outcome)
                if outcome.error:
                    say(f"error: {outcome.error}")
    return outcomes


def _record(
    options: StageOptions, version: Version, items: pl.DataFrame, outcomes: Sequence[Answered], seconds: float
) -> dict[str, Any]:
    """What became of the items, as JSON would hold it."""
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
        "failures": failed.head(_SHOWN).to_dicts(),
    }


def show(record: dict[str, Any]) -> None:
    """A stage's record for people."""
    print("{stage} {version}: {done} of {asked} done in {seconds:.0f} s, {already} there already".format(**record))
    if record["busy"] is not None:
        print(f"the model was busy {record['busy']:.1%} of the workers' {record['working']:.0f} s")
    for failure in record["failures"]:
        print("  failed: {key}: {reason}".format(**failure))
    if record["failed"] > _SHOWN:
        print(f"  ... and {record['failed'] - _SHOWN} more, in {record['folder']}/failures")
    if record["failed"]:
        print(f"{record['failed']} failed; once mended, run it again with --retry-failed")
    if record["absent"]:
        print(f"{record['absent']} are not done: run the same command again")
    print(f"texts: {record['folder']}")


def absolute(store: str) -> str:
    """Where the store lies, for workers that start elsewhere."""
    return str(Store.open(store).path.expanduser().absolute())
