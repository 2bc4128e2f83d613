"""95 % intervals and p values of figures, by resampling groups of rows.

A figure is a function of sums over rows. Rows that share a reference video are not independent, so
whole videos are drawn, with replacement. Two methods are compared on the same resamples: a draw
that is easy for both cancels.

Parts are rounded to multiples of GRID before they are summed. Sums of such numbers have no rounding
error up to 2^23 (whole numbers: up to 2^53), so that neither the order of summation nor the
processor changes them. The last bit of a part, as exp and log leave it, disappears in the rounding.
Differences up to TIE are ties: the formula of a figure, or a mean over trainings, has a last bit of
its own.

An interval of eight groups or more is as wide as Student's: it covers the true mean of normal draws
95 times in 100. An interval of fewer groups cannot extend beyond their own figures and covers it
less often. No interval exists if nothing can be resampled: fewer than two groups, or an undefined
figure.

Guarantees
- the same seed gives the same interval, on every processor
- an interval equals recomputing the figure on each resample (CIDEr keeps the document frequencies
  of the test set)
- a true null hypothesis is rejected as often as the level says, also with few groups; p is never 0
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from stepdiff_core.streams import published

Mask = Bool[np.ndarray, " rows"]
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 64
GRID = 2.0**-30
"""parts of figures are summed as multiples of this"""
TIE = 1e-9
"""differences up to this are ties: rounding to GRID moves a mean by half a step at most, a
difference of two by one"""


@dataclass(frozen=True)
class Figure:
    """A figure of a test set: `value` of the sums of `parts` over rows."""

    parts: Float64[np.ndarray, "rows parts"]
    value: Callable[[Float64[np.ndarray, "*batch parts"]], Float64[np.ndarray, "*batch"]]

    def of(self, rows: Mask | None = None) -> float:
        """Return the figure over the marked rows (default: all), NaN if it is undefined."""
        return float(self.value(self.parts[() if rows is None else rows].sum(axis=0)))


def mean_figure(values: Float64[np.ndarray, " rows"], counted: Mask | None = None) -> Figure:
    """Return the mean of the counted values (default: all) as a figure, NaN for none."""
    if counted is None:
        counted = np.ones(len(values), bool)
    return ratio_figure(np.where(counted, values, 0.0), counted.astype(float))


def ratio_figure(
    above: Float64[np.ndarray, " rows"], below: Float64[np.ndarray, " rows"]
) -> Figure:
    """Return the sum of `above` divided by the sum of `below` as a figure, NaN if that is 0."""
    return Figure(np.stack([above, below], axis=1), _ratio)


def _ratio(sums: Float64[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch"]:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def draw_counts(groups: int, resamples: int, seed: int) -> Float64[np.ndarray, "resamples groups"]:
    """Return how often each resample contains each group."""
    generator = published(seed)
    counts = np.empty((resamples, groups))
    for start in range(0, resamples, DRAWS_AT_ONCE):
        part = counts[start : start + DRAWS_AT_ONCE]
        drawn = generator.integers(groups, size=part.shape) + groups * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    return counts


class Resamples:
    """Draws of whole groups; all figures over the same rows use the same draws, so they can be
    compared."""

    def __init__(self, groups: Sequence[str], resamples: int, seed: int) -> None:
        """Draw; `groups` [rows] names the group of each row. Fewer than two groups have no
        resamples."""
        numbers: dict[str, int] = {}
        self.member = np.array(
            [numbers.setdefault(group, len(numbers)) for group in groups], np.int64
        )
        self.groups, self.resamples = len(numbers), resamples
        self.counts = draw_counts(self.groups, resamples if self.groups > 1 else 0, seed)

    def values(self, figure: Figure) -> Float64[np.ndarray, " resamples"]:
        """Return the figure on each resample, NaN if it is undefined."""
        parts = np.rint(figure.parts / GRID) * GRID
        sums = np.stack([np.bincount(self.member, part, self.groups) for part in parts.T], axis=1)
        return figure.value(self.counts @ sums)

    def intervals(self, figures: Mapping[str, Figure]) -> dict[str, list[float] | None]:
        """Return [low, high] of each figure; nothing without resamples."""
        both = {
            name: interval(self.values(figure), self.groups)
            for name, figure in figures.items()
            if self.resamples
        }
        return {name: None if ends is None else list(ends) for name, ends in both.items()}


def tail_share(groups: int) -> float:
    """Return the share of resamples beyond either end of the interval of a figure over `groups`
    groups.

    Resamples of few groups vary too little, by a factor of sqrt((n - 1) / n). So the share is the
    normal tail beyond Student's quantile, widened by that factor (Hesterberg 2015, "What Teachers
    Should Know About the Bootstrap", the expanded percentile interval).
    """
    # here: it takes half a second, and commands that print a table do not need it
    from scipy import stats

    student = stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1)
    return float(stats.norm.cdf(-student * math.sqrt(groups / (groups - 1))))


def interval(values: Float64[np.ndarray, " resamples"], groups: int) -> tuple[float, float] | None:
    """Return (low, high) of a figure's values on resamples of `groups` groups; undefined values are
    left out.

    None if no value is left, or for fewer than two groups.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0 or groups < 2:
        return None
    tail = tail_share(groups)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def values_and_counts(
    figures: Mapping[str, Figure], counts: Mapping[str, Mask], rows: Mask
) -> dict[str, Any]:
    """Return figures over the marked rows, how many of them each of `counts` marks, and their
    number, for JSON."""
    numbers = {name: int((counted & rows).sum()) for name, counted in counts.items()}
    return {**values_of(figures, rows), **numbers, "rows": int(rows.sum())}


def values_of(figures: Mapping[str, Figure], rows: Mask | None = None) -> dict[str, float | None]:
    """Return figures over the marked rows (default: all), None if one is undefined."""
    values = {name: figure.of(rows) for name, figure in figures.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def paired_p(differences: Float64[np.ndarray, " resamples"], groups: int) -> float | None:
    """Return the two-sided p of "there is no difference"; None if all differences are undefined
    (NaN), or for fewer than two groups.

    `differences` compare two figures on the same resamples of `groups` groups; up to TIE they are
    zero. The smaller share of resamples at or below zero and at or above zero, with one resample
    added to each count for the test set itself, is converted to a distance from zero of a normal
    variable; p is twice Student's tail beyond it, corrected as in `tail_share`.
    """
    defined = differences[np.isfinite(differences)]
    if len(defined) == 0 or groups < 2:
        return None
    fewer = min(np.sum(defined <= TIE), np.sum(defined >= -TIE))
    from scipy import stats

    distance = stats.norm.ppf(min(0.5, (1 + fewer) / (1 + len(defined))))
    return float(2 * stats.t.cdf(distance * math.sqrt((groups - 1) / groups), groups - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the given order (Holm 1979, family-wise
    error)."""
    order = np.argsort(values, kind="stable")
    steps = np.array(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
