"""Exact nearest neighbours: every embedding of a view passes through memory once, block by block.

A block of rows is multiplied with all queries in float32, and the best rows are kept, more than were requested. The
kept rows are compared again in float64. The error of a float32 product has a bound: where it leaves open whether a row
that was not kept is among the k best, the search of that query is repeated and keeps more rows.

`Best` searches vectors that are in memory, in float32. Compiled loops release Python's lock, so threads share the work;
numba's own threads would abort a process after a fork.

Guarantees
- exact_search_equals_float64: the k nearest rows are those of a float64 comparison of all rows, best first
- ties_are_ordered_by_row: among rows with the same embedding, the lower row comes first
- memory_is_bounded_by_a_few_blocks: at most a few blocks of the view are in memory
- the_best_come_first: rows are sorted by falling cosine; rows with equal cosines keep the order in which they arrived
- a_row_is_never_its_own_neighbour: a candidate whose `apart` equals that of the query is skipped
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import carray, types
from numba.extending import intrinsic
from threadpoolctl import ThreadpoolController

from common import threads
from common.threads import each, shares
from retrieval.vectors import checked_norms, chosen, raw_blocks, width
from store import Store, View

QUERIES = 1024  # multiplied at a time: scores of a block take 32 MiB at 768 channels
FEW = 16  # queries up to which one pass that also computes the norms is faster than BLAS and a second pass
SPARE = 22  # rows kept beyond k
MORE = 8  # factor by which more rows are kept when those do not decide
COMPARED = 16_384  # rows compared again at a time
ASKING, CANDIDATES = 1024, 4096  # queries and vectors in memory multiplied at a time: 17 MB of cosines
REORDER = ("reassoc", "nsz")  # a sum may use several lanes at once; each value is still a float64
LANES = 128  # scores compared at once before any single one is read
SHORTEST, LONGEST = 1e-30, 1e30  # lengths of rows that float32 can scale and multiply

Found = tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop; its sums may run in any order."""
    return threads.compiled(loop, REORDER)


@compiled
def dot(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """Return the inner product."""
    total = 0.0
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@compiled
def distance(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """Return the L2 distance."""
    total = 0.0
    for d in range(len(a)):
        total += (a[d] - b[d]) * (a[d] - b[d])
    return np.sqrt(total)


@compiled
def insert(score: float, row: int, falling: Float32[np.ndarray, " kept"], rows: Int64[np.ndarray, " kept"]) -> None:
    """Insert a score and its row into a falling list and drop the last; among equal scores, the first stays first.

    The score is higher than the last entry.
    """
    at = len(falling) - 1
    while at > 0 and falling[at - 1] < score:
        falling[at], rows[at] = falling[at - 1], rows[at - 1]
        at -= 1
    falling[at], rows[at] = score, row


@compiled
def squares_of(vectors: Float32[np.ndarray, "rows dim"], out: Float64[np.ndarray, " rows"]) -> None:
    """Fill `out` with the sum of squares of each row."""
    for row in range(vectors.shape[0]):
        total = 0.0
        for d in range(vectors.shape[1]):
            value = np.float64(vectors[row, d])
            total += value * value
        out[row] = total


@compiled
def multiply_few(
    vectors: Float32[np.ndarray, "rows dim"],
    queries: Float32[np.ndarray, "queries dim"],
    first: int,
    last: int,
    scores: Float32[np.ndarray, "rows queries"],
    sums: Float64[np.ndarray, " rows"],
) -> None:
    """Fill rows `first` to `last` (exclusive) of `scores` with inner products and of `sums` with sums of squares.

    Four queries at a time share each loaded value of a row.
    """
    fours = queries.shape[0] // 4 * 4
    for row in range(first, last):
        squares_of(vectors[row : row + 1], sums[row : row + 1])
        for query in range(0, fours, 4):
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for at in range(vectors.shape[1]):
                value = vectors[row, at]
                a += value * queries[query, at]
                b += value * queries[query + 1, at]
                c += value * queries[query + 2, at]
                d += value * queries[query + 3, at]
            scores[row, query], scores[row, query + 1], scores[row, query + 2], scores[row, query + 3] = a, b, c, d
        for query in range(fours, queries.shape[0]):
            total = np.float32(0)
            for at in range(vectors.shape[1]):
                total += vectors[row, at] * queries[query, at]
            scores[row, query] = total


@compiled
def keep_best(
    scores: Float32[np.ndarray, "rows queries"],
    factors: Float32[np.ndarray, " rows"],
    rows: Int64[np.ndarray, " rows"],
    first: int,
    last: int,
    best_rows: Int64[np.ndarray, "queries kept"],
    best: Float32[np.ndarray, "queries kept"],
) -> None:
    """Insert scores * factors that are better than the last of `best` into that falling list, with their rows.

    Only queries `first` to `last` (exclusive) are updated. Few scores are better, so LANES of them are compared at
    once. Among equal scores, the first stays first.
    """
    kept = best.shape[1]
    worst = best[:, kept - 1].copy()
    for row in range(scores.shape[0]):
        factor = factors[row]
        for start in range(first, last, LANES):
            end = min(start + LANES, last)
            some, theirs = scores[row, start:end], worst[start:end]  # numba vectorises loops that start at 0
            better = np.int32(0)
            for at in range(len(some)):
                better |= np.int32(some[at] * factor > theirs[at])
            if not better:
                continue
            for query in range(start, end):
                score = scores[row, query] * factor
                if score > worst[query]:
                    insert(score, rows[row], best[query], best_rows[query])
                    worst[query] = best[query, kept - 1]


def _as_pointer(context: Any, address: Any) -> Any:
    return types.CPointer(types.float32)(types.int64), lambda context, builder, signature, given: builder.inttoptr(
        given[0], context.get_value_type(signature.return_type)
    )


_pointer: Any = intrinsic(_as_pointer)
"""an address as a pointer to float32, in compiled loops"""


@compiled
def cosines_at(
    addresses: Int64[np.ndarray, " pairs"],
    norms: Float64[np.ndarray, " pairs"],
    queries: Float32[np.ndarray, "queries dim"],
    asking: Int64[np.ndarray, " pairs"],
    first: int,
    last: int,
    out: Float64[np.ndarray, " pairs"],
) -> None:
    """Fill `out` from `first` to `last` (exclusive) with float64 cosines of queries[asking] and the vectors in memory.

    Each address is that of `dim` float32, which the caller keeps in memory; `norms` are their lengths.
    """
    for pair in range(first, last):
        vector, query = carray(_pointer(addresses[pair]), queries.shape[1]), queries[asking[pair]]
        total = 0.0
        for d in range(len(query)):
            total += np.float64(vector[d]) * np.float64(query[d])
        out[pair] = total / norms[pair]


def search_exactly(
    store: Store,
    view: View,
    feature: str,
    rows: Int64[np.ndarray, " rows"],
    queries: Float32[np.ndarray, "queries dim"],
    k: int,
) -> Found:
    """Return the k of `rows` nearest to each query and their cosines, best first.

    Where fewer rows exist, the row is -1 and the cosine -inf.

    Args:
        rows: Rows to choose from, rising, all filled.
        queries: Normalised vectors.

    Raises:
        StepDiffError: No such embedding, or a row without a direction, named by its key.
    """
    found_rows = np.full((len(queries), k), -1, np.int64)
    found = np.full((len(queries), k), -np.inf, np.float32)
    undecided, kept = np.arange(len(queries)), k + SPARE
    while len(undecided):
        passing = Passing(queries[undecided], kept)
        for block, vectors in raw_blocks(view, feature, rows):
            checked_norms(store, view, feature, block, passing.see(block, vectors))
        best_rows, best, certain = passing.settle(store, view, feature, k)
        found_rows[undecided, : best.shape[1]] = best_rows
        found[undecided, : best.shape[1]] = best
        undecided, kept = undecided[~certain], kept * MORE
    return found_rows, found


class Passing:
    """Queries, and the rows nearest to each among all rows seen so far."""

    def __init__(self, queries: Float32[np.ndarray, "queries dim"], kept: int) -> None:
        """Keep `kept` rows for each normalised query."""
        self.queries = queries
        self.rows = np.full((len(queries), kept), -1, np.int64)
        self.estimates = np.full((len(queries), kept), -np.inf, np.float32)
        self._scores = np.empty(0, np.float32)

    def see(
        self,
        rows: Int64[np.ndarray, " rows"],
        vectors: Float32[np.ndarray, "rows dim"],
        sums: Float64[np.ndarray, " rows"] | None = None,
    ) -> Float64[np.ndarray, " rows"]:
        """Update with rows and their vectors; rows rise from call to call.

        Returns the sums of squares of the vectors, which `sums` gives if they are known. After a row without a
        direction the kept rows are invalid.
        """
        few = sums is None and len(self.queries) <= FEW
        if few:
            scores, sums = self._memory(len(rows), len(self.queries)), np.empty(len(rows))
            each(lambda share: multiply_few(vectors, self.queries, *share, scores, sums), shares(len(rows)))
        elif sums is None:
            sums = squares(vectors)
        with np.errstate(divide="ignore", invalid="ignore"):
            lengths = np.sqrt(sums)
            if ((lengths < SHORTEST) | (lengths > LONGEST)).any():  # their products overflow or underflow float32
                vectors, lengths, few = (vectors / lengths[:, None]).astype(np.float32), np.ones_like(sums), False
            factors = (1 / lengths).astype(np.float32)
        for start in range(0, len(self.queries), QUERIES):
            part = self.queries[start : start + QUERIES]
            kept = self.rows[start : start + QUERIES], self.estimates[start : start + QUERIES]
            if not few:
                scores = self._memory(len(rows), len(part))
                spans = [slice(*share) for share in shares(len(rows))]
                with blas().limit(limits=1):
                    each(lambda span: np.matmul(vectors[span], part.T, out=scores[span]), spans)  # noqa: B023
            each(lambda share: keep_best(scores, factors, rows, *share, *kept), shares(len(part)))  # noqa: B023
        return sums

    def _memory(self, rows: int, queries: int) -> Float32[np.ndarray, "rows queries"]:
        if len(self._scores) < rows * queries:
            self._scores = np.empty(rows * queries, np.float32)
        return self._scores[: rows * queries].reshape(rows, queries)

    def settle(
        self, store: Store, view: View, feature: str, k: int
    ) -> tuple[Int64[np.ndarray, "queries best"], Float32[np.ndarray, "queries best"], np.ndarray]:
        """Return the k best of the kept rows (or all, if fewer), and whether no other row can be nearer."""
        slack = (width(view, feature) + 8) * 2.0**-24  # error bound of a float32 product of vectors of length 1
        estimates = self.estimates.astype(np.float64)
        near = estimates >= estimates[:, k - 1 : k] - 2 * slack  # k rows are certainly nearer than any other
        exact = compared(store, view, feature, self.queries, np.where(near, self.rows, -1))
        order = np.lexsort((self.rows, -exact))[:, :k]
        best = np.take_along_axis(exact, order, axis=1)
        beyond = estimates[:, -1] + slack  # no row that was not kept is nearer than this
        certain = (beyond == -np.inf) | (best[:, -1] > beyond)
        return np.take_along_axis(self.rows, order, axis=1), best.astype(np.float32), certain


def compared(
    store: Store,
    view: View,
    feature: str,
    queries: Float32[np.ndarray, "queries dim"],
    rows: Int64[np.ndarray, "queries some"],
) -> Float64[np.ndarray, "queries some"]:
    """Return the float64 cosine of each normalised query to each of its own rows; -inf where the row is -1."""
    exact = np.full(rows.shape, -np.inf)
    asking, ranks = np.nonzero(rows >= 0)
    for start in range(0, len(asking), COMPARED):
        part = slice(start, start + COMPARED)
        near, places = np.unique(rows[asking[part], ranks[part]], return_inverse=True)
        vectors = chosen(view, feature, near)
        norms = checked_norms(store, view, feature, near, squares(vectors))
        cosines, addresses = np.empty(len(places)), vectors.ctypes.data + places * vectors.strides[0]
        given = addresses, norms[places], queries, asking[part]
        each(lambda share: cosines_at(*given, *share, cosines), shares(len(cosines)))  # noqa: B023
        exact[asking[part], ranks[part]] = cosines
    return exact


@cache
def blas() -> ThreadpoolController:
    """Return the controller of BLAS, whose own threads spin while they wait and occupy a core afterwards."""
    return ThreadpoolController().select(user_api="blas")


def squares(vectors: Float32[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
    """Return the sum of squares of each row."""
    out = np.empty(len(vectors))
    each(lambda share: squares_of(vectors[slice(*share)], out[slice(*share)]), shares(len(vectors)))
    return out


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
            best = self.rows[tile], self.cosines[tile]
            for first in range(0, len(vectors), CANDIDATES):
                block = slice(first, first + CANDIDATES)
                scores = np.ascontiguousarray((asking[tile] @ vectors[block].T).T)
                scores[apart[block][:, None] == asking_apart[tile]] = -np.inf
                given = scores, np.ones(len(scores), np.float32), rows[block]
                each(lambda share: keep_best(*given, *share, *best), shares(scores.shape[1]))  # noqa: B023
