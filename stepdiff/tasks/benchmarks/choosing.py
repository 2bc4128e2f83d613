"""Figures of questions with options, each answered by one score for each option.

Of n options that share the highest score, each counts as chosen with 1/n: a constant prediction scores chance, and the
order of the options gains nothing.

Guarantees
- a_tie_counts_its_share
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepdiff.tasks.benchmarks.rows import Choice
from stepdiff.tasks.benchmarks.summary import Mask, scores_of, summary
from stepdiff.tasks.bootstrap import mean_figure
from stepdiff.tasks.testsets import Prediction


def share_right(scores: Sequence[float], answer: int) -> float:
    """Return the probability that the answer is chosen: 0 or 1, or a share where several options have the highest
    score."""
    best = max(scores)
    return (scores[answer] == best) / list(scores).count(best)


def chosen(scores: Sequence[float]) -> int:
    """Return the first option with the highest score."""
    return list(scores).index(max(scores))


def score_choices(
    task: str,
    rows: Sequence[Choice],
    predictions: Sequence[Prediction],
    answers: Sequence[int],
    groups: Sequence[str],
    parts: Mapping[str, Mask],
    categories: Mapping[str, Mask],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return accuracy and its chance, as `summary`.

    Args:
        task: Name of the benchmark.
        rows: Its rows, or a part of them.
        predictions: The scores of each row's options.
        answers: The position of each row's right option.
        groups: The group of each row, which is drawn whole for the intervals.
        parts: Further figures: name -> the rows whose accuracy it is.
        categories: Category -> its rows.
        bootstrap: Resamples; 0 omits the intervals.
        seed: Seed of the resamples.
    """
    scores = scores_of(rows, predictions)
    right = np.array([share_right(own, answer) for own, answer in zip(scores, answers, strict=True)])
    level = np.array([1 / len(row.options) for row in rows])
    masks = {"accuracy": np.ones(len(rows), bool), **parts}
    figures, chance = ({name: mean_figure(own, mask) for name, mask in masks.items()} for own in (right, level))
    ties = np.array([own.count(max(own)) > 1 for own in scores])
    return summary(task, rows, figures, chance, groups, {"ties": ties}, categories, bootstrap, seed)
