"""Exact cosines of an index's hits, compared where the rows are mapped.

Reading a row by itself costs more than finding it in an index. So runs of consecutive rows that are often compared stay
mapped, if main memory holds them, and are compared in place. Other rows are read from the store.

Guarantees
- a_replaced_shard_is_mapped_again: rows that were written again are compared as they are now
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from retrieval.exact import check_directions, cosines, fill_cosines
from retrieval.vectors import BLOCK
from stepdiff.common.io.direct_io import fill_memory
from store import Store, View

OFTEN = 32  # rows of a run that are compared before it is mapped, and before another try


class Hits:
    """Compares filled rows of one feature with queries. Safe to share between threads."""

    def __init__(self, store: Store, view: View, feature: str, filled: Int64[np.ndarray, " filled"]) -> None:
        self._given = store, view, feature
        size = min(BLOCK, view.rows_per_shard)  # powers of two: a run belongs to one shard
        first = np.flatnonzero((np.diff(filled, prepend=-2) > 1) | (filled % size == 0))
        self._starts, self._ends = filled[first], filled[[*first[1:] - 1, -1]] + 1
        self._compared = np.zeros(len(first), np.int64)  # since the run was mapped, or could not be
        self._mapped: dict[int, tuple[Any, Float32[np.ndarray, "run dim"]]] = {}
        """version of its shard file, and its vectors, by number of the run"""
        self._in_place = view.features[feature].dtype == "float32" and not view.paths.store.remote
        self._fits = not fill_memory(len(view) * view.features[feature].shape[0] * 4)

    def cosines(
        self, queries: Float32[np.ndarray, "queries dim"], rows: Int64[np.ndarray, "queries some"]
    ) -> Float64[np.ndarray, "queries some"]:
        """Return the float64 cosine of each normalised query to each of its own rows; -inf where the row is -1.

        Raises StepDiffError for a row without a direction, or one that can no longer be read.
        """
        exact = np.full(rows.shape, -np.inf)
        query, rank = np.nonzero(rows >= 0)
        wanted = rows[query, rank]
        order = np.argsort(wanted)
        runs = np.searchsorted(self._starts, wanted[order], side="right") - 1
        bounds = [*np.flatnonzero(np.diff(runs, prepend=-1)).tolist(), len(order)]
        out, left, versions = np.empty(len(wanted)), np.ones(len(wanted), bool), dict[int, Any]()
        for start, end in pairwise(bounds) if self._in_place else ():
            run, places = int(runs[start]), order[start:end]
            vectors = self._vectors(run, len(places), versions)
            if vectors is not None:
                some = np.empty(len(places))
                fill_cosines(vectors, wanted[places] - self._starts[run], queries, query[places], 0, len(places), some)
                out[places], left[places] = some, False
        store, view, feature = self._given
        check_directions(store, view, feature, wanted[~left], out[~left])
        out[left] = cosines(store, view, feature, queries, query[left], wanted[left])
        exact[query, rank] = out
        return exact

    def _vectors(self, run: int, count: int, versions: dict[int, Any]) -> Float32[np.ndarray, "run dim"] | None:
        """Return a mapped run, of which `count` rows are compared, or None. `versions`: of shards, in this search."""
        _, view, feature = self._given
        shard = int(self._starts[run]) // view.rows_per_shard
        if shard not in versions:
            versions[shard] = view.paths.shard(feature, shard, 2).identity()
        version, vectors = self._mapped.get(run, (None, None))
        if vectors is not None and version == versions[shard]:
            return vectors
        self._compared[run] += count
        if self._compared[run] < OFTEN:
            return None
        self._compared[run] = 0
        rows = np.arange(self._starts[run], self._ends[run])
        vectors = view.in_place(feature, rows)
        if vectors is None and self._fits:
            view.read(feature, rows)  # into memory
            vectors = view.in_place(feature, rows)
        if vectors is not None:
            self._mapped[run] = versions[shard], vectors
        return vectors
