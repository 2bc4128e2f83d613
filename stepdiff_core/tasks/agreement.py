"""Agreement of people who score the same items (Krippendorff's alpha), and rank correlations of two
values of items.

Shape legend: U items; L levels of a score; N items; R resamples. A resample is a row of weights:
how often it contains each item.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

Level = Literal["nominal", "ordinal", "interval"]
Values = Float[np.ndarray, " N"]
Weights = Float64[np.ndarray, "R N"]


def alpha(counts: Int64[np.ndarray, "U L"], level: Level) -> float | None:
    """Return Krippendorff's alpha. None if all ratings are the same, or no item has two.

    These few lines are ours because the library `krippendorff` has a licence (GPL) that this
    project cannot take on; the tests compare the two.

    Args:
        counts: How often each item has each score.
        level: Relation of two scores: nothing, their order, or also their distance.
    """
    counts = counts[counts.sum(1) > 1].astype(np.float64)
    totals = counts.sum(0)
    distances = _distances(totals, level)
    expected = totals @ distances @ totals / max(totals.sum() - 1, 1)
    if not expected:
        return None
    within = np.einsum("ul,lm,um->u", counts, distances, counts)
    return float(1 - (within / (counts.sum(1) - 1)).sum() / expected)


def _distances(totals: Float64[np.ndarray, " L"], level: Level) -> Float64[np.ndarray, "L L"]:
    """Return the squared distance of each two scores; totals: how often each score is given."""
    places = np.arange(len(totals), dtype=np.float64)
    if level == "nominal":
        return (places[:, None] != places).astype(np.float64)
    if level == "ordinal":  # the ratings between the middles of two scores
        places = np.cumsum(totals) - totals / 2
    return (places[:, None] - places) ** 2


def spearman(one: Values, two: Values, weights: Weights | None = None) -> Float64[np.ndarray, " R"]:
    """Return Spearman's rho for each row of weights (None: one row of ones), NaN if all values of
    one side tie."""
    if weights is None:
        weights = np.ones((1, len(one)))
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        first, second = (
            ranks - (weights * ranks).sum(axis=1, keepdims=True) / total
            for ranks in (_ranks(one, weights), _ranks(two, weights))
        )
        spread = [np.sqrt((weights * side**2).sum(axis=1)) for side in (first, second)]
        return ((weights * first * second).sum(axis=1) / spread[0] / spread[1]).clip(-1, 1)


def _ranks(values: Values, weights: Weights) -> Float64[np.ndarray, "R N"]:
    """Return middle ranks from 0: equal values share the mean of their ranks."""
    unique, place = np.unique(values, return_inverse=True)
    counts = weights @ (place[:, None] == np.arange(len(unique))).astype(np.float64)
    return (counts.cumsum(axis=1) - counts / 2)[:, place]


def kendall(one: Values, two: Values, weights: Weights | None = None) -> Float64[np.ndarray, " R"]:
    """Return Kendall's tau-b for each row of weights, as `spearman`. It holds N x N numbers."""
    if weights is None:
        weights = np.ones((1, len(one)))
    first, second = (
        np.sign(side[:, None] - side) for side in (np.asarray(one, float), np.asarray(two, float))
    )

    def over_pairs(matrix: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, " R"]:
        return ((weights @ matrix) * weights).sum(axis=1)

    with np.errstate(invalid="ignore"):
        untied = [np.sqrt(over_pairs(np.abs(side))) for side in (first, second)]
        return (over_pairs(first * second) / untied[0] / untied[1]).clip(-1, 1)
