"""sample queries of an index, and their true neighbours, found as all rows pass to be added

The queries are rows of the view themselves. Part by part their nearest rows are remembered; put together they are what
an exact search over the whole view would find, and the recall of any search is counted against them.

Guarantees
- parts_make_the_whole: the truth of the parts, joined, is that of one exact search over all rows
- never_itself: a query's own row counts neither as found nor as missed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from common.streams import generator
from retrieval.exact.search import SPARE, Passing
from retrieval.index.files import DamagedIndex, read_arrays
from retrieval.vectors import normalised
from store import Store, View

K = 10  # neighbours whose recall is counted
FEWEST, MOST = 16, 256  # queries
LISTS_A_QUERY = 20  # a row is compared with every list's centroid to be added: so a query costs a twentieth of that
FORMS = {"rows": ("<i8", 1), "queries": ("<f4", 2), "near": ("<i8", 2), "estimates": ("<f4", 2)}  # arrays on disk
EQUAL = 1e-6  # cosines as near as that are the same neighbour


@dataclass(frozen=True)
class Sample:
    """Queries, and the rows nearest to each among those that have passed."""

    rows: Int64[np.ndarray, " queries"]
    """rows that are the queries"""
    queries: Float32[np.ndarray, "queries dim"]
    near: Int64[np.ndarray, "queries kept"]
    """-1 where fewer have passed"""
    estimates: Float32[np.ndarray, "queries kept"]

    @classmethod
    def drawn(cls, store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"], lists: int) -> Sample:
        """Queries out of `rows`, the same in every run; nothing has passed."""
        count = min(max(FEWEST, min(MOST, lists // LISTS_A_QUERY)), len(rows))
        chosen = np.sort(generator(0, "recall queries").choice(rows, count, replace=False))
        queries = normalised(store, view, feature, chosen).astype(np.float32)
        return cls.passed(chosen, Passing(queries, K + 1 + SPARE))

    @classmethod
    def passed(cls, rows: Int64[np.ndarray, " queries"], passing: Passing) -> Sample:
        """What has passed so far."""
        return cls(rows, passing.queries, passing.rows, passing.estimates)

    @classmethod
    def read(cls, path: Path, filled: Int64[np.ndarray, " filled"]) -> Sample:
        """Return a sample that was written.

        Args:
            path: its file.
            filled: rows of the view, among which all its rows must be.

        Raises:
            DamagedIndex: the file is no sample of these rows.
        """
        arrays = read_arrays(path, FORMS)
        if len({len(array) for array in arrays.values()}) != 1 or arrays["near"].shape != arrays["estimates"].shape:
            raise DamagedIndex(f"{path.name} is damaged: its arrays have different lengths")
        one = cls(**arrays)
        if not np.isin(np.append(one.rows, one.near[one.near != -1]), filled).all():
            raise DamagedIndex(f"{path.name} is damaged: it names rows that have no features")
        return one

    def write(self, path: Path) -> None:
        """Write it as the file `path`."""
        with open(path, "wb") as file:
            np.savez(file, rows=self.rows, queries=self.queries, near=self.near, estimates=self.estimates)

    def anew(self) -> Passing:
        """The queries, before anything passes."""
        return Passing(self.queries, self.near.shape[1])

    def joined(self, others: Sequence[Sample]) -> Sample:
        """What has passed here and in `others`, which have the same queries."""
        every = [self, *others]
        near = np.concatenate([one.near for one in every], axis=1)
        estimates = np.concatenate([one.estimates for one in every], axis=1)
        order = np.lexsort((near, -estimates))[:, : self.near.shape[1]]
        take = np.take_along_axis
        return Sample(self.rows, self.queries, take(near, order, axis=1), take(estimates, order, axis=1))

    def least_cosines(self, store: Store, view: View, feature: str) -> Float32[np.ndarray, "queries k"]:
        """The cosines of each query's true neighbours other than itself, best first, -inf where there are fewer."""
        passing = self.anew()
        passing.rows, passing.estimates = self.near, self.estimates
        rows, cosines, _ = passing.settle(store, view, feature, K + 1)
        return without_itself(rows, cosines, self.rows)[1]


def without_itself(
    rows: Int64[np.ndarray, "queries more"],
    cosines: Float32[np.ndarray, "queries more"],
    itself: Int64[np.ndarray, " queries"],
) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """Found rows and cosines (best first) without each query's own row, one fewer of each."""
    last = np.argsort(rows == itself[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(rows, last, axis=1), np.take_along_axis(cosines, last, axis=1)


def recall(found: Float32[np.ndarray, "queries k"], true: Float32[np.ndarray, "queries k"]) -> float:
    """The share of true neighbours that were found, by their cosines: equal ones stand for each other."""
    sought = np.isfinite(true)
    worst = np.min(np.where(sought, true, np.inf), axis=1, keepdims=True)
    hits = np.minimum(np.sum(found >= worst - EQUAL, axis=1), np.sum(sought, axis=1))
    return float(np.sum(hits) / max(np.sum(sought), 1))
