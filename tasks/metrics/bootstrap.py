"""Figures that are functions of sums over rows, and their 95 % intervals by resampling groups of rows.

Rows that share a reference video are no independent draws, so whole videos are drawn, with replacement.

Is one method's figure above another's? Both figures are taken from the same resamples, so that what makes a draw of
videos easy or hard for both cancels.

Guarantees
- the same seed gives the same interval
- an interval is that of recomputing the figure on each resample (CIDEr's document frequencies stay the test set's)
- an interval of few groups, eight or more, is as wide as Student's: it holds the true mean of normal draws 95 times in
  100. That of fewer cannot reach beyond their own figures, and holds it less often
- no interval where there is nothing to resample: fewer than two groups, or a figure that is undefined
- p is that of counting, resample by resample, on which side of zero the difference falls, widened for few groups
- no difference is rejected as often as the level says, of few groups as well
- p is never 0: no number of resamples shows more than that
- corrected values are Holm's: the smallest level at which his procedure rejects
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from common.streams import published

CONFIDENCE = 0.95
DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class Figure:
    """A figure of a test set: `value` of the sums of `parts` over rows."""

    parts: Float64[np.ndarray, "rows parts"]
    value: Callable[[Float64[np.ndarray, "*batch parts"]], Float64[np.ndarray, "*batch"]]

    def of(self, rows: Bool[np.ndarray, " rows"] | None = None) -> float:
        """The figure over the rows that are marked; NaN where it is undefined."""
        return float(self.value(self.parts[() if rows is None else rows].sum(axis=0)))


def mean_figure(values: Float64[np.ndarray, " rows"], counted: Bool[np.ndarray, " rows"] | None = None) -> Figure:
    """The mean of the values that are counted, all of them by default; NaN where none is."""
    if counted is None:
        counted = np.ones(len(values), bool)
    return Figure(np.stack([np.where(counted, values, 0.0), counted.astype(float)], axis=1), _ratio)


def _ratio(sums: Float64[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch"]:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def draw_counts(groups: int, resamples: int, seed: int) -> Float64[np.ndarray, "resamples groups"]:
    """How often each group stands in each resample."""
    generator = published(seed)
    counts = np.empty((resamples, groups))
    for start in range(0, resamples, DRAWS_AT_ONCE):
        part = counts[start : start + DRAWS_AT_ONCE]
        drawn = generator.integers(groups, size=part.shape) + groups * np.arange(len(part))[:, None]
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    return counts


class Resamples:
    """Draws of whole groups; the same draws serve every figure over the same rows, so figures can be compared."""

    def __init__(self, groups: Sequence[str], resamples: int, seed: int) -> None:
        """groups [rows] names the group of each row; fewer than two of them leave nothing to draw."""
        numbers: dict[str, int] = {}
        self.member = np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
        self.groups = len(numbers)
        self.counts = draw_counts(self.groups, resamples if self.groups > 1 else 0, seed)

    def values(self, figure: Figure) -> Float64[np.ndarray, " resamples"]:
        """The figure on each resample; NaN where it is undefined."""
        sums = np.stack([np.bincount(self.member, part, self.groups) for part in figure.parts.T], axis=1)
        return figure.value(self.counts @ sums)


def tail_share(groups: int) -> float:
    """The share of resamples beyond either end of the interval of a figure over so many groups.

    Resamples of few groups lie too near one another, by a factor of sqrt((n - 1) / n), and how near is a matter of
    chance: so the share is that of a normal variable beyond Student's quantile, widened by that factor (Hesterberg
    2015, "What Teachers Should Know About the Bootstrap", the expanded percentile interval).
    """
    student = stats.t.ppf((1 + CONFIDENCE) / 2, groups - 1)
    return float(stats.norm.cdf(-student * math.sqrt(groups / (groups - 1))))


def interval(values: Float64[np.ndarray, " resamples"], groups: int) -> tuple[float, float] | None:
    """(low, high) of a figure's values on resamples of `groups`, those left out in which it is undefined."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    tail = tail_share(groups)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def intervals(
    figures: dict[str, Figure], groups: Sequence[str], resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """(low, high) of each figure; groups [rows] names the group of each row. One draw serves all figures."""
    draws = Resamples(groups, resamples, seed)
    return {name: interval(draws.values(figure), draws.groups) for name, figure in figures.items()}


def paired_p(differences: Float64[np.ndarray, " resamples"], groups: int) -> float | None:
    """Two-sided p of "there is no difference", from differences of two figures on the same resamples of `groups`.

    The smaller of the shares at or below and at or above zero, one resample added to each count for the test set
    itself, as a normal variable's distance from zero; then twice Student's share beyond it, as
    tasks.metrics.bootstrap.tail_share has it. Resamples where a figure is undefined (NaN) are left out; None where none
    is left.
    """
    known = differences[np.isfinite(differences)]
    if len(known) == 0:
        return None
    fewer = min(np.sum(known <= 0), np.sum(known >= 0))
    distance = stats.norm.ppf(min(0.5, (1 + fewer) / (1 + len(known))))
    return float(2 * stats.t.cdf(distance * math.sqrt((groups - 1) / groups), groups - 1))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979: the family's error stays below the level)."""
    order = np.argsort(values, kind="stable")
    steps = np.array(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
