"""A worker process of a stage, a Ray actor: one model, one shard after another.

Guarantees
- the model is loaded once per worker
- the worker that takes over the shard of a dead one answers the rest: the answers of its last ten seconds are lost
- answers that came before the model failed are kept
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from stepdiff.annotate.stages.job import Annotator, Answer, Failure, Item, Job, plain
from stepdiff.annotate.stages.versions import SCHEMA, Version
from stepdiff.common.errors import StepDiffError
from store import Store
from store.io.status import REASONS

_COMMIT_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class StageWorkerOptions:
    """The options of the workers of a stage."""

    store: str  # folder or URL
    stage: str
    version: str  # name of the version that is written
    job: Job
    device: str | None  # None is a GPU if the worker has one
    cpus: int  # threads of the model


@dataclass(frozen=True)
class Task:
    """The items to answer in a shard."""

    shard: int
    rows: tuple[Item, ...]
    failures: tuple[str, ...] = field(default=(), init=False)  # unknown before the work


@dataclass(frozen=True)
class Answered:
    """The outcome of a shard."""

    shard: int
    error: str | None = None  # why items were not answered
    done: int = 0  # items answered
    busy: float = 0.0  # seconds that the model worked
    seconds: float = 0.0  # seconds that the shard took


class Worker:
    """Answers shards; a second thread may call `finished`."""

    def __init__(self, options: StageWorkerOptions) -> None:
        """Load nothing yet."""
        self._options, self._finished = options, 0

    def run(self, task: Task) -> Answered:
        """Answer and commit a shard."""
        try:
            return self._answer(task, self._annotator)
        except StepDiffError as error:
            return Answered(task.shard, error=str(error))
        finally:
            self._finished = 0

    def finished(self) -> int:
        """Return how many items of the current shard are finished."""
        return self._finished

    def _answer(self, task: Task, annotator: Annotator) -> Answered:
        begin, busy = time.monotonic(), annotator.busy
        shard = _Shard(self._version, task.shard)
        rows = [row for row in task.rows if row["key"] not in shard.answered]  # by a worker that died
        self._finished = len(task.rows) - len(rows)
        error = None
        try:
            with shard.saved_regularly():
                for key, answer in annotator.annotate(rows):
                    shard.add(key, answer)
                    self._finished += 1
        except StepDiffError as problem:
            error = str(problem)
        finally:  # after any other error too, such as a GPU without memory
            shard.commit()
        worked, seconds = annotator.busy - busy, time.monotonic() - begin
        return Answered(task.shard, error=error or shard.passing, done=shard.done, busy=worked, seconds=seconds)

    @cached_property
    def _version(self) -> Version:
        options = self._options
        version = Version(Store.open(options.store), options.stage, options.job.provenance())
        if version.name != options.version:
            why = f"the model's files on host {socket.gethostname()} are not those that the run began with"
            raise StepDiffError(f"{options.stage}: {why}; make them the same")
        return version

    @cached_property
    def _annotator(self) -> Annotator:
        import torch

        options = self._options
        torch.set_num_threads(options.cpus)
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return options.job.load(device, options.cpus)


class _Shard:
    """The rows of a shard, existing and new."""

    def __init__(self, version: Version, number: int) -> None:
        self._version, self._number = version, number
        self._rows = [version.shard(number)]
        self.answered = set(self._rows[0]["key"])
        self._failed = {row["key"]: row["reason"] for row in version.shard_failures(number).iter_rows(named=True)}
        self.done = 0
        self.passing: str | None = None  # why items were not answered that the next run tries again
        self._lock = threading.Lock()
        self._changed = False  # since the last commit

    def add(self, key: str, answer: Answer) -> None:
        if isinstance(answer, Failure) and answer.passing:
            self.passing = self.passing or plain(answer.reason)
            return
        with self._lock:
            self._changed = True
            if isinstance(answer, Failure):
                self._failed[key] = plain(answer.reason)
                return
            self.done += 1
            self._failed.pop(key, None)
            rows = [(key, kind, plain(text), self._version.line) for kind, text in answer.items()]
            self._rows.append(pl.DataFrame(rows, schema=SCHEMA, orient="row"))

    def commit(self) -> None:
        """Write all rows, if any are new."""
        with self._lock:
            if not self._changed:
                return
            self._rows = [pl.concat(self._rows)]
            failed = pl.DataFrame(list(self._failed.items()), schema=REASONS, orient="row")
            self._version.write(self._number, self._rows[0], failed)
            self._changed = False

    @contextmanager
    def saved_regularly(self) -> Iterator[None]:
        """Commit every _COMMIT_EVERY seconds within this block, however long one call of the model takes."""
        stop = threading.Event()

        def save() -> None:
            while not stop.wait(_COMMIT_EVERY):
                with suppress(StepDiffError):  # the commit at the end meets the error again, and raises it
                    self.commit()

        thread = threading.Thread(target=save, name="save", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
