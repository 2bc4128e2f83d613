"""The k best rows of many queries, updated block by block.

Guarantees
- the_best_come_first: rows are sorted by falling cosine; rows with equal cosines keep the order in which they arrived
- a_row_is_never_its_own_neighbour: a candidate whose `apart` equals that of the query is skipped
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from common.threads import cores, each
from retrieval.exact.kernels import compiled, insert

ASKING, CANDIDATES = 1024, 4096  # queries and candidates multiplied at a time: 17 MB of cosines


@dataclass(frozen=True)
class Best:
    """The k best rows of each query so far; missing ones have row -1 and cosine -inf."""

    rows: Int64[np.ndarray, "asking k"]
    cosines: Float32[np.ndarray, "asking k"]

    @classmethod
    def none(cls, asking: int, k: int) -> Best:
        """Return the state before any candidate."""
        return cls(np.full((asking, k), -1, np.int64), np.full((asking, k), -np.inf, np.float32))

    def of(self, some: slice) -> Best:
        """Return a view of some of the queries."""
        return Best(self.rows[some], self.cosines[some])

    def see(
        self,
        asking: Float32[np.ndarray, "asking dim"],
        asking_apart: Int64[np.ndarray, " asking"],
        vectors: Float32[np.ndarray, "candidates dim"],
        rows: Int64[np.ndarray, " candidates"],
        apart: Int64[np.ndarray, " candidates"],
    ) -> None:
        """Update with candidates: their normalised vectors and their rows."""
        for start in range(0, len(asking), ASKING):
            tile = slice(start, start + ASKING)
            mine, best_rows, best = asking_apart[tile], self.rows[tile], self.cosines[tile]
            for first in range(0, len(vectors), CANDIDATES):
                block = slice(first, first + CANDIDATES)
                _keep_all(asking[tile] @ vectors[block].T, mine, rows[block], apart[block], best_rows, best)


def _keep_all(
    cosines: Float32[np.ndarray, "asking block"],
    mine: Int64[np.ndarray, " asking"],
    rows: Int64[np.ndarray, " block"],
    theirs: Int64[np.ndarray, " block"],
    best_rows: Int64[np.ndarray, "asking k"],
    best: Float32[np.ndarray, "asking k"],
) -> None:
    """`_keep` with the queries divided among the cores."""
    size = -(-len(cosines) // cores())

    def keep(first: int) -> None:
        some = slice(first, first + size)
        _keep(cosines[some], mine[some], rows, theirs, best_rows[some], best[some])

    each(keep, range(0, len(cosines), size))


@compiled
def _keep(
    cosines: Float32[np.ndarray, "some block"],
    mine: Int64[np.ndarray, " some"],
    rows: Int64[np.ndarray, " block"],
    theirs: Int64[np.ndarray, " block"],
    best_rows: Int64[np.ndarray, "some k"],
    best: Float32[np.ndarray, "some k"],
) -> None:
    """Insert each cosine that is better than the last one kept."""
    last = best.shape[1] - 1
    for one in range(cosines.shape[0]):
        for other in range(cosines.shape[1]):
            cosine = cosines[one, other]
            if cosine > best[one, last] and mine[one] != theirs[other]:
                insert(cosine, rows[other], best[one], best_rows[one])
