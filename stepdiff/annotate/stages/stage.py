"""A stage over many items: in shards, on Ray, each item answered once.

Guarantees
- an answered item is never answered again, a failed one only with `--retry-failed`
- a killed run continues where it stopped, and ends with the same answers
- memory depends on the size of a block of the catalog, not on the number of items
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from stepdiff.annotate.stages.job import SHOWN, Job, StageOptions
from stepdiff.annotate.stages.versions import Version
from stepdiff.annotate.stages.worker import Answered, StageWorkerOptions, Task, Worker
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder
from stepdiff.common.io.locks import locked
from stepdiff.common.io.sealed import copied
from stepdiff.common.progress import progress, say
from stepdiff.common.workers.cluster import connected, refuse_relative
from stepdiff.common.workers.pool import WorkerPool, has_gpu, pool_size
from store import Store

SHARD = 256  # rows of a shard
CPUS = 8  # of a worker without a GPU, at most


class Items:
    """Items of a stage, shard by shard: memory for all of them is never needed."""

    def __init__(
        self,
        blocks: Callable[[], Iterable[pl.DataFrame]],
        complete: Callable[[int, pl.DataFrame], pl.DataFrame] = lambda shard, rows: rows,
    ) -> None:
        """Keep how the items are read.

        Args:
            blocks: returns the items by rising row, in blocks: `key`, `row` (its permanent place, which decides its
                shard) and more. It is called for every pass over them.
            complete: adds the fields that the job's model reads to the items of a shard that are to be answered.
        """
        self.blocks, self.complete = blocks, complete

    @classmethod
    def of(cls, items: "pl.DataFrame | Items") -> "Items":
        return items if isinstance(items, Items) else cls(lambda: [items.sort("row")])

    def shards(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the number and the items of every shard, in order."""
        left: pl.DataFrame | None = None
        for block in self.blocks():
            if left is not None:
                block = pl.concat([left, block])
            shards = [rows for _, rows in block.group_by(pl.col("row") // SHARD, maintain_order=True)]
            yield from ((int(rows["row"][0]) // SHARD, rows) for rows in shards[:-1])
            left = copied(shards[-1]) if shards else None
        if left is not None:
            yield int(left["row"][0]) // SHARD, left


@dataclass
class _Sums:
    """Sums over the shards of a run."""

    done: int = 0
    working: float = 0.0
    busy: float = 0.0
    errors: list[str] = field(default_factory=list)

    def add(self, outcome: Answered) -> None:
        self.done += outcome.done
        self.working += outcome.seconds
        self.busy += outcome.busy
        if outcome.error and outcome.error not in self.errors:
            self.errors.append(outcome.error)


def run_stage(options: StageOptions, name: str, job: Job, items: pl.DataFrame | Items) -> dict[str, Any]:
    """Answer the items of stage `name` that have no answer yet; returns what `stepdiff.annotate.stages.job.show`
    prints.

    items: a table is as `Items` describes a block, with the fields that the job's model reads.
    StepDiffError: another run writes the version, no cluster answers, or the store is a snapshot.
    """
    store = Store.open(options.store)
    if store.at is not None:
        raise StepDiffError(f"snapshot {store.at} of {store.path} is not annotated: give the store without @{store.at}")
    if not store.path.remote:
        refuse_relative([("--store", options.store)])
    version, items = Version(Store.open(absolute(options.store)), name, job.provenance()), Items.of(items)
    make_folder(version.folder)
    begin = time.monotonic()
    with locked(version.folder / "lock.json", wait=False):
        version.create()
        shards = [rows.height for _, rows in unanswered(version, items, options.retry_failed)]
        sums = _Sums()
        tasks = pending(version, items, options.retry_failed)
        for outcome in _work(options, version, job, tasks, len(shards), sum(shards)) if shards else ():
            sums.add(outcome)
        return _record(options, version, items, sums, time.monotonic() - begin)


def unanswered(version: Version, items: Items, retry_failed: bool) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the number and the unanswered items of every shard that has some, in order."""
    for number, rows in items.shards():
        rows = rows.join(version.shard(number), on="key", how="anti", maintain_order="left")
        if not retry_failed:
            rows = rows.join(version.shard_failures(number), on="key", how="anti", maintain_order="left")
        if rows.height:
            yield number, rows


def pending(version: Version, items: pl.DataFrame | Items, retry_failed: bool) -> Iterator[Task]:
    """Yield the tasks of the shards with unanswered items, in order."""
    items = Items.of(items)
    for number, rows in unanswered(version, items, retry_failed):
        yield Task(number, tuple(items.complete(number, rows).drop("row").to_dicts()))


def _work(
    options: StageOptions, version: Version, job: Job, tasks: Iterator[Task], count: int, total: int
) -> Iterator[Answered]:
    """Run all tasks on Ray; yield their outcomes. count, total: how many shards and items they have."""
    device = None if options.device == "auto" else options.device
    with connected(options.address, "stepdiff.annotate") as joined:
        gpu = not options.served and has_gpu(device, joined)
        workers, cpus = pool_size(options.workers, CPUS, gpu, joined)
        of_workers = StageWorkerOptions(absolute(options.store), version.stage, version.name, job, device, cpus)
        pool = WorkerPool(
            Worker, of_workers, gpu, lambda shard, why: Answered(shard, error=why), joined=joined, unit="items"
        )
        with progress(version.stage, total, "items") as advance:
            for outcome in pool.run(tasks, min(workers, count), advance):
                yield outcome
                if outcome.error:
                    say(f"error: {outcome.error}")


def _record(options: StageOptions, version: Version, items: Items, sums: _Sums, seconds: float) -> dict[str, Any]:
    asked = answered = failed = 0
    failures: list[dict[str, str]] = []
    for number, rows in items.shards():
        asked += rows.height
        answered += rows.join(version.shard(number), on="key", how="semi").height
        found = rows.select("key").join(version.shard_failures(number), on="key", maintain_order="left")
        failed += found.height
        failures += found.head(SHOWN - len(failures)).to_dicts()
    return {
        "stage": version.stage,
        "version": version.name,
        "folder": str(version.folder),
        "asked": asked,
        "done": sums.done,
        "already": answered - sums.done,
        "failed": failed,
        "absent": asked - answered - failed,
        "allowed": options.allow_failed,
        "seconds": round(seconds, 3),
        "working": round(sums.working, 3),
        "busy": round(sums.busy / sums.working, 4) if sums.working else None,
        "errors": sums.errors,
        "failures": failures,
    }


def absolute(store: str) -> str:
    """Return the absolute path or URL of a store, with its `@NAME`, for workers in another working folder."""
    found = Store.open(store)
    return Store.open(found.path.expanduser().absolute(), at=found.at).location


def clip_blocks(store: Store, split: str | None, columns: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """Yield `key`, `row` and `columns` of the clips of a split (None: all), in the store's order and in blocks.

    StepDiffError: no such column, or no clips.
    """
    there = store.catalog("clips").schema()
    wanted = [*columns, *(["split"] if split is not None else [])]
    if missing := [name for name in wanted if name not in there]:
        raise StepDiffError(f"{store.path}: no column {missing[0]!r} in its catalog; featurize a manifest that has it")
    dtypes = {name: there[name] for name in ("key", *wanted, *(["step"] if "step" in there else []))}
    empty = True
    for block in store.catalog("clips").blocks(pl.DataFrame(schema=dtypes)):
        if "step" in there:
            block = block.filter(pl.col("step").is_not_null())
        if split is not None:
            block = block.filter(pl.col("split") == split)
        empty = empty and block.is_empty()
        yield block.select("key", "row", *columns)
    if empty:
        raise StepDiffError(f"{store.path}: no clips{f' of split {split!r}' if split else ''}; featurize some")
