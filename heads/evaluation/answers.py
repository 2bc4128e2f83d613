"""The answers of a method to the rows of a test set, batch by batch, resumed from a partial file.

Guarantees
- a video language model reads each pair of a DiffMCQ set once, for all questions that ask about it
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from common.errors import StepDiffError
from common.progress import progress, say
from heads.evaluation.inputs import Inputs
from heads.evaluation.load_method import ANSWERS
from heads.evaluation.options import EvaluateOptions
from heads.evaluation.partial import Partial
from heads.methods.stepdiff import StepDiff, option_scores, pair_texts
from heads.models.language_model import autocast, pick_device
from tasks.postprocess import parse

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
