"""An evaluation: it reads its rows, has the method answer them, and writes predictions and scores.

Answers are written batch by batch (`Partial`). At the end they become predictions, the rows that they answer, and
scores with all that they depend on.

Guarantees
- a test set whose clips or videos trained the head is refused before the head is loaded
- a killed evaluation resumes after its last complete batch; answers that depend on anything else are never used
- the predictions are the same to the byte, whatever the number of workers, and captions with ask_similar
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

from heads.data.trained_on import Seen, TrainedOn
from heads.evaluation import judges
from heads.evaluation.answerers import Answer, answering
from heads.evaluation.loading import answered_rows
from heads.evaluation.options import EvaluateOptions, check
from heads.evaluation.rows import load_truth, read_asked, read_rows, score_rows, write_files
from heads.evaluation.workers import Part
from heads.evidence.head import FILE, WordHead
from heads.methods.similarity import CAPTIONS_MODEL
from heads.methods.stepdiff import option_scores, pair_texts
from heads.training import lineage
from heads.training.checkpoint import Run
from heads.training.recipe import read_recipe
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import write_text
from stepdiff.common.io.jsonl import LineFile, parse_object
from stepdiff.common.progress import progress, say
from stepdiff.common.threads import shares
from stepdiff.tasks.testsets import DiffRank, Prediction, digest, prediction_line, prediction_of
from stepdiff.weights import fingerprint
from stepdiff.weights import resolve as resolve_weights
from store import Store


class Partial(LineFile):
    """The answers of a killed evaluation in OUT.partial.jsonl.

    identity: what the answers depend on, as JSON, in OUT.partial.json. Answers of another identity are dropped.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        super().__init__(out.with_suffix(".partial.jsonl"))
        self.identity = identity
        self.identity_path = out.with_suffix(".partial.json")

    def __exit__(self, *_: object) -> None:
        if not self.path.exists() or not self.path.stat().st_size:  # nothing to resume from
            self.identity_path.unlink(missing_ok=True)
        super().__exit__()

    def resume(self, rows: Sequence[Any], starts: Sequence[int]) -> list[Prediction]:
        """Return the existing answers of complete batches; starts: the first row of every batch."""
        try:
            existing = json.loads(self.identity_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            existing = None
        if existing != self.identity:
            # In this order, so that an existing identity always belongs to the answers.
            self.identity_path.unlink(missing_ok=True)
            self.keep([])
            write_text(self.identity_path, json.dumps(self.identity))
        lines, answers = self.lines(), list[Prediction]()
        for row, line in zip(rows, lines, strict=False):
            try:
                answers.append(prediction_of(row, parse_object(line)))
            except StepDiffError:  # damaged: this batch and the next ones are answered again
                break
        whole = max(place for place in (*starts, len(rows)) if place <= len(answers))
        self.keep(lines[:whole])
        return answers[:whole]

    def add(self, answers: Sequence[Prediction]) -> None:
        """Append the next batch; it is durable when this returns."""
        self.append("".join(map(prediction_line, answers)))


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Answer the rows, write all files and return the score record; {}: another process of torchrun's has it.

    Raises:
        StepDiffError: An option, file or clip that cannot be used, a test set that trained the head, or a method that
            does not answer.
    """
    check(options)
    judges.check(options)
    asked = read_asked(options)
    rows = read_rows(options, asked)
    if (truth := load_truth(options.truth)) is not None:
        truth(rows, [""] * len(rows))  # refuses a file that lacks clips of the rows
    store = None if options.store is None else Store.open(options.store)
    seen = None if store is None else seen_by_head(options, rows, store)
    with answering(options, store, rows) as loaded:
        if loaded is None:
            return {}
        method, answer = loaded
        for notice in method.notices:
            say(notice)
        depends, present = identity(options, method.rows, store, method.disclosed.get("source")), method.rows
        with Partial(Path(options.out), depends) as partial:
            if method.by_pair:
                pairs = pair_texts(present)
                predictions = option_scores(present, pairs, answered(options, answer, pairs, partial))
            else:
                predictions = answered(options, answer, present, partial)
            similar = None
            if options.ask_similar:  # in a fraction of the time of the captions, so a killed evaluation asks again
                alike = [DiffRank(row.reference, (row.candidate,), row.category, (0,)) for row in present]
                similar = [score for (score,) in answered(options, answer, alike)]
            dropped = len(rows) - len(present)
            given = (options.rows, options.subset, options.no_difference)
            is_part = dropped > 0 or any(value is not None for value in given)
            write_files(options, present, predictions, not is_part, similar)
            record = {
                "options": {key: value for key, value in asdict(options).items() if key not in ("workers", "address")},
                "disclosed": method.disclosed,
                "skipped": {"clips": method.absent, "rows": dropped},
                "seen": None if seen is None else seen.counts(present),
                "scores": score_rows(options, asked, present, predictions, options.out, similar),
            }
            write_text(Path(options.out).with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
            partial.keep([])
    return record


def answered(
    options: EvaluateOptions, answer: Answer, rows: Sequence[Any], partial: Partial | None = None
) -> list[Any]:
    """Return all answers; those in the partial file are not computed again, and others are appended to it."""
    # Of similar size, because a small last batch would make a poor shuffled control.
    spans = shares(len(rows), ceil(len(rows) / options.rows_at_once))
    answers = [] if partial is None else partial.resume(rows, [start for start, _ in spans])
    left = [Part(number, tuple(rows[start:end])) for number, (start, end) in enumerate(spans) if start >= len(answers)]
    what = "similar" if partial is None else f"{options.task}, {options.method}, control {options.control}"
    if answers:
        say(f"{what}: {len(answers)} of {len(rows)} answers exist already")
    with progress(what, len(rows) - len(answers)) as advance:
        for more in answer(left, advance):
            if partial is not None:
                partial.add(more)
            answers += more
    return answers


def seen_by_head(options: EvaluateOptions, rows: Sequence[Any], store: Store) -> Seen | None:
    """Return which clips of the rows trained the head; None for a method without one. StepDiffError: some did, and
    `allow_seen` is not set."""
    trained = None
    if options.head is not None:
        head = Path(options.head)
        if options.method == "word-evidence":
            WordHead.load(head)
        else:
            read_recipe(head / "recipe.yaml")  # reports a folder without a head
        trained = TrainedOn.of_run(head, lineage.read(head))
    elif options.method == "vlemb" and options.view is not None:
        trained = TrainedOn.of_view(store, options.view)
    if trained is None:
        return None
    seen = trained.seen(rows, store)
    for notice in seen.notices(options.source):
        say(f"seen: {notice}")
    if not options.allow_seen:
        seen.refuse(rows, options.source)
    return seen


_FREE = (
    *("bootstrap", "similarity", "truth", "judge", "endpoint", "entailment", "ask_similar"),  # of scores
    *("test_set", "data", "rows", "subset", "no_difference", "skip_missing", "allow_seen"),  # of rows, see their digest
    *("store", "out", "workers", "address"),
)
"""options on which predictions do not depend"""


def identity(
    options: EvaluateOptions,
    rows: Sequence[Any],
    store: Store | None,
    source: str | None = None,
) -> dict[str, Any]:
    """Return what predictions depend on: a partial file with another identity is not continued.

    source: fingerprint of a plug-in's file.
    """
    depended = {name: value for name, value in asdict(options).items() if name not in _FREE}
    head = None
    if options.head is not None:
        run, words = Path(options.head), options.method == "word-evidence"
        head = fingerprint(run / FILE if words else Run(run).best() / "head.safetensors")
    files = [None if options.weights is None else resolve_weights(options.weights), options.texts]
    if options.method == "socratic":
        files.append(resolve_weights(options.language_model))
    if options.method == "shuffled-captions" and options.texts is not None:
        files.append(answered_rows(options.texts))
    if options.method == "captions-cosine" and options.weights is None:
        files.append(resolve_weights(CAPTIONS_MODEL))
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
