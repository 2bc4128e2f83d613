"""The answers of a method to the rows of a test set, batch by batch, resumed from a partial file; and the files of an
evaluation: predictions, the rows they answer, and scores with all that they depend on.

Guarantees
- a video language model reads each pair of a DiffMCQ set once, for all questions that ask about it
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common.errors import StepDiffError
from common.io.files import write_text
from common.progress import progress, say
from heads.evaluation.inputs import ANSWERS, Inputs
from heads.evaluation.options import EvaluateOptions
from heads.evaluation.partial import Partial
from heads.methods.similarity import sentences
from heads.methods.stepdiff import StepDiff, option_scores, pair_texts, protocol
from heads.models.language_model import autocast, pick_device
from tasks.postprocess import parse
from tasks.scoring import score
from tasks.testsets import write_predictions, write_test_set

Answer = Callable[[Sequence[Any]], list[Any]]


def predict(options: EvaluateOptions, inputs: Inputs, partial: Partial) -> list[Any]:
    """Return one prediction for each row."""
    with torch.inference_mode(), autocast(pick_device(options.device), inputs.loaded.precision):
        return _predict(options, inputs.loaded.method, inputs.rows, partial)


def _predict(options: EvaluateOptions, method: Any, rows: Sequence[Any], partial: Partial) -> list[Any]:
    if options.task == "diffmcq" and isinstance(method, StepDiff) and options.control != "blind":
        # Pair by pair over all rows: each pair is read once. Without video all pairs are the same prompt.
        pairs = pair_texts(rows)
        return option_scores(rows, pairs, answer_all(options, method.score_texts, pairs, partial))
    return answer_all(options, _answer(options, method), rows, partial)


def _answer(options: EvaluateOptions, method: Any) -> Answer:
    """Return the method's function for the task, with plain numbers and, if asked for, post-processed captions."""
    function: Answer = getattr(method, ANSWERS[options.task])

    def answer(rows: Sequence[Any]) -> list[Any]:
        found = function(rows)
        if len(found) != len(rows):
            raise StepDiffError(f"--method {options.method}: {len(found)} answers to {len(rows)} rows")
        if options.task == "diffcap":
            return [parse(caption) for caption in found] if options.parse else found
        return [[float(value) for value in scores] for scores in found]

    return answer


def batch_starts(rows: int, at_once: int) -> list[int]:
    """Return the first row of each batch of at most `at_once` rows, all of similar size.

    Similar sizes, because a small last batch would make a poor shuffled control.
    """
    count = -(-rows // at_once)
    return [number * rows // count for number in range(count)]


def answer_all(options: EvaluateOptions, answer: Answer, rows: Sequence[Any], partial: Partial) -> list[Any]:
    """Return all answers; those in the partial file are not computed again."""
    starts = batch_starts(len(rows), options.rows_at_once)
    answers = partial.resume(rows, starts)
    resumed, what = len(answers), f"{options.task}, {options.method}, control {options.control}"
    if resumed:
        say(f"{what}: {resumed} of {len(rows)} answers exist already")
    with progress(what, len(rows) - resumed) as advance:
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            if start >= resumed:
                found = answer(rows[start:end])
                partial.add(found)
                answers += found
                advance(end - start)
    return answers


def write(options: EvaluateOptions, inputs: Inputs, predictions: Sequence[Any]) -> dict[str, Any]:
    """Score the predictions and write all files; return the score record."""
    out, rows, loaded = Path(options.out), inputs.rows, inputs.loaded
    answered = out.with_suffix(".rows.jsonl")
    answered.unlink(missing_ok=True)
    if not inputs.whole:
        write_test_set(options.task, answered, rows)
    write_predictions(options.task, out, predictions)
    embed = sentences(options.store, options.device) if options.similarity else None
    scores = score(options.task, rows, predictions, options.bootstrap, options.seed, embed)
    disclosed = dict(loaded.disclosed)
    if isinstance(loaded.method, StepDiff):
        lm = loaded.method.model.lm
        precision = {"precision": "bfloat16" if loaded.precision == "bfloat16" else lm.precision}
        disclosed["protocol"] = protocol(options.task, options.seeded, options.decline_at) | precision
    record = {
        "options": asdict(options),
        "disclosed": disclosed,
        "skipped": inputs.skipped,
        "seen": None if inputs.seen is None else inputs.seen.counts(rows),
        "scores": scores,
    }
    write_text(out.with_suffix(".scores.json"), json.dumps(record, indent=1, allow_nan=False))
    return record
