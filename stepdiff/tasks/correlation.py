"""Rank correlations of two values of items, of all items or of many resamples of them at once.

Shape legend: N items; R resamples. A resample is a row of weights: how often it contains each item.

Guarantees
- without resamples a correlation equals that of scipy
- a resample's correlation equals that of the items repeated as often as they were drawn
- a correlation is NaN where all values of one side tie
"""

import numpy as np
from jaxtyping import Float, Float64

Values = Float[np.ndarray, " N"]
Weights = Float64[np.ndarray, "R N"]


def spearman(one: Values, two: Values, weights: Weights | None = None) -> Float64[np.ndarray, " R"]:
    """Return Spearman's rho for each row of weights; weights: None for one row of ones."""
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
    first, second = (np.sign(side[:, None] - side) for side in (np.asarray(one, float), np.asarray(two, float)))

    def over_pairs(matrix: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, " R"]:
        return ((weights @ matrix) * weights).sum(axis=1)

    with np.errstate(invalid="ignore"):
        untied = [np.sqrt(over_pairs(np.abs(side))) for side in (first, second)]
        return (over_pairs(first * second) / untied[0] / untied[1]).clip(-1, 1)
