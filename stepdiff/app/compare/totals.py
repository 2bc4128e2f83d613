"""Totals of the methods over the selected rows: figures, intervals, and the comparison with one of them.

Figures are those of `stepdiff.tasks.scoring`; an interval resamples the videos of the reference clips of the selected
rows; methods are compared on the rows that both have answered, on the same resamples. CIDEr has the document
frequencies of the rows that it is computed on.

Guarantees
- totals equal the report of a test set with the selected rows: figures, intervals, differences and p
- no interval of fewer than two videos
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from jaxtyping import Bool, Float64

from heads.reporting.entries import AMONG, METRICS
from stepdiff.app.compare.sets import Column, TestSet
from stepdiff.tasks.bootstrap import Figure, Resamples, interval, paired_p
from stepdiff.tasks.scoring import cider_figure

RESAMPLES, SEED = 1000, 0
"""as heads.evaluate has them by default"""
Mask = Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class Total:
    """A figure of a method over the selected rows."""

    metric: str
    value: float | None
    """null if it is undefined"""
    interval: tuple[float, float] | None
    """95 %, by resampling the videos of the reference clips"""
    rows: int
    videos: int


@dataclass(frozen=True)
class Versus:
    """A method compared with method A, on the selected rows that both have answered."""

    difference: float | None
    """its figure less that of A"""
    interval: tuple[float, float] | None
    p: float | None
    """two-sided, under no difference; not corrected for the number of comparisons"""
    rows: int


@dataclass(frozen=True)
class MethodTotals:
    """The totals of a method."""

    figures: list[Total]
    undecided: int
    """rows whose highest score several options share, or to which it gives no order"""


class Totals:
    """Totals over the rows that a mask selects."""

    def __init__(self, tests: TestSet, mask: Mask) -> None:
        self._tests, self._mask = tests, mask
        self._draws: dict[bytes, Resamples] = {}
        self._rarities: dict[tuple[str, bytes], Figure] = {}

    def of(self, column: Column) -> MethodTotals:
        """Return the totals of a method over the selected rows that it answers."""
        mask = self._mask & column.answered
        return MethodTotals(
            figures=[self._total(column, metric, mask) for metric in self._tests.metrics],
            undecided=int((column.undecided & mask).sum()),
        )

    def _total(self, column: Column, metric: str, mask: Mask) -> Total:
        rows, videos = self._counts(metric, mask)
        value, values = self._values(column, metric, mask)
        within = interval(values, videos) if videos > 1 else None
        return Total(metric, value if math.isfinite(value) else None, within, rows, videos)

    def versus(self, column: Column, base: Column, metric: str) -> Versus:
        """Return a method compared with another by a figure."""
        mask = self._mask & column.answered & base.answered
        rows, videos = self._counts(metric, mask)
        (mine, my_values), (other, other_values) = (self._values(each, metric, mask) for each in (column, base))
        difference = mine - other if math.isfinite(mine - other) else None
        apart = my_values - other_values
        known = difference is not None and videos > 1
        return Versus(
            difference,
            interval(apart, videos) if known else None,
            paired_p(apart, videos) if known else None,
            rows,
        )

    def _counts(self, metric: str, mask: Mask) -> tuple[int, int]:
        """Return how many marked rows a figure is defined on, and of how many videos."""
        counted = mask & self._tests.defined(metric)
        return int(counted.sum()), len(set(compress(self._tests.videos, counted)))

    def _values(self, column: Column, metric: str, mask: Mask) -> tuple[float, Float64[np.ndarray, " resamples"]]:
        """Return a figure over the marked rows, and on each resample."""
        whole = column.figures[metric]
        figure = Figure(whole.parts[mask], whole.value)
        if metric == "CIDEr" and not np.array_equal(mask, column.answered):
            figure = self._cider(column, mask)
        return figure.of(), self._resamples(mask).values(figure)

    def _cider(self, column: Column, mask: Mask) -> Figure:
        """Return CIDEr with the document frequencies of the marked rows."""
        key = column.letter, mask.tobytes()
        if key not in self._rarities:
            rows, places = list(compress(self._tests.rows, mask)), np.flatnonzero(mask).tolist()
            self._rarities[key] = cider_figure(rows, [column.said(place) for place in places])
        return self._rarities[key]

    def _resamples(self, mask: Mask) -> Resamples:
        key = mask.tobytes()
        if key not in self._draws:
            self._draws[key] = Resamples(list(compress(self._tests.videos, mask)), RESAMPLES, SEED)
        return self._draws[key]


def names(metrics: Sequence[str]) -> dict[str, str]:
    """Return a heading of each figure."""
    return {metric: METRICS[metric].removesuffix(", as written") + AMONG.get(metric, "") for metric in metrics}
