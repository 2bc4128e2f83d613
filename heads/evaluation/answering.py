"""The process that answers: it loads the method, and answers batches of rows. It is this one, workers on Ray, or
torchrun's processes together (heads.evaluation.together).

Guarantees
- answers depend on the rows of their batch only, and on neither the worker nor the order of batches
- a method is loaded once per process
- a worker that dies is replaced, and its batch is answered again
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from common.errors import StepDiffError
from common.progress import Advance
from common.workers.pool import WorkerPool
from heads.evaluation.inputs import Asked
from heads.evaluation.loading import ANSWERS, Described, load_method, present_rows
from heads.evaluation.options import EvaluateOptions
from heads.evaluation.rows import read_benchmark, read_rows
from heads.evaluation.workers import WorkerOptions, worker_pool
from heads.methods.stepdiff import StepDiff, protocol
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import autocast, pick_device
from heads.workers.group import ALONE, Group, launched
from store import Store
from tasks.benchmarks.rows import Writing
from tasks.postprocess import parse

Question = Literal["task", "texts", "similar"]
"""what is asked about the rows of a batch: the task; all texts of pairs; whether the clips of diffcap are similar"""


@dataclass(frozen=True)
class Batch:
    """Rows that are answered together; a task of the worker pool."""

    shard: int
    """its number"""
    question: Question
    rows: tuple[Any, ...]
    failures: tuple[()] = field(default=(), init=False)


@dataclass(frozen=True)
class Answered:
    shard: int
    answers: list[Any] = field(default_factory=list)
    """one for each row"""
    error: str | None = None
    """why the batch was not answered"""


@runtime_checkable
class Answering(Protocol):
    """A method that answers, here or on workers."""

    @property
    def described(self) -> Described: ...

    def answer(self, batches: Sequence[Batch], advance: Advance) -> Iterator[Answered]:
        """Yield the answers of each batch as they come. StepDiffError: a batch cannot be answered."""


class Here:
    """Answers in this process."""

    def __init__(self, options: EvaluateOptions, store: Store | None, rows: list[Any], group: Group = ALONE) -> None:
        """Load the method, with a group its share. StepDiffError: it cannot be used, or the store lacks clips of the
        rows."""
        self._options = options
        self._loaded = load_method(options, store, rows, group)
        self._rows, self._absent = present_rows(options, rows, store, self._loaded)

    @property
    def described(self) -> Described:
        options, loaded = self._options, self._loaded
        disclosed = dict(loaded.disclosed)
        if isinstance(loaded.method, WordEvidence):
            disclosed["rows_without_known_words"] = loaded.method.unknown(self._rows)
        reads_pairs = isinstance(loaded.method, StepDiff)
        if reads_pairs:
            lm = loaded.method.model.lm
            precision = {"precision": "bfloat16" if loaded.precision == "bfloat16" else lm.precision}
            answer = ANSWERS[type(self._rows[0])]
            evidence = None if loaded.method.words is None else loaded.method.evidence
            disclosed["protocol"] = protocol(answer, options.seeded, options.decline_at, evidence) | precision
            if options.ask_similar:
                disclosed["protocol"]["similar"] = protocol("rank", evidence=evidence)
        # Without video all pairs are the same prompt, so rows are answered as they are.
        by_pair = reads_pairs and options.task == "diffmcq" and options.control != "blind"
        return Described(self._rows, self._absent, disclosed, by_pair)

    def answer(self, batches: Sequence[Batch], advance: Advance) -> Iterator[Answered]:
        for batch in batches:
            yield self.answered(batch)
            advance(len(batch.rows))

    def answered(self, batch: Batch) -> Answered:
        """Answer one batch."""
        device = pick_device(self._options.device)
        with torch.inference_mode(), autocast(device, self._loaded.precision):
            return Answered(batch.shard, self._answers(batch))

    def _answers(self, batch: Batch) -> list[Any]:
        options, method, rows = self._options, self._loaded.method, batch.rows
        if batch.question == "texts":
            return list(method.score_texts(rows))
        if batch.question == "similar":
            return list(method.alike([((row.reference, row.candidate), row.category) for row in rows]))
        found = getattr(method, ANSWERS[type(rows[0])])(rows)
        if len(found) != len(rows):
            raise StepDiffError(f"--method {options.method}: {len(found)} answers to {len(rows)} rows")
        if options.task == "diffcap":
            return [parse(caption) for caption in found] if options.parse else list(found)
        if isinstance(rows[0], Writing):
            return list(found)
        return [[float(value) for value in scores] for scores in found]


class Worker:
    """Answers batches in a process of the worker pool; a second thread may call `finished`."""

    def __init__(self, given: WorkerOptions) -> None:
        """Load nothing yet."""
        self._given = given

    def describe(self) -> Described | str:
        """Return what the method's process knows, or why the method cannot be used."""
        printed = io.StringIO()
        try:
            with redirect_stderr(printed):  # Ray would keep it in its logs
                described = self._here.described
        except StepDiffError as error:
            return str(error)
        return Described(**vars(described) | {"notices": tuple(printed.getvalue().splitlines())})

    def run(self, batch: Batch) -> Answered:
        """Answer a batch."""
        try:
            here = self._here
            self._given.driver.imitate()
            return here.answered(batch)
        except StepDiffError as error:
            return Answered(batch.shard, error=str(error))

    def finished(self) -> int:
        """Return 0: rows count once their batch is answered."""
        return 0

    @cached_property
    def _here(self) -> Here:
        self._given.driver.imitate()
        options = self._given.options
        store = None if options.store is None else Store.open(options.store)
        return Here(options, store, read_rows(options, read_benchmark(options)))


class OnWorkers:
    """Answers with workers on Ray."""

    def __init__(self, pool: WorkerPool, workers: int) -> None:
        self._pool, self._workers = pool, workers
        self.described: Described = pool.call("describe")

    def answer(self, batches: Sequence[Batch], advance: Advance) -> Iterator[Answered]:
        for answered in self._pool.run(batches, min(self._workers, len(batches)), advance):
            if answered.error:
                raise StepDiffError(answered.error)
            yield answered


@contextmanager
def answering(options: EvaluateOptions, asked: Asked) -> Iterator[Answering | None]:
    """Load the method, here, on workers or with torchrun's other processes; None: the first of those has it.

    Raises:
        StepDiffError: It cannot be used, or Ray does not start.
    """
    if launched():
        from heads.evaluation.together import together

        with together(options, asked) as method:
            yield method
        return
    if options.workers == 1 and options.address is None:
        yield Here(options, asked.store, asked.rows)
        return
    lighter = "try a smaller --rows-at-once, or fewer --workers on one node"
    with worker_pool(Worker, options, lambda batch, why: Answered(batch, error=why), lighter) as pool:
        yield OnWorkers(pool, options.workers)
