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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heads.evaluation.loading import ANSWERS, HEAD, load_method, needed, present_rows
from heads.evaluation.options import VIDEO_LM, EvaluateOptions
from heads.evaluation.rows import read_asked, read_rows
from heads.evaluation.workers import Part, Worker, computed, in_order, on_ray, worker_pool
from heads.methods.stepdiff import StepDiff, protocol
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import autocast, pick_device
from heads.training.lineage import division
from heads.workers.group import ALONE, Group, joined, launched, own_device, world_size
from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import Advance
from stepdiff.tasks.postprocess import parse
from stepdiff.tasks.testsets import DiffCap, Scored, check_prediction
from store import Store

Answer = Callable[[Sequence[Part], Advance], Iterator[list[Any]]]
"""yields the answers of each batch, in order. StepDiffError: a batch cannot be answered"""


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


class Answerer:
    """Answers batches in this process."""

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

    def __call__(self, batch: Part) -> list[Any]:
        """Answer one batch."""
        options, method, rows = self._options, self._loaded.method, batch.rows
        with torch.inference_mode(), autocast(pick_device(options.device), self._loaded.precision):
            answers = list(getattr(method, ANSWERS[type(rows[0])])(rows))
        if len(answers) != len(rows):
            raise StepDiffError(f"--method {options.method}: {len(answers)} answers to {len(rows)} rows")
        if isinstance(rows[0], DiffCap) and options.parse:
            answers = list(map(parse, answers))
        if isinstance(rows[0], Scored):
            answers = [[float(value) for value in scores] for scores in answers]
        return list(map(check_prediction, rows, answers))


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


def load(options: EvaluateOptions) -> Answerer:
    """Return what answers batches in a worker."""
    store = None if options.store is None else Store.open(options.store)
    return Answerer(options, store, read_rows(options, read_asked(options)))


@contextmanager
def answering(options: EvaluateOptions, store: Store | None, rows: list[Any]) -> Iterator[tuple[Method, Answer] | None]:
    """Load the method, here, on workers or with torchrun's other processes; None: the first of those has it.
    StepDiffError: it cannot be used, or Ray does not start."""
    if launched():
        with _answering_together(options, store, rows) as answering_first:
            yield answering_first
    elif not on_ray(options):
        answerer = Answerer(options, store, rows)
        yield answerer.method, partial(in_order, answerer)
    else:
        lighter = "try a smaller --rows-at-once, or fewer --workers on one node"
        with worker_pool(options, load, lighter, AnswerWorker) as pool:
            yield pool.call("describe"), partial(computed, pool, options.workers)


@contextmanager
def _answering_together(
    options: EvaluateOptions, store: Store | None, rows: list[Any]
) -> Iterator[tuple[Method, Answer] | None]:
    """Load this process's share of a head; the others than the first compute what it passes them. StepDiffError: the
    method has no language model that can be divided among so many processes; or no such head."""
    if options.method not in VIDEO_LM or on_ray(options):
        raise StepDiffError(
            "torchrun divides the language model of --method video-lm; start python -m heads.evaluate by itself for "
            "other methods, and for --workers or --address"
        )
    device = own_device(pick_device(options.device))
    head = Path(needed(options, "head", HEAD))
    with joined(division(head, world_size()), device) as group:
        answerer = Answerer(options, store, rows, group)

        def passed(batch: Part | None = None) -> Part | None:
            """Return the batch that the first process passes to all; None: it has none left."""
            return group.from_first(lambda: batch)

        if not group.first:
            while (batch := passed()) is not None:
                answerer(batch)
            yield None
            return
        computing = False

        def answer(batch: Part) -> list[Any]:
            nonlocal computing
            passed(batch)
            computing = True
            answers = answerer(batch)
            computing = False
            return answers

        try:
            yield answerer.method, partial(in_order, answer)
        finally:
            if not computing:  # else they wait in a layer, and end once this process has left the group
                with suppress(RuntimeError):  # they have gone
                    passed()
