"""Exact cosines of an index's hits, compared where the rows are mapped.

Reading a row by itself costs more than finding it in an index. So stretches of rows that are often compared are mapped,
and compared in place; if main memory can hold the whole view, they are read into it first. Other rows are read one by
one from the store.

Guarantees
- mapped_rows_give_the_same_cosines: a cosine is the same float64, wherever its row was compared
- a_replaced_shard_is_mapped_again: rows that were written again are compared as they are now
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from common.io.direct_io import fill_memory
from common.threads import cores, each, shares
from retrieval.exact import compared, cosines_at, squares
from retrieval.vectors import BLOCK
from store import Store, View
from store.view import OK

OFTEN = 32  # rows of a stretch that were compared before it is mapped
LATER = 1024  # rows of a stretch to compare before another try, if rows of it could not be mapped
A_THREAD = 256  # rows to compare that are worth a thread
SHORTEST = 64  # rows between failed ones that are worth a call


class _Mapped:
    """Mapped rows of shard files of some versions. An address is valid as long as this object exists."""

    def __init__(self, rows: int, stretches: int) -> None:
        self.addresses = np.zeros(rows, np.int64)  # 0: not mapped; pages that are not written take no memory
        self.norms = np.zeros(rows)
        self.left = np.full(stretches, OFTEN)  # rows of a stretch to compare before it is mapped
        self.shards: dict[int, object] = {}  # version of each shard file when its first row was mapped
        self.kept: list[np.ndarray] = []


class Hits:
    """Compares rows of one feature with queries. Safe to share between threads."""

    def __init__(self, store: Store, view: View, feature: str) -> None:
        self._given = store, view, feature
        self._stretch = min(BLOCK, view.rows_per_shard)  # powers of two: a stretch belongs to one shard
        self._in_place = view.features[feature].dtype == "float32" and not view.paths.store.remote
        self._fits = not fill_memory(len(view) * view.features[feature].shape[0] * 4)
        self._mapped = self._none()

    def cosines(
        self, queries: Float32[np.ndarray, "queries dim"], rows: Int64[np.ndarray, "queries some"]
    ) -> Float64[np.ndarray, "queries some"]:
        """Return the float64 cosine of each normalised query to each of its own rows; -inf where the row is -1.

        Raises StepDiffError for a row without a direction, or one that can no longer be read.
        """
        exact = np.full(rows.shape, -np.inf)
        asking, ranks = np.nonzero(rows >= 0)
        wanted = rows[asking, ranks]
        mapped = self._current(wanted)
        addresses = mapped.addresses[wanted]
        lying = np.argsort(addresses)  # in the order of memory, equal rows together
        lying = lying[np.count_nonzero(addresses == 0) :]
        if len(lying):
            cosines = np.empty(len(lying))
            given = addresses[lying], mapped.norms[wanted[lying]], queries, asking[lying]
            parts = shares(len(lying), min(cores(), -(-len(lying) // A_THREAD)))
            each(lambda part: cosines_at(*given, *part, cosines), parts)
            good = np.isfinite(cosines)  # `compared` names a row without a direction
            exact[asking[lying[good]], ranks[lying[good]]] = cosines[good]
        others = np.where(exact == -np.inf, rows, -1)
        if (others >= 0).any():
            exact = np.maximum(exact, compared(*self._given, queries, others))
        return exact

    def _none(self) -> _Mapped:
        rows = len(self._given[1])
        return _Mapped(rows, -(-rows // self._stretch))

    def _current(self, wanted: Int64[np.ndarray, " wanted"]) -> _Mapped:
        """Return the mapped rows, after a few of the stretches that `wanted` often needs were added."""
        mapped, (_, view, _) = self._mapped, self._given
        if not self._in_place or not len(wanted):
            return mapped
        if wanted.max() >= len(mapped.addresses):  # the view has grown
            mapped = self._mapped = self._none()
        counts = np.bincount(wanted // self._stretch, minlength=len(mapped.left))
        touched = np.flatnonzero(
            np.add.reduceat(counts, np.arange(0, len(counts), view.rows_per_shard // self._stretch))
        )
        if any(mapped.shards.get(shard, now) != now for shard, now in self._versions(touched)):
            mapped = self._mapped = self._none()
        mapped.left -= counts
        for stretch in np.flatnonzero((mapped.left < 0) & (counts > 0)).tolist():
            self._map(mapped, stretch)
        return mapped

    def _versions(self, shards: Int64[np.ndarray, " shards"]) -> list[tuple[int, Any]]:
        _, view, feature = self._given
        return [(shard, view.paths.shard(feature, shard, 2).identity()) for shard in shards.tolist()]

    def _map(self, mapped: _Mapped, stretch: int) -> None:
        """Add the rows of a stretch that are in main memory, or fit into it."""
        _, view, feature = self._given
        shard, slot = divmod(stretch * self._stretch, view.rows_per_shard)
        for known, now in self._versions(np.array([shard])):
            mapped.shards.setdefault(known, now)
        filled = np.flatnonzero(view.shard_status(shard)[slot : slot + self._stretch] == OK) + stretch * self._stretch
        mapped.left[stretch] = np.iinfo(np.int64).max // 2
        for run in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
            vectors = view.in_place(feature, run) if len(run) >= SHORTEST else None
            if vectors is None and len(run) >= SHORTEST and self._fits:
                view.read(feature, run)  # into memory
                vectors = view.in_place(feature, run)
            if vectors is None:
                mapped.left[stretch] = LATER
                continue
            mapped.kept.append(vectors)
            mapped.norms[run] = np.sqrt(squares(vectors))
            mapped.addresses[run] = vectors.ctypes.data + np.arange(len(run)) * vectors.strides[0]
