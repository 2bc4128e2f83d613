"""Figures of rankings in which some targets are right: where does the first right target come?

    recall@k    share of the rows with a right target among the first k
    mean_rank   mean rank of the first right target, from 1
    MRR         mean of 1 / that rank

Targets with equal scores are in random order: each figure is its expected value over all orders of the ties, exactly.
A constant prediction is one tie of all targets, so its figures are those of chance.

Guarantees
- figures_of_ties_equal_the_mean_over_all_orders
- a_constant_prediction_scores_chance
"""

from collections.abc import Collection, Mapping, Sequence
from math import comb, fsum
from typing import Any

import numpy as np

from stepdiff.tasks.benchmarks.rows import Ranking
from stepdiff.tasks.benchmarks.summary import Mask, scores_of, summary
from stepdiff.tasks.bootstrap import Figure, mean_figure
from stepdiff.tasks.testsets import Prediction

CUTS = (1, 5, 10)
FIGURES = {**{f"recall@{k}": f"R@{k}" for k in CUTS}, "mean_rank": "mean rank", "MRR": "MRR"}
"""figure -> heading of its column"""


def first_right(scores: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    """Return the figures of one row.

    The first right target is in the tie of the best right score: after the targets with a higher score, all of them
    wrong. Of t targets in the tie, r of them right, it comes first at place j of the tie in C(t - j, r - 1) of
    C(t, r) orders.

    Args:
        scores: One score for each target, the best highest.
        right: Which targets are right, at least one.
    """
    best = max(score for score, own in zip(scores, right, strict=True) if own)
    above = sum(score > best for score in scores)
    tied = sum(score == best for score in scores)
    among = sum(own for score, own in zip(scores, right, strict=True) if score == best)
    places = range(1, tied - among + 2)
    chances = {above + place: comb(tied - place, among - 1) / comb(tied, among) for place in places}
    return {
        **{f"recall@{k}": fsum(share for rank, share in chances.items() if rank <= k) for k in CUTS},
        "mean_rank": above + (tied + 1) / (among + 1),
        "MRR": fsum(share / rank for rank, share in chances.items()),
    }


def score_rankings(
    task: str,
    rows: Sequence[Ranking],
    predictions: Sequence[Prediction],
    right: Sequence[Collection[str]],
    groups: Sequence[str],
    categories: Mapping[str, Mask],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return the figures and their chance, as `summary`.

    Args:
        task: Name of the benchmark.
        rows: Its rows, or a part of them.
        predictions: The scores of each row's targets.
        right: The right targets of each row.
        groups: The group of each row, which is drawn whole for the intervals.
        categories: Category -> its rows.
        bootstrap: Resamples; 0 omits the intervals.
        seed: Seed of the resamples.
    """
    scores = scores_of(rows, predictions)
    marks = [[target in own for target in row.targets] for row, own in zip(rows, right, strict=True)]
    found = [first_right(*both) for both in zip(scores, marks, strict=True)]
    level = [first_right([0.0] * len(own), own) for own in marks]
    ties = np.array([len(set(own)) < len(own) for own in scores])
    counts = {"rows_with_ties": ties}
    return summary(task, rows, _figures(found), _figures(level), groups, counts, categories, bootstrap, seed)


def _figures(found: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    return {name: mean_figure(np.array([row[name] for row in found])) for name in FIGURES}
