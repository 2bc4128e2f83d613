"""An evaluation: it reads its rows, has a method answer them in batches, and writes predictions and
scores.

Batches are answered in this process, by workers on Ray, or by torchrun's processes together, which
divide a language model that is too large for one device:

    torchrun --nproc-per-node 8 -m heads.evaluate --method video-lm --head runs/stepdiff ...

The model is divided layer by layer (FSDP2), and the processes share the rows of a batch. The first
process reads the rows and writes the answers; the others compute batches that it passes to them,
and end if one fails.

Guarantees
- a test set whose clips or videos trained the head is refused before the head is loaded
- a killed evaluation resumes after its last complete batch; answers that depend on anything else
  are never used
- the predictions are the same to the byte, whatever the number of workers, and captions with
  ask_similar
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import torch

from heads.data.training_clips import SeenClips, TrainedOn
from heads.evaluation import judges
from heads.evaluation.loading import (
    ANSWERS,
    CLASSES,
    HEAD,
    answered_rows,
    load_method,
    needed,
    present_rows,
)
from heads.evaluation.options import VIDEO_LM, EvaluateOptions, check
from heads.evaluation.rows import read_rows, score_rows
from heads.evaluation.workers import PartWorker, computed, in_order, on_ray, worker_pool
from heads.evidence import FILE
from heads.evidence.head import WordHead
from heads.methods.similarity import CAPTIONS_MODEL
from heads.methods.stepdiff import StepDiff, option_scores, pair_texts, protocol
from heads.methods.word_evidence import WordEvidence
from heads.models.language_model import autocast, pick_device
from heads.training import run_record
from heads.training.checkpoint import Run
from heads.training.recipe import read_recipe
from heads.workers.group import ALONE, Group, joined, launched, own_device, world_size
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.io.jsonl import LineFile, parse_object
from stepdiff_core.progress import Advance, progress, say
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.rows import write_answers
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.testsets import (
    DiffCap,
    DiffRank,
    Prediction,
    answers_of,
    check_prediction,
    clips_of,
    digest,
    prediction_line,
    prediction_of,
    published_task,
    write_predictions,
    write_test_set,
)
from stepdiff_core.threads import shares
from stepdiff_core.weights import fingerprint
from stepdiff_core.weights import resolve as resolve_weights
from stepdiff_core.workers.pool import WorkPart
from store import Store

AnswerBatches = Callable[[Sequence[WorkPart], Advance], Iterator[list[Any]]]
"""yields the answers of each batch, in order. StepDiffError: a batch cannot be answered"""


@dataclass(frozen=True)
class MethodFacts:
    """Facts about a method from the process that loaded it. Picklable."""

    rows: list[Any]
    """rows to answer: those whose clips and texts are present"""
    absent: int
    """clips that the store lacks"""
    disclosed: dict[str, Any]
    """printed next to the scores"""
    notices: tuple[str, ...] = ()
    """lines that the method printed while it was loaded in another process"""


class Answerer:
    """Answers batches in this process."""

    def __init__(
        self, options: EvaluateOptions, store: Store | None, rows: list[Any], group: Group = ALONE
    ) -> None:
        """Load the method, with a group its share. StepDiffError: it cannot be used, or the store
        lacks clips of the rows."""
        self._options = options
        self._loaded = loaded = load_method(options, store, rows, group)
        rows, absent = present_rows(options, rows, store, loaded)
        disclosed = dict(loaded.disclosed)
        guard = loaded.method.guard if isinstance(loaded.method, StepDiff | WordEvidence) else None
        if guard is not None and options.control != "blind":
            unlike = guard.unlike(
                list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))
            )
            disclosed |= {"unlike": unlike} if unlike else {}
        if isinstance(loaded.method, WordEvidence):
            disclosed["rows_without_known_words"] = loaded.method.unknown(rows)
        elif isinstance(loaded.method, StepDiff):
            lm = loaded.method.model.lm
            precision = {
                "precision": "bfloat16" if loaded.precision == "bfloat16" else lm.precision
            }
            evidence = None if loaded.method.words is None else loaded.method.evidence
            how = protocol(ANSWERS[type(rows[0])], options.seeded, options.decline_at, evidence)
            disclosed["protocol"] = how | precision
            if options.ask_similar:
                disclosed["protocol"]["similar"] = protocol("rank", evidence=evidence)
        self.method = MethodFacts(rows, absent, disclosed)

    def __call__(self, batch: WorkPart) -> list[Any]:
        """Answer one batch."""
        options, method, rows = self._options, self._loaded.method, batch.rows
        with torch.inference_mode(), autocast(pick_device(options.device), self._loaded.precision):
            answers = list(getattr(method, ANSWERS[type(rows[0])])(rows))
        if len(answers) != len(rows):
            raise StepDiffError(
                f"--method {options.method}: {len(answers)} answers to {len(rows)} rows"
            )
        if isinstance(rows[0], DiffCap) and options.parse:
            answers = list(map(parse, answers))
        if answers_of(rows[0]):
            answers = [[float(value) for value in scores] for scores in answers]
        return list(map(check_prediction, rows, answers))


class AnswerWorker(PartWorker):
    """Answers batches in a process of the worker pool."""

    def describe(self) -> MethodFacts:
        """Return the facts about the loaded method. StepDiffError: it cannot be used."""
        printed = io.StringIO()
        with redirect_stderr(printed):  # Ray would keep it in its logs
            method: MethodFacts = self.loaded.method
        return replace(method, notices=tuple(printed.getvalue().splitlines()))


def load(options: EvaluateOptions) -> Answerer:
    """Return the object that answers batches in a worker."""
    store = None if options.store is None else Store.open(options.store)
    return Answerer(options, store, read_rows(options)[1])


@contextmanager
def answering(
    options: EvaluateOptions, store: Store | None, rows: list[Any]
) -> Iterator[tuple[MethodFacts, AnswerBatches] | None]:
    """Load the method, here, on workers or with torchrun's other processes; None: the first of
    those has it. StepDiffError: it cannot be used, or Ray does not start."""
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
) -> Iterator[tuple[MethodFacts, AnswerBatches] | None]:
    """Load this process's share of a head; processes after the first compute batches that it passes
    to them. StepDiffError: the method has no language model that can be divided among this many
    processes; or no such head."""
    if options.method not in VIDEO_LM or on_ray(options):
        raise StepDiffError(
            "torchrun divides the language model of --method video-lm; start python -m "
            "heads.evaluate by itself for other methods, and for --workers or --address"
        )
    device = own_device(pick_device(options.device))
    head = Path(needed(options, "head", HEAD))
    with joined(run_record.division(head, world_size()), device) as group:
        answerer = Answerer(options, store, rows, group)

        def passed(batch: WorkPart | None = None) -> WorkPart | None:
            """Return the batch that the first process passes to all; None: it has none left."""
            return group.from_first(lambda: batch)

        if not group.first:
            while (batch := passed()) is not None:
                answerer(batch)
            yield None
            return
        computing = False

        def answer(batch: WorkPart) -> list[Any]:
            nonlocal computing
            passed(batch)
            computing = True
            answers = answerer(batch)
            computing = False
            return answers

        try:
            yield answerer.method, partial(in_order, answer)
        finally:
            # else they wait in a layer, and end once this process has left the group
            if not computing:
                with suppress(RuntimeError):  # they have gone
                    passed()


class Partial(LineFile):
    """The answers of a killed evaluation in OUT.partial.jsonl, after a line with all that they
    depend on."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        super().__init__(out.with_suffix(".partial.jsonl"))
        self._identity, self._begun = json.dumps(identity), False

    def resume(self, rows: Sequence[Any], starts: Sequence[int]) -> list[Prediction]:
        """Return the answers of complete batches that depend on the same; starts: the first row of
        every batch."""
        first, *lines = self.lines() or [b""]
        if lines and first != self._identity.encode():
            say(
                f"{self.path}: {len(lines)} answers of a killed run are removed and all rows are "
                "answered: they depend on other options, rows, features or weights"
            )
            lines = []
        answers = list[Prediction]()
        for row, line in zip(rows, lines, strict=False):
            try:
                answers.append(prediction_of(row, parse_object(line)))
            except StepDiffError:  # damaged: this batch and the next ones are answered again
                break
        whole = max(place for place in (*starts, len(rows)) if place <= len(answers))
        self.keep([first, *lines[:whole]] if whole else [])
        self._begun = whole > 0
        return answers[:whole]

    def add(self, answers: Sequence[Prediction]) -> None:
        """Append the next batch; it is durable when this returns."""
        self.append(
            "".join(["" if self._begun else f"{self._identity}\n", *map(prediction_line, answers)])
        )
        self._begun = True


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Answer the rows, write all files and return the score record; {}: another process of
    torchrun's has it.

    Raises:
        StepDiffError: An option, file or clip that cannot be used, a test set that trained the
            head, or a method that does not answer.
    """
    check(options)
    judges.check(options)
    task_data, rows = read_rows(options)
    if (truth := registry.truth_of(options.truth)) is not None:
        truth(rows, [""] * len(rows))  # refuses a file that lacks clips of the rows
    store = None if options.store is None else Store.open(options.store)
    seen = None if store is None else seen_by_head(options, rows, store)
    with answering(options, store, rows) as loaded:
        if loaded is None:
            return {}
        method, answer = loaded
        for notice in method.notices:
            say(notice)
        depends, present = (
            identity(options, method.rows, store, method.disclosed.get("source")),
            method.rows,
        )
        with Partial(Path(options.out), depends) as kept:
            # Without video all pairs are the same prompt, so rows are answered as they are.
            if (
                CLASSES.get(options.method) is StepDiff
                and options.task == "diffmcq"
                and options.control != "blind"
            ):
                pairs = pair_texts(present)  # so that each pair is read once
                predictions = option_scores(present, pairs, answered(options, answer, pairs, kept))
            else:
                predictions = answered(options, answer, present, kept)
            similar = None
            # in a fraction of the time of the captions, so a killed evaluation asks again
            if options.ask_similar:
                alike = [
                    DiffRank(row.reference, (row.candidate,), row.category, (0,)) for row in present
                ]
                similar = [score for (score,) in answered(options, answer, alike)]
            out, task, dropped = (
                Path(options.out),
                published_task(options.task),
                len(rows) - len(present),
            )
            out.with_suffix(".rows.jsonl").unlink(missing_ok=True)
            if task is None:
                write_answers(out, present, predictions)
            else:
                chosen = (options.rows, options.subset, options.no_difference)
                if dropped or any(value is not None for value in chosen):
                    write_test_set(task, out.with_suffix(".rows.jsonl"), present)
                write_predictions(task, out, predictions, similar)
            record = {
                "options": {
                    key: value
                    for key, value in asdict(options).items()
                    if key not in ("workers", "address")
                },
                "disclosed": method.disclosed,
                "skipped": {"clips": method.absent, "rows": dropped},
                "seen": None if seen is None else seen.counts(present),
                "scores": score_rows(
                    options, task_data, present, predictions, options.out, similar
                ),
            }
            write_text(
                out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False)
            )
            kept.keep([])
    return record


def answered(
    options: EvaluateOptions,
    answer: AnswerBatches,
    rows: Sequence[Any],
    kept: Partial | None = None,
) -> list[Any]:
    """Return all answers; those in the partial file are not computed again, and others are appended
    to it."""
    # Of similar size, because a small last batch would make a poor shuffled control.
    spans = shares(len(rows), ceil(len(rows) / options.rows_at_once))
    answers = [] if kept is None else kept.resume(rows, [start for start, _ in spans])
    parts = [
        WorkPart(number, tuple(rows[start:end]))
        for number, (start, end) in enumerate(spans)
        if start >= len(answers)
    ]
    what = (
        "similar"
        if kept is None
        else f"{options.task}, {options.method}, control {options.control}"
    )
    if answers:
        say(f"{what}: {len(answers)} of {len(rows)} answers exist already")
    with progress(what, len(rows) - len(answers)) as advance:
        for more in answer(parts, advance):
            if kept is not None:
                kept.add(more)
            answers += more
    return answers


def seen_by_head(options: EvaluateOptions, rows: Sequence[Any], store: Store) -> SeenClips | None:
    """Return which clips of the rows trained the head; None for a method without one.
    StepDiffError: some did, and `allow_seen` is not set."""
    trained = None
    if options.head is not None:
        head = Path(options.head)
        if options.method == "word-evidence":
            WordHead.load(head)
        else:
            read_recipe(head / "recipe.yaml")  # reports a folder without a head
        trained = TrainedOn.of_run(head, run_record.read(head))
    elif options.method == "vlemb" and options.view is not None:
        trained = TrainedOn.of_view(store, options.view)
    if trained is None:
        return None
    seen = trained.seen(rows, store)
    for notice in seen.notices(options.source):
        say(f"seen: {notice}")
    if not options.allow_seen:
        seen.refuse(rows, options.source, options.task)
    return seen


_FREE = (
    # of scores
    *("bootstrap", "similarity", "truth", "judge", "endpoint", "entailment", "ask_similar"),
    # of rows, see their digest
    *("test_set", "data", "rows", "subset", "no_difference", "skip_missing", "allow_seen"),
    *("store", "out", "workers", "address"),
)
"""options on which predictions do not depend"""


def identity(
    options: EvaluateOptions, rows: Sequence[Any], store: Store | None, source: str | None = None
) -> dict[str, Any]:
    """Return the inputs that predictions depend on: a partial file with another identity is not
    continued.

    source: fingerprint of a plug-in's file.
    """
    depended = {name: value for name, value in asdict(options).items() if name not in _FREE}
    head = None
    if options.head is not None:
        run, words = Path(options.head), options.method == "word-evidence"
        head = fingerprint(run / FILE if words else Run(run).best() / "head.safetensors")
    weights = options.weights or (CAPTIONS_MODEL if options.method == "captions-cosine" else None)
    files = [None if weights is None else resolve_weights(weights), options.texts]
    if options.method == "socratic":
        files.append(resolve_weights(options.language_model))
    if options.method == "shuffled-captions" and options.texts is not None:
        files.append(answered_rows(options.texts))
    contents = [fingerprint(Path(path)) for path in files if path is not None]
    views = {}
    if options.view is not None and store is not None:
        for entity in ("clips", "texts"):
            if options.view in store.views(entity):
                views[entity] = store.view(entity, options.view).provenance.as_dict()
    folder = None if options.store is None else str(Path(options.store).absolute())
    depends: dict[str, Any] = {"options": depended, "store": folder, "rows": digest(rows)}
    depends |= {"head": head, "contents": contents, "views": views}
    return depends | ({} if source is None else {"source": source})
