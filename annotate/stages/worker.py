"""A worker process of a stage: one model, one shard after another. It is an actor of Ray.

Guarantees
- the model is loaded once a worker
- a worker that dies loses the answers of the last ten seconds, and no others; whoever takes its shard answers the rest
- answers that came before the model went away are kept
"""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from annotate.stages.job import Annotator, Answer, Failure, Item, Job, plain
from annotate.stages.versions import SCHEMA, Version
from common.errors import StepDiffError
from featurize.task import Outcome
from store import Store
from store.io import failures

ERRORS = (StepDiffError,)
_COMMIT_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Equipment:
    """What every worker of a stage has."""

    store: str
    """folder or URL"""
    stage: str
    version: str
    """name of the version that is written"""
    job: Job
    device: str | None
    """None is a GPU where the worker was given one"""
    cpus: int
    """threads of the model"""


@dataclass(frozen=True)
class Task:
    """The items to do in a shard."""

    shard: int
    rows: tuple[Item, ...]
    failures: tuple[str, ...] = field(default=(), init=False)
    """none are known before"""


@dataclass(frozen=True)
class Answered(Outcome):
    """What became of a shard."""

    done: int = 0
    """items answered"""
    busy: float = 0.0
    """seconds that the model worked"""
    seconds: float = 0.0
    """that the shard took"""


class Worker:
    """Answers shards; a second thread may ask how far it is."""

    def __init__(self, equipment: Equipment) -> None:
        """A worker that has loaded nothing yet."""
        self._equipment = equipment
        self._lock = threading.Lock()
        self._finished = 0

    def run(self, task: Task) -> Answered:
        """Answer and commit a shard."""
        try:
            annotator = self._annotator
            return self._answer(task, annotator)
        except ERRORS as error:
            return Answered(task.shard, error=str(error))
        finally:
            with self._lock:
                self._finished = 0

    def finished(self) -> int:
        """Items of the shard at work that are finished."""
        with self._lock:
            return self._finished

    def _answer(self, task: Task, annotator: Annotator) -> Answered:
        begin, busy = time.monotonic(), annotator.busy
        shard = _Shard(self._version, task.shard)
        rows = [row for row in task.rows if row["key"] not in shard.answered]  # by a worker that died
        with self._lock:
            self._finished = len(task.rows) - len(rows)
        error = None
        try:
            with shard.saved_now_and_then():
                for key, answer in annotator.annotate(rows):
                    shard.add(key, answer)
                    with self._lock:
                        self._finished += 1
        except ERRORS as problem:
            error = str(problem)
        finally:  # whatever else ends it, as a GPU without memory
            shard.commit()
        seconds = time.monotonic() - begin
        return Answered(
            task.shard, error=error or shard.passing, done=shard.done, busy=annotator.busy - busy, seconds=seconds
        )

    @cached_property
    def _version(self) -> Version:
        given = self._equipment
        version = Version(Store.open(given.store), given.stage, given.job.provenance())
        if version.name != given.version:
            raise StepDiffError(
                f"{given.stage}: the model's files on host {socket.gethostname()} are not those that the run began "
                "with; make them the same"
            )
        return version

    @cached_property
    def _annotator(self) -> Annotator:
        import torch

        given = self._equipment
        torch.set_num_threads(given.cpus)
        device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return given.job.load(device, given.cpus)


class _Shard:
    """What stands of a shard, and what comes to it."""

    def __init__(self, version: Version, number: int) -> None:
        self._version, self._number = version, number
        self._rows = [version.shard(number)]
        self.answered = set(self._rows[0]["key"])
        self._failed = {row["key"]: row["reason"] for row in version.shard_failures(number).iter_rows(named=True)}
        self.done = 0
        self.passing: str | None = None
        """why items were not answered, where the next run tries again"""
        self._lock = threading.Lock()
        self._new = False  # something came since the last commit

    def add(self, key: str, answer: Answer) -> None:
        """An item's answer."""
        if isinstance(answer, Failure) and answer.passing:
            self.passing = self.passing or plain(answer.reason)
            return
        with self._lock:
            self._new = True
            if isinstance(answer, Failure):
                self._failed[key] = plain(answer.reason)
                return
            self.done += 1
            self._failed.pop(key, None)
            self._rows.append(pl.DataFrame(list(self._told(key, answer)), schema=SCHEMA, orient="row"))

    def _told(self, key: str, answer: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
        for kind, text in answer.items():
            yield key, kind, plain(text), self._version.line

    def commit(self) -> None:
        """Write all that stands, where something came."""
        with self._lock:
            if not self._new:
                return
            self._rows = [pl.concat(self._rows)]
            failed = pl.DataFrame(list(self._failed.items()), schema=failures.SCHEMA, orient="row")
            self._version.write(self._number, self._rows[0], failed)
            self._new = False

    @contextmanager
    def saved_now_and_then(self) -> Iterator[None]:
        """While a model works, however long its turns are, what it has said is written every _COMMIT_EVERY."""
        stop = threading.Event()

        def save() -> None:
            while not stop.wait(_COMMIT_EVERY):
                with suppress(StepDiffError):  # the commit at the end meets it again, and tells
                    self.commit()

        thread = threading.Thread(target=save, name="save", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
