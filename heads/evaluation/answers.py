"""The answers of a method to the rows of a test set, and the files of an evaluation.

Answers are written batch by batch, so that a killed evaluation can resume:

    OUT.partial.jsonl   the answers so far, one line per row (or pair of clips) in the published format
    OUT.partial.json    what they depend on: options, rows, weights

At the end they become predictions, the rows that they answer, and scores with all that they depend on.

Guarantees
- a video language model reads each pair of a DiffMCQ set once, for all questions that ask about it
- a killed evaluation resumes after its last complete batch, and its predictions are the same, bit for bit
- answers that depend on anything else are never used
- the predictions are the same to the byte, whatever the number of workers
- with ask_similar the captions are those without it, to the byte
- both files exist until the scores are written, and are then removed
- two evaluations cannot write one file at the same time
"""

import fcntl
import json
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import StepDiffError
from common.io.files import make_folder, write_text
from common.io.jsonl import parse_object
from common.io.local import named_errors
from common.progress import progress, say
from common.threads import shares
from heads.evaluation.answering import Answered, Answering, Batch, Question
from heads.evaluation.inputs import Inputs
from heads.evaluation.options import EvaluateOptions
from heads.evaluation.rows import score_rows, write_files
from heads.methods.stepdiff import option_scores, pair_texts
from tasks.testsets import Form, Prediction, prediction_line, prediction_of


class Partial:
    """The partial file of `out`, locked during the `with` block.

    form: of the predictions; identity: what the answers depend on, as JSON; answers of another identity are dropped.
    """

    def __init__(self, form: Form, out: Path, identity: dict[str, Any]) -> None:
        self.form, self.out, self.identity = form, out, identity
        self.path = out.with_suffix(".partial.jsonl")
        self.made_of = out.with_suffix(".partial.json")

    def __enter__(self) -> "Partial":
        make_folder(self.out.parent)
        with named_errors(self.path, 0):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not self._lock():
            os.close(self._file)
            raise StepDiffError(f"{self.path}: another evaluation is writing it; wait for it, or name another --out")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.path.exists() and os.fstat(self._file).st_size == 0:  # nothing to resume from
            self.made_of.unlink(missing_ok=True)
            self.path.unlink()
        os.close(self._file)

    def resume(self, rows: Sequence[Any], starts: Sequence[int]) -> list[Prediction]:
        """Return the existing answers of complete batches; starts: the first row of every batch."""
        if self._made_of() != self.identity:
            # In this order, so that an existing identity always belongs to the answers.
            self.made_of.unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            write_text(self.made_of, json.dumps(self.identity))
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # drops an incomplete last line
        found: list[Prediction] = []
        for row, line in zip(rows, lines, strict=False):
            try:
                found.append(prediction_of(self.form, row, parse_object(line)))
            except StepDiffError:  # damaged: this batch and the next ones are answered again
                break
        whole = max(place for place in (*starts, len(rows)) if place <= len(found))
        os.ftruncate(self._file, sum(len(line) + 1 for line in lines[:whole]))
        return found[:whole]

    def add(self, answers: Sequence[Prediction]) -> None:
        """Append the next batch; it is durable when this returns."""
        data = "".join(prediction_line(self.form, answer) for answer in answers).encode()
        with named_errors(self.path, len(data)):
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def forget(self) -> None:
        """Remove both files, after the predictions and scores are written."""
        self.made_of.unlink()
        self.path.unlink()

    def _lock(self) -> bool:
        """Lock the open file; return False if another process has it, or removed it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.path.exists() and os.path.samestat(os.fstat(self._file), self.path.stat())

    def _made_of(self) -> Any:
        """Return the identity of the existing answers, None if it is unknown."""
        try:
            return json.loads(self.made_of.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None


def predict(options: EvaluateOptions, inputs: Inputs, method: Answering, partial: Partial) -> list[Any]:
    """Return one prediction for each row."""
    rows = inputs.rows
    if not inputs.described.by_pair:
        return answer_all(options, "task", rows, method, partial)
    pairs = pair_texts(rows)
    return option_scores(rows, pairs, answer_all(options, "texts", pairs, method, partial))


def batch_starts(rows: int, at_once: int) -> list[int]:
    """Return the first row of each batch of at most `at_once` rows, all of similar size.

    Similar sizes, because a small last batch would make a poor shuffled control.
    """
    return [first for first, _ in shares(rows, ceil(rows / at_once))]


def batches(options: EvaluateOptions, question: Question, rows: Sequence[Any]) -> list[Batch]:
    """Split rows into batches, which do not depend on the number of workers."""
    starts = batch_starts(len(rows), options.rows_at_once)
    ends = [*starts[1:], len(rows)]
    cut = enumerate(zip(starts, ends, strict=True))
    return [Batch(number, question, tuple(rows[start:end])) for number, (start, end) in cut]


def answer_all(
    options: EvaluateOptions, question: Question, rows: Sequence[Any], method: Answering, partial: Partial
) -> list[Any]:
    """Return all answers; those in the partial file are not computed again.

    Batches are appended to the partial file in order. A batch that ends before an earlier one waits for it in memory.
    """
    starts = batch_starts(len(rows), options.rows_at_once)
    answers = partial.resume(rows, starts)
    what = f"{options.task}, {options.method}, control {options.control}"
    if answers:
        say(f"{what}: {len(answers)} of {len(rows)} answers exist already")
    left = batches(options, question, rows)[bisect_left([*starts, len(rows)], len(answers)) :]
    with progress(what, len(rows) - len(answers)) as advance:
        for found in in_order(method.answer(left, advance), left):
            partial.add(found)
            answers += found
    return answers


def in_order(answered: Iterator[Answered], batches: Sequence[Batch]) -> Iterator[list[Any]]:
    """Yield the answers of each batch in the order of the batches."""
    waiting: dict[int, list[Any]] = {}
    expected = iter(batches)
    following = next(expected, None)
    for done in answered:
        waiting[done.shard] = done.answers
        while following is not None and following.shard in waiting:
            yield waiting.pop(following.shard)
            following = next(expected, None)


def similarities(options: EvaluateOptions, inputs: Inputs, method: Answering) -> list[float] | None:
    """Return log p(YES) - log p(NO) that each row's clips share a similar category; None if not asked for.

    They take a fraction of the time of the captions, so a killed evaluation computes them again.
    """
    if not options.ask_similar:
        return None
    left = batches(options, "similar", inputs.rows)
    with progress("similar", len(inputs.rows)) as advance:
        return [score for found in in_order(method.answer(left, advance), left) for score in found]


def write(
    options: EvaluateOptions, inputs: Inputs, predictions: Sequence[Any], similar: Sequence[float] | None = None
) -> dict[str, Any]:
    """Score the predictions and write all files; return the score record. similar: as `similarities` returns."""
    out, rows = Path(options.out), inputs.rows
    write_files(options, rows, predictions, inputs.whole, similar)
    scores = score_rows(options, inputs.benchmark, rows, predictions, similar)
    depended = {name: value for name, value in asdict(options).items() if name not in ("workers", "address")}
    record = {
        "options": depended,
        "disclosed": inputs.described.disclosed,
        "skipped": inputs.skipped,
        "seen": None if inputs.seen is None else inputs.seen.counts(rows),
        "scores": scores,
    }
    write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
    return record
