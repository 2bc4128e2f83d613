"""A stage over many items: in shards, on workers that load the model once, each item answered once.

Guarantees
- an answered item is never answered again, a failed one only with `--retry-failed`
- a killed run continues, and ends with the same answers; a worker loses the answers of its last ten
  seconds
- memory depends on the size of a block of the catalog, not on the number of items

Answers that were made in the same way are one version:

STORE/annotations/STAGE/VERSION/
    provenance.json            its provenance; VERSION is the beginning of its sha256
    <shard>.parquet            key, kind, text, provenance, as heads.data.clips reads them
    failures/<shard>.parquet   key, reason
    lock.json                  held by the run that writes
"""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import polars as pl

from heads.llm.model import Unanswered
from stepdiff.annotate.stages.job import (
    SHOWN,
    Annotator,
    Answer,
    StageJob,
    StageOptions,
    WorkOptions,
    plain,
)
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import Place, listed, make_folder, write_bytes
from stepdiff_core.io.locks import locked
from stepdiff_core.io.sealed import BLANK, copied
from stepdiff_core.progress import progress, say
from stepdiff_core.threads import regularly
from stepdiff_core.workers.cluster import connected, refuse_relative
from stepdiff_core.workers.pool import Here, WorkerPool, WorkPart, has_gpu, is_alone, pool_size
from store import Store
from store.format.layout import read_json, write_json
from store.io.records import REASONS

_COMMIT_EVERY = 10.0  # seconds
SCHEMA = dict.fromkeys(("key", "kind", "text", "provenance"), pl.String)
_DIGITS = 16


class Version:
    """One version of a stage, which may not exist yet."""

    def __init__(self, store: Store, stage: str, provenance: Mapping[str, Any]) -> None:
        self.stage, self.provenance = stage, dict(provenance)
        self.line = json.dumps(self.provenance, sort_keys=True, ensure_ascii=False)
        """the provenance as the rows carry it"""
        self.name = hashlib.sha256(self.line.encode()).hexdigest()[:_DIGITS]
        self.folder: Place = store.path / "annotations" / stage / self.name

    def create(self) -> None:
        if not (self.folder / "provenance.json").exists():
            write_json(
                self.folder / "provenance.json", {"provenance": self.provenance, "seal": BLANK}
            )

    def shard(self, number: int) -> pl.DataFrame:
        """Return the rows of a shard: key, kind, text, provenance."""
        return _read(self.folder / _name(number), SCHEMA)

    def shard_failures(self, number: int) -> pl.DataFrame:
        """Return key and reason of the failures in a shard that were not answered later."""
        failed = _read(self.folder / "failures" / _name(number), REASONS)
        return failed.join(self.shard(number), on="key", how="anti")

    def write(self, number: int, rows: pl.DataFrame, failed: pl.DataFrame) -> None:
        for folder, frame in ((self.folder, rows), (self.folder / "failures", failed)):
            path = folder / _name(number)
            if frame.height or path.exists():
                write_bytes(path, table.encode(frame))

    def shard_texts(self, number: int, kind: str) -> dict[str, str]:
        """Return key and text of the answers of one kind in a shard."""
        return dict(self.shard(number).filter(kind=kind).select("key", "text").iter_rows())

    def texts(self, kind: str) -> dict[str, str]:
        """Return key and text of all answers of one kind."""
        shards = map(table.read, listed(self.folder, "*.parquet"))
        rows = pl.concat([pl.DataFrame(schema=SCHEMA), *shards]).filter(kind=kind)
        return dict(rows.select("key", "text").iter_rows())


def versions(store: Store, stage: str) -> list[Version]:
    """Return the existing versions of a stage. StepDiffError: the provenance of one is damaged."""
    existing = []
    for path in listed(store.path / "annotations" / stage, "*/provenance.json"):
        try:
            if not isinstance(provenance := read_json(path)["provenance"], dict):
                raise TypeError(f"{type(provenance).__name__}, not an object")
            version = Version(store, stage, provenance)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise StepDiffError(
                f"{path}: holds no provenance ({error!r}); restore it, or remove its folder"
            ) from None
        if path.parent.name != version.name:
            raise StepDiffError(
                f"{path}: is that of version {version.name}; restore it, or remove its folder"
            )
        existing.append(version)
    return existing


def chosen(store: Store, stage: str, name: str | None) -> Version:
    """Return the version whose name begins with `name`, or the only one. StepDiffError: none or
    several match."""
    existing = versions(store, stage)
    matching = [version for version in existing if version.name.startswith(name or "")]
    if len(matching) == 1:
        return matching[0]
    if not existing:
        raise StepDiffError(
            f"{store.path}: no {stage} in it yet; run stepdiff annotate {stage.partition('-')[0]}"
        )
    raise StepDiffError(
        f"{store.path}: {len(matching)} versions of "
        f"{stage}{f' begin with {name!r}' if name else ''}; name one of "
        f"{', '.join(version.name for version in existing)} (their provenance.json says what made "
        "them)"
    )


def _name(number: int) -> str:
    return f"{number:06d}.parquet"


def _read(path: Place, schema: Mapping[str, Any]) -> pl.DataFrame:
    return table.read(path) if path.exists() else pl.DataFrame(schema=schema)


@dataclass(frozen=True)
class StageWorkerOptions:
    store: str  # folder or URL
    stage: str
    version: str  # name of the version that is written
    job: StageJob
    device: str | None  # None is a GPU if the worker has one
    cpus: int  # threads of the model


@dataclass(frozen=True)
class Answered:
    shard: int
    error: str | None = None  # why items were not answered
    done: int = 0  # items answered


class StageWorker:
    """Answers one shard after another, as a Ray actor or in this process; a second thread may call
    `finished`."""

    outcome = Answered

    def __init__(self, options: StageWorkerOptions) -> None:
        self._options, self._finished = options, 0

    def run(self, task: WorkPart) -> Answered:
        """Answer a shard, or the rest of a dead worker's shard, and commit the answers even if the
        model fails."""
        try:
            return self._answer(task, self._annotator)
        finally:
            self._finished = 0

    def finished(self) -> int:
        return self._finished

    def _answer(self, task: WorkPart, annotator: Annotator) -> Answered:
        shard = _ShardAnswers(self._version, task.shard)
        # by a worker that died
        rows = [row for row in task.rows if row["key"] not in shard.answered]
        self._finished = len(task.rows) - len(rows)
        error = None
        try:
            with regularly(shard.save, _COMMIT_EVERY, "save"):
                for key, answer in annotator.annotate(rows):
                    shard.add(key, answer)
                    self._finished += 1
        except StepDiffError as problem:
            error = str(problem)
        finally:  # after any other error too, such as a GPU without memory
            shard.commit()
        return Answered(task.shard, error=error or shard.passing, done=shard.done)

    @cached_property
    def _version(self) -> Version:
        options = self._options
        version = Version(Store.open(options.store), options.stage, options.job.provenance())
        if version.name != options.version:
            why = (
                f"the model's files on host {socket.gethostname()} are not those that the run "
                "began with"
            )
            raise StepDiffError(f"{options.stage}: {why}; make them the same")
        return version

    @cached_property
    def _annotator(self) -> Annotator:
        import torch

        options = self._options
        torch.set_num_threads(options.cpus)
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return options.job.load(device, options.cpus)


class _ShardAnswers:
    def __init__(self, version: Version, number: int) -> None:
        self._version, self._number = version, number
        self._rows = [version.shard(number)]
        self.answered = set(self._rows[0]["key"])
        self._failed = {
            row["key"]: row["reason"]
            for row in version.shard_failures(number).iter_rows(named=True)
        }
        self.done = 0
        self.passing: str | None = None  # why items were not answered that the next run tries again
        self._lock = threading.Lock()
        self._changed = False  # since the last commit

    def add(self, key: str, answer: Answer) -> None:
        if isinstance(answer, Unanswered) and answer.passing:
            self.passing = self.passing or plain(answer.reason)
            return
        with self._lock:
            self._changed = True
            if isinstance(answer, Unanswered):
                self._failed[key] = plain(answer.reason)
                return
            self.done += 1
            self._failed.pop(key, None)
            rows = [(key, kind, plain(text), self._version.line) for kind, text in answer.items()]
            self._rows.append(pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    def commit(self) -> None:
        with self._lock:
            if not self._changed:
                return
            self._rows = [pl.concat(self._rows)]
            failed = pl.DataFrame(list(self._failed.items()), schema=REASONS, orient="row")
            self._version.write(self._number, self._rows[0], failed)
            self._changed = False

    def save(self) -> None:
        """Commit, however long a call of the model takes."""
        with suppress(StepDiffError):  # the commit at the end meets the error again, and raises it
            self.commit()


SHARD = 256  # rows of a shard
CPUS = 8  # of a worker without a GPU, at most


@dataclass(frozen=True)
class Items:
    """Items of a stage, shard by shard: memory for all of them is never needed."""

    blocks: Callable[[], Iterable[pl.DataFrame]]
    """returns the items by rising row, in blocks: `key`, `row` (its permanent place, which decides
    its shard) and more; called for every pass over them"""
    complete: Callable[[int, pl.DataFrame], pl.DataFrame] = lambda shard, rows: rows
    """adds the fields that the job's model reads to the items of a shard that are to be answered"""

    def shards(self) -> Iterator[tuple[int, pl.DataFrame]]:
        rest: pl.DataFrame | None = None
        for block in self.blocks():
            if rest is not None:
                block = pl.concat([rest, block])
            shards = [
                rows for _, rows in block.group_by(pl.col("row") // SHARD, maintain_order=True)
            ]
            yield from ((int(rows["row"][0]) // SHARD, rows) for rows in shards[:-1])
            rest = copied(shards[-1]) if shards else None
        if rest is not None:
            yield int(rest["row"][0]) // SHARD, rest


def run_stage(options: StageOptions, name: str, job: StageJob, items: Items) -> dict[str, Any]:
    """Answer the items of stage `name` that have no answer yet; return the record that `show`
    prints.

    StepDiffError: another run writes the version, no cluster answers, or the store is a snapshot.
    """
    store = Store.open(options.store)
    if store.at is not None:
        raise StepDiffError(
            f"snapshot {store.at} of {store.path} is not annotated: give the store without "
            f"@{store.at}"
        )
    if not store.path.remote:
        refuse_relative([("--store", options.store)])
    version = Version(Store.open(absolute(options.store)), name, job.provenance())
    make_folder(version.folder)
    begin = time.monotonic()
    done = 0
    errors: dict[str, None] = {}
    with locked(version.folder / "lock.json", wait=False):
        version.create()
        shards = [rows.height for _, rows in unanswered(version, items, options.retry_failed)]
        tasks = pending(version, items, options.retry_failed)
        if shards:
            of_worker = partial(
                StageWorkerOptions,
                absolute(options.store),
                version.stage,
                version.name,
                job,
                asked_device(options),
            )
            with (
                workers_of(options, StageWorker, of_worker) as (pool, workers),
                progress(name, sum(shards), "items") as advance,
            ):
                for outcome in pool.run(tasks, min(workers, len(shards)), advance):
                    done += outcome.done
                    if outcome.error:
                        say(f"error: {outcome.error}")
                        errors[outcome.error] = None
        return {
            "stage": name,
            "version": version.name,
            "folder": str(version.folder),
            **_counts(version, items, done),
            "allowed": options.allow_failed,
            "seconds": round(time.monotonic() - begin, 3),
            "errors": list(errors),
        }


def unanswered(
    version: Version, items: Items, retry_failed: bool
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the number and the unanswered items of every shard that has some, in order."""
    for number, rows in items.shards():
        rows = rows.join(version.shard(number), on="key", how="anti", maintain_order="left")
        if not retry_failed:
            rows = rows.join(
                version.shard_failures(number), on="key", how="anti", maintain_order="left"
            )
        if rows.height:
            yield number, rows


def pending(version: Version, items: Items, retry_failed: bool) -> Iterator[WorkPart]:
    """Yield the tasks of the shards with unanswered items, in order."""
    for number, rows in unanswered(version, items, retry_failed):
        yield WorkPart(number, tuple(items.complete(number, rows).drop("row").to_dicts()))


@contextmanager
def workers_of(
    options: WorkOptions, worker: Any, of_worker: Callable[[int], Any], unit: str = "items"
) -> Iterator[tuple[WorkerPool | Here, int]]:
    """Yield the workers of a stage, on Ray if there are several, and their number.

    of_worker: returns the options of a worker with a number of CPUs.
    """
    if is_alone(options.workers, CPUS, options.address):
        import torch

        yield Here(worker, of_worker(min(torch.get_num_threads(), CPUS))), 1
        return
    with connected(options.address, "stepdiff.annotate") as joined:
        gpu = not options.served and has_gpu(asked_device(options), joined)
        workers, cpus = pool_size(options.workers, CPUS, gpu, joined)
        yield WorkerPool(worker, of_worker(cpus), gpu, joined=joined, unit=unit), workers


def asked_device(options: WorkOptions) -> str | None:
    """Return the device that is asked for; None is a GPU if the worker has one."""
    return None if options.device == "auto" else options.device


def _counts(version: Version, items: Items, done: int) -> dict[str, Any]:
    """Count the items that have an answer, a failure or neither; `done` is the number that this run
    answered."""
    total = answered = failed = 0
    failures: list[dict[str, str]] = []
    for number, rows in items.shards():
        total += rows.height
        answered += rows.join(version.shard(number), on="key", how="semi").height
        shard_failures = rows.select("key").join(
            version.shard_failures(number), on="key", maintain_order="left"
        )
        failed += shard_failures.height
        failures += shard_failures.head(SHOWN - len(failures)).to_dicts()
    absent = total - answered - failed
    counts = {
        "asked": total,
        "done": done,
        "already": answered - done,
        "failed": failed,
        "absent": absent,
    }
    return {**counts, "failures": failures}


def absolute(store: str) -> str:
    """Return the absolute path or URL of a store, with its `@NAME`, for workers in another working
    folder."""
    opened = Store.open(store)
    return Store.open(opened.path.expanduser().absolute(), at=opened.at).location


def clip_blocks(
    store: Store, split: str | None, columns: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """Yield `key`, `row` and `columns` of the clips of a split (None: all), in the store's order
    and in blocks.

    StepDiffError: no such column, or no clips.
    """
    schema = store.catalog("clips").schema()
    needed = [*columns, *(["split"] if split is not None else [])]
    if missing := [name for name in needed if name not in schema]:
        raise StepDiffError(
            f"{store.path}: no column {missing[0]!r} in its catalog; featurize a manifest that has "
            "it"
        )
    dtypes = {
        name: schema[name] for name in ("key", *needed, *(["step"] if "step" in schema else []))
    }
    empty = True
    for block in store.catalog("clips").blocks(pl.DataFrame(schema=dtypes)):
        if "step" in schema:
            block = block.filter(pl.col("step").is_not_null())
        if split is not None:
            block = block.filter(pl.col("split") == split)
        empty = empty and block.is_empty()
        yield block.select("key", "row", *columns)
    if empty:
        raise StepDiffError(
            f"{store.path}: no clips{f' of split {split!r}' if split else ''}; featurize some"
        )
