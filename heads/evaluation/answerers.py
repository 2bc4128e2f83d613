"""The process that loads the method and answers batches of rows: this one, workers on Ray, or torchrun's together.

    torchrun --nproc-per-node 8 -m heads.evaluate --method video-lm --head runs/stepdiff ...

torchrun's processes divide a language model that is too large for one device. A frozen one is divided by tensor
parallelism: the processes compute each batch together. One that trained, also with LoRA, is divided layer by layer
(FSDP2), and the processes share the rows of a batch. The first process reads the rows and writes the answers; the
others compute what it passes them, until it has finished.

Guarantees
- answers depend on the rows of their batch only, and on neither the worker nor the order of batches
- a worker that dies is replaced, and its batch is answered again
- a divided head answers as a whole one, and a process that fails ends the others
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from heads.evaluation.loading import ANSWERS, HEAD, load_method, needed, present_rows
from heads.evaluation.options import VIDEO_LM, EvaluateOptions
from heads.evaluation.rows import read_asked, read_rows
from heads.evaluation.workers import Part, Worker, computed, on_ray, worker_pool
from heads.methods.stepdiff import StepDiff, protocol
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import autocast, pick_device
from heads.training.lineage import division
from heads.workers.group import ALONE, Group, joined, launched, own_device, world_size
from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import Advance
from stepdiff.common.workers.pool import WorkerPool
from stepdiff.tasks.postprocess import parse
from stepdiff.tasks.testsets import answers_of, check_prediction
from store import Store

Question = Literal["task", "texts", "similar"]
"""what a Part is about, a batch of rows: the task; all texts of pairs; whether the clips of diffcap are similar"""


@dataclass(frozen=True)
class Method:
    """What the process that has loaded a method knows about it. Picklable."""

    rows: list[Any]
    """rows to answer: those whose clips and texts are present"""
    absent: int
    """clips that the store lacks"""
    disclosed: dict[str, Any]
    """printed next to the scores"""
    by_pair: bool
    """whether a DiffMCQ set is answered pair by pair, so that each pair is read once"""
    notices: tuple[str, ...] = ()
    """lines that the method printed while it was loaded in another process"""


class LocalAnswerer:
    """Answers in this process."""

    def __init__(self, options: EvaluateOptions, store: Store | None, rows: list[Any], group: Group = ALONE) -> None:
        """Load the method, with a group its share. StepDiffError: it cannot be used, or the store lacks clips of the
        rows."""
        self._options = options
        self._loaded = loaded = load_method(options, store, rows, group)
        rows, absent = present_rows(options, rows, store, loaded)
        disclosed, reads_pairs = dict(loaded.disclosed), isinstance(loaded.method, StepDiff)
        if isinstance(loaded.method, WordEvidence):
            disclosed["rows_without_known_words"] = loaded.method.unknown(rows)
        elif reads_pairs:
            lm = loaded.method.model.lm
            precision = {"precision": "bfloat16" if loaded.precision == "bfloat16" else lm.precision}
            evidence = None if loaded.method.words is None else loaded.method.evidence
            asked = protocol(ANSWERS[type(rows[0])], options.seeded, options.decline_at, evidence)
            disclosed["protocol"] = asked | precision
            if options.ask_similar:
                disclosed["protocol"]["similar"] = protocol("rank", evidence=evidence)
        # Without video all pairs are the same prompt, so rows are answered as they are.
        by_pair = reads_pairs and options.task == "diffmcq" and options.control != "blind"
        self.method = Method(rows, absent, disclosed, by_pair)

    def answer(self, batches: Sequence[Part], advance: Advance) -> Iterator[list[Any]]:
        """Yield the answers of each batch, in order. StepDiffError: a batch cannot be answered."""
        for batch in batches:
            yield self(batch)
            advance(len(batch.rows))

    def __call__(self, batch: Part) -> list[Any]:
        """Answer one batch."""
        options, method, rows = self._options, self._loaded.method, batch.rows
        with torch.inference_mode(), autocast(pick_device(options.device), self._loaded.precision):
            if batch.about == "texts":
                return list(method.score_texts(rows))
            if batch.about == "similar":
                return list(method.alike([((row.reference, row.candidate), row.category) for row in rows]))
            answers = list(getattr(method, ANSWERS[type(rows[0])])(rows))
        if len(answers) != len(rows):
            raise StepDiffError(f"--method {options.method}: {len(answers)} answers to {len(rows)} rows")
        if options.task == "diffcap" and options.parse:
            answers = list(map(parse, answers))
        if answers_of(rows[0]):
            answers = [[float(value) for value in scores] for scores in answers]
        return list(map(check_prediction, rows, answers))


def load(options: EvaluateOptions) -> LocalAnswerer:
    """Return what answers batches in a worker."""
    store = None if options.store is None else Store.open(options.store)
    return LocalAnswerer(options, store, read_rows(options, read_asked(options)))


class AnswerWorker(Worker):
    """Answers batches in a process of the worker pool."""

    def describe(self) -> Method | str:
        """Return what is known about the loaded method, or why it cannot be used."""
        printed = io.StringIO()
        try:
            with redirect_stderr(printed):  # Ray would keep it in its logs
                method: Method = self.loaded.method
        except StepDiffError as error:
            return str(error)
        return replace(method, notices=tuple(printed.getvalue().splitlines()))


class RayAnswerer:
    """Answers with workers on Ray."""

    def __init__(self, pool: WorkerPool, workers: int) -> None:
        self._pool, self._workers = pool, workers
        self.method: Method = pool.call("describe")

    def answer(self, batches: Sequence[Part], advance: Advance) -> Iterator[list[Any]]:
        """Yield the answers of each batch, as LocalAnswerer does."""
        return computed(self._pool, batches, self._workers, advance)


class AtomicGroup(LocalAnswerer):
    """Answers with all processes of a group, which end together."""

    def __init__(self, options: EvaluateOptions, store: Store | None, rows: list[Any], group: Group) -> None:
        super().__init__(options, store, rows, group)
        self._group = group
        self.computing = False
        """whether the others compute a batch, or did when this process failed"""

    def __call__(self, batch: Part) -> list[Any]:
        self.passed(batch)
        self.computing = True
        answers = super().__call__(batch)
        self.computing = False
        return answers

    def passed(self, batch: Part | None = None) -> Part | None:
        """Return the batch that the first process passes to all; None: it has none left."""
        return self._group.from_first(lambda: batch)

    def follow(self) -> None:
        """Compute what the first process passes, until it has none left."""
        while (batch := self.passed()) is not None:
            super().__call__(batch)


@contextmanager
def sharded_answerer(options: EvaluateOptions, store: Store | None, rows: list[Any]) -> Iterator[AtomicGroup | None]:
    """Load this process's share of a head; None: not the first process, and there is nothing left to compute.
    StepDiffError: the method has no language model that can be divided among so many processes; or no such head."""
    if options.method not in VIDEO_LM or on_ray(options):
        raise StepDiffError(
            "torchrun divides the language model of --method video-lm; start python -m heads.evaluate by itself for "
            "other methods, and for --workers or --address"
        )
    device = own_device(pick_device(options.device))
    head = Path(needed(options, "head", HEAD))
    with joined(division(head, world_size()), device) as group:
        member = AtomicGroup(options, store, rows, group)
        if not group.first:
            member.follow()
            yield None
            return
        try:
            yield member
        finally:
            if not member.computing:  # else they wait in a layer, and end once this process has left the group
                with suppress(RuntimeError):  # they have gone
                    member.passed()


Answerer = LocalAnswerer | RayAnswerer


@contextmanager
def answerer(options: EvaluateOptions, store: Store | None, rows: list[Any]) -> Iterator[Answerer | None]:
    """Load the method, here, on workers or with torchrun's other processes; None: the first of those has it.
    StepDiffError: it cannot be used, or Ray does not start."""
    if launched():
        with sharded_answerer(options, store, rows) as method:
            yield method
    elif not on_ray(options):
        yield LocalAnswerer(options, store, rows)
    else:
        lighter = "try a smaller --rows-at-once, or fewer --workers on one node"
        with worker_pool(options, load, lighter, AnswerWorker) as pool:
            yield RayAnswerer(pool, options.workers)
