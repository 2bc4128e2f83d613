"""Sample queries of an index and their true neighbours, found while the rows are added to the index.

The queries are rows of the view. Each part of the index keeps the rows nearest to them; joined, these are the result
of an exact search of the whole view, against which the recall of the index is measured.

Guarantees
- parts_find_the_true_neighbours_of_all_rows: the joined neighbours of the parts are those of one exact search over all
  rows
- a_row_is_never_its_own_neighbour: a query's own row counts neither as found nor as missed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from common.streams import generator
from retrieval.exact import SPARE, Passing
from retrieval.index.index import DamagedIndex, read_arrays
from retrieval.vectors import normalised
from store import Store, View

K = 10  # neighbours of the recall
FEWEST, MOST = 64, 256  # queries; with fewer, the measured recall is off by more than three hundredths
LISTS_A_QUERY = 20  # lists per query: adding a row compares it with every list, so the queries cost a twentieth of that
FORMS = {"rows": ("<i8", 1), "queries": ("<f4", 2), "near": ("<i8", 2), "estimates": ("<f4", 2)}  # arrays on disk
EQUAL = 1e-6  # difference up to which two cosines are the same neighbour


@dataclass(frozen=True)
class Sample:
    """Queries, and the rows nearest to each among those seen so far."""

    rows: Int64[np.ndarray, " queries"]
    """rows of the queries"""
    queries: Float32[np.ndarray, "queries dim"]
    near: Int64[np.ndarray, "queries kept"]
    """-1 where fewer rows were seen"""
    estimates: Float32[np.ndarray, "queries kept"]

    @classmethod
    def drawn(cls, store: Store, view: View, feature: str, rows: Int64[np.ndarray, " rows"], lists: int) -> Sample:
        """Draw queries from `rows`, the same in every run; no row has been seen yet."""
        count = min(max(FEWEST, min(MOST, lists // LISTS_A_QUERY)), len(rows))
        chosen = np.sort(generator(0, "recall queries").choice(rows, count, replace=False))
        queries = normalised(store, view, feature, chosen).astype(np.float32)
        return cls.passed(chosen, Passing(queries, K + 1 + SPARE))

    @classmethod
    def passed(cls, rows: Int64[np.ndarray, " queries"], passing: Passing) -> Sample:
        """Return the sample with the rows that `passing` has kept."""
        return cls(rows, passing.queries, passing.rows, passing.estimates)

    @classmethod
    def read(cls, path: Path, filled: Int64[np.ndarray, " filled"]) -> Sample:
        """Read a sample whose rows are among `filled`. Raises DamagedIndex for any other file."""
        arrays = read_arrays(path, FORMS)
        if len({len(array) for array in arrays.values()}) != 1 or arrays["near"].shape != arrays["estimates"].shape:
            raise DamagedIndex(f"{path.name} is damaged: its arrays have different lengths")
        one = cls(**arrays)
        if not np.isin(np.append(one.rows, one.near[one.near != -1]), filled).all():
            raise DamagedIndex(f"{path.name} is damaged: it names rows that have no features")
        return one

    def write(self, path: Path) -> None:
        """Write the sample to `path`."""
        with open(path, "wb") as file:
            np.savez(file, rows=self.rows, queries=self.queries, near=self.near, estimates=self.estimates)

    def empty(self) -> Passing:
        """Return the queries before any row was seen."""
        return Passing(self.queries, self.near.shape[1])

    def joined(self, others: Sequence[Sample]) -> Sample:
        """Join with `others`, samples of the same queries over other rows."""
        every = [self, *others]
        near = np.concatenate([one.near for one in every], axis=1)
        estimates = np.concatenate([one.estimates for one in every], axis=1)
        order = np.lexsort((near, -estimates))[:, : self.near.shape[1]]
        take = np.take_along_axis
        return Sample(self.rows, self.queries, take(near, order, axis=1), take(estimates, order, axis=1))

    def least_cosines(self, store: Store, view: View, feature: str) -> Float32[np.ndarray, "queries k"]:
        """Return the cosines of each query's true neighbours except itself, best first, -inf where fewer exist."""
        passing = self.empty()
        passing.rows, passing.estimates = self.near, self.estimates
        rows, cosines, _ = passing.settle(store, view, feature, K + 1)
        return without_itself(rows, cosines, self.rows)[1]


def without_itself(
    rows: Int64[np.ndarray, "queries more"],
    cosines: Float32[np.ndarray, "queries more"],
    itself: Int64[np.ndarray, " queries"],
) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """Return found rows and cosines (best first) without each query's own row, one fewer of each."""
    last = np.argsort(rows == itself[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(rows, last, axis=1), np.take_along_axis(cosines, last, axis=1)


def recall(found: Float32[np.ndarray, "queries k"], true: Float32[np.ndarray, "queries k"]) -> float:
    """Return the share of true neighbours that were found; rows with equal cosines are interchangeable."""
    sought = np.isfinite(true)
    worst = np.min(np.where(sought, true, np.inf), axis=1, keepdims=True)
    hits = np.minimum(np.sum(found >= worst - EQUAL, axis=1), np.sum(sought, axis=1))
    return float(np.sum(hits) / max(np.sum(sought), 1))
