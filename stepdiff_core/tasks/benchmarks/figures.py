"""Figures of benchmarks, and their scores as a dict for JSON.

    {"task", figure: value or None, count: number, "rows", "videos", "groups",
     "chance": {figure: value}, "intervals": {figure: [low, high] or None},
     "per_category": {category: {figure: value, count, "rows"}}}

Whole groups of rows are drawn for the intervals, because rows that share videos are not
independent. `chance` is the expected value of the figures over random orders of the options or
targets of the same rows.

Choices: of n options that share the highest score, each counts as chosen with 1/n.

Rankings in which some targets are right, by the first right one: recall@k (it is among the first
k), its mean rank from 1, MRR (the mean of 1 / rank). Targets with equal scores are in random order:
each figure is its expected value over all orders of the ties, exactly.

Guarantees
- a constant prediction scores chance
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.benchmarks.rows import BenchmarkRow, Choice, Ranking
from stepdiff_core.tasks.bootstrap import (
    Figure,
    Mask,
    Resamples,
    mean_figure,
    values_and_counts,
    values_of,
)
from stepdiff_core.tasks.testsets import Prediction, check_prediction, video_of

Truth = TypeVar("Truth")
CUTS = (1, 5, 10)
RANKING = {**{f"recall@{k}": f"R@{k}" for k in CUTS}, "mean_rank": "mean rank", "MRR": "MRR"}
"""figure of a ranking -> heading of its column"""


def scores_of(rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction]) -> list[list[float]]:
    """Return the scores of each row. StepDiffError: no rows, or predictions that do not fit
    them."""
    check_count(rows, predictions)
    scores = []
    for row, prediction in zip(rows, predictions, strict=True):
        try:
            scores.append(list(map(float, check_prediction(row, prediction))))
        except StepDiffError as error:
            raise StepDiffError(f"row {row.key!r}: {error}") from error
    return scores


def check_count(
    rows: Sequence[BenchmarkRow], answers: Sequence[Any], what: str = "predictions"
) -> None:
    """Raise StepDiffError unless there is one answer for each row, and at least one row."""
    if not rows or len(rows) != len(answers):
        raise StepDiffError(f"{len(answers)} {what} for {len(rows)} rows: nothing to score")


def truths_of(rows: Sequence[BenchmarkRow], truth: Mapping[str, Truth]) -> list[Truth]:
    """Return the truth of each row. StepDiffError: a row that has none."""
    if unknown := [row.key for row in rows if row.key not in truth]:
        raise StepDiffError(
            f"row {unknown[0]!r} has no truth ({len(unknown)} such rows): give the folder that the "
            "rows were read from"
        )
    return [truth[row.key] for row in rows]


def groups_of(videos: Sequence[Collection[str]]) -> list[str]:
    """Return the name of each row's group, from the videos of each row, at least one. Rows that
    share a video are in one group, as are rows that other rows connect."""
    places = {
        video: place for place, video in enumerate(dict.fromkeys(chain.from_iterable(videos)))
    }
    ends = np.array(
        [(places[next(iter(row))], places[video]) for row in videos for video in row], int
    ).reshape(-1, 2)
    links = sparse.coo_matrix((np.ones(len(ends)), tuple(ends.T)), (len(places), len(places)))
    _, groups = connected_components(links, directed=False)
    return [str(groups[places[next(iter(row))]]) for row in videos]


def share_right(scores: Sequence[float], answer: int) -> float:
    """Return the probability that the answer is chosen: a share if several options have the highest
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
    draws: Resamples,
    parts: Mapping[str, Mask] = MappingProxyType({}),
    categories: Mapping[str, Mask] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return accuracy and its chance, as `summary`.

    Args:
        task: Name of the benchmark.
        rows: Its rows, or a part of them.
        predictions: The scores of each row's options.
        answers: The position of each row's right option.
        draws: Of the rows' groups, for the intervals.
        parts: Further figures: name -> the rows whose accuracy it is.
        categories: Category -> its rows.
    """
    scores = scores_of(rows, predictions)
    right = np.array(
        [share_right(values, answer) for values, answer in zip(scores, answers, strict=True)]
    )
    level = np.array([1 / len(row.options) for row in rows])
    masks = {"accuracy": np.ones(len(rows), bool), **parts}
    figures, chance = (
        {name: mean_figure(values, mask) for name, mask in masks.items()}
        for values in (right, level)
    )
    ties = np.array([values.count(max(values)) > 1 for values in scores])
    return summary(task, rows, figures, draws, chance, {"ties": ties}, categories)


def first_right(scores: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    """Return the figures of one row from a score for each target, the best highest; `right` marks
    at least one.

    The first right target is in the tie of the best right score: after the targets with a higher
    score, all of them wrong. Of t targets in the tie, r of them right, it comes first at place j of
    the tie in C(t - j, r - 1) of C(t, r) orders.
    """
    best = max(score for score, is_right in zip(scores, right, strict=True) if is_right)
    above = sum(score > best for score in scores)
    tied = sum(score == best for score in scores)
    among = sum(is_right for score, is_right in zip(scores, right, strict=True) if score == best)
    places = range(1, tied - among + 2)
    chances = {above + j: math.comb(tied - j, among - 1) / math.comb(tied, among) for j in places}
    return {
        **{
            f"recall@{k}": math.fsum(share for rank, share in chances.items() if rank <= k)
            for k in CUTS
        },
        "mean_rank": above + (tied + 1) / (among + 1),
        "MRR": math.fsum(share / rank for rank, share in chances.items()),
    }


def score_rankings(
    task: str,
    rows: Sequence[Ranking],
    predictions: Sequence[Prediction],
    right: Sequence[Collection[str]],
    draws: Resamples,
    categories: Mapping[str, Mask] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the figures of RANKING and their chance, as `score_choices`; right: the right targets
    of each row."""
    scores = scores_of(rows, predictions)
    marks = [
        [target in of_row for target in row.targets]
        for row, of_row in zip(rows, right, strict=True)
    ]
    each = (
        [first_right(*both) for both in zip(scores, marks, strict=True)],
        [first_right([0.0] * len(m), m) for m in marks],
    )
    figures, chance = (
        {name: mean_figure(np.array([row[name] for row in part])) for name in RANKING}
        for part in each
    )
    counts = {"rows_with_ties": np.array([len(set(of_row)) < len(of_row) for of_row in scores])}
    return summary(task, rows, figures, draws, chance, counts, categories)


def summary(
    task: str,
    rows: Sequence[BenchmarkRow],
    figures: Mapping[str, Figure],
    draws: Resamples,
    chance: Mapping[str, Figure] = MappingProxyType({}),
    counts: Mapping[str, Mask] = MappingProxyType({}),
    categories: Mapping[str, Mask] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the scores as a dict for JSON; `score_choices` has the same arguments.

    chance: the figures of constant predictions; counts: name -> the rows that are counted under it;
    categories: a row may be in several.
    """
    return {
        "task": task,
        **values_and_counts(figures, counts, np.ones(len(rows), bool)),
        "videos": len({video_of(clip) for row in rows for clip in row.clips}),
        "groups": draws.groups,
        "chance": values_of(chance),
        "intervals": draws.intervals(figures),
        "per_category": {
            name: values_and_counts(figures, counts, mask)
            for name, mask in categories.items()
            if mask.any()
        },
    }
