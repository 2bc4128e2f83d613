"""exact nearest neighbours: every embedding of a view passes once through memory, block by block

A block of rows is multiplied with all queries (float32, BLAS); what comes near the best so far is kept, a few more than
were asked for. At the end the kept rows are compared again in float64. A product's error has a bound: where it leaves
open whether a row that was not kept is among the k best, the search of that query is done again and keeps more.

Guarantees
- equal_to_float64: the k nearest rows are those of a comparison of all rows in float64, best first
- ties_by_row: of rows with the same embedding the lower ones come first
- memory_of_a_few_blocks: never more than a few blocks of the view are in memory
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float32, Float64, Int64
from threadpoolctl import ThreadpoolController

from retrieval.kernels import cosines_of, keep_best, multiply_few, squares_of
from retrieval.vectors import checked_norms, raw_blocks, width
from store import Store, View
from store.threads import each, shares

QUERIES = 1024  # multiplied at a time: scores of a block take 32 MiB at 768 channels
FEW = 16  # queries up to which one pass over the rows, with their norms, takes no more time than BLAS and another pass
SPARE = 22  # rows kept beyond the k asked for
MORE = 8  # times as many are kept where those do not decide it
COMPARED = 16_384  # rows compared again at a time

Found = tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]


def search_exactly(
    store: Store,
    view: View,
    feature: str,
    rows: Int64[np.ndarray, " rows"],
    queries: Float32[np.ndarray, "queries dim"],
    k: int,
) -> Found:
    """The k of `rows` (rising, all filled) nearest to each normalised query, and their cosines, best first.

    Where there are fewer than k, the row is -1 and the cosine -inf.
    RetrievalError: no such embedding, or a row without a direction, by its key.
    """
    found_rows = np.full((len(queries), k), -1, np.int64)
    found = np.full((len(queries), k), -np.inf, np.float32)
    open_queries, kept = np.arange(len(queries)), k + SPARE
    while len(open_queries):
        asked = queries[open_queries]
        passing = Passing(asked, kept)
        for block, vectors in raw_blocks(view, feature, rows):
            checked_norms(store, view, feature, block, passing.see(block, vectors))
        best_rows, best, certain = passing.settle(store, view, feature, k)
        found_rows[open_queries, : best.shape[1]] = best_rows
        found[open_queries, : best.shape[1]] = best
        open_queries, kept = open_queries[~certain], kept * MORE
    return found_rows, found


class Passing:
    """Queries, and the rows nearest to each among all those that have passed so far."""

    def __init__(self, queries: Float32[np.ndarray, "queries dim"], kept: int) -> None:
        """`kept` rows are remembered for each of the normalised `queries`."""
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
        """Let rows pass, with their vectors and, if known, the sums of squares of these, which are returned; rising
        from call to call. Nothing counts that was kept once a row without a direction has passed."""
        few = sums is None and len(self.queries) <= FEW
        if few:
            scores, sums = self._room(rows, self.queries), np.empty(len(rows))
            each(lambda share: multiply_few(vectors, self.queries, *share, scores, sums), shares(len(rows)))
        elif sums is None:
            sums = squares(vectors)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = (1 / np.sqrt(sums)).astype(np.float32)
        for start in range(0, len(self.queries), QUERIES):
            part = self.queries[start : start + QUERIES]
            kept = self.rows[start : start + QUERIES], self.estimates[start : start + QUERIES]
            if not few:
                scores = self._room(rows, part)
                with blas().limit(limits=1):
                    each(lambda share: multiply(vectors, part, share, scores), shares(len(rows)))  # noqa: B023
            each(lambda share: keep_best(scores, factors, rows, *share, *kept), shares(len(part)))  # noqa: B023
        return sums

    def _room(self, rows: np.ndarray, queries: np.ndarray) -> Float32[np.ndarray, "rows queries"]:
        """Memory for their scores, filled again with those of the next block."""
        count = len(rows) * len(queries)
        if len(self._scores) < count:
            self._scores = np.empty(count, np.float32)
        return self._scores[:count].reshape(len(rows), len(queries))

    def settle(
        self, store: Store, view: View, feature: str, k: int
    ) -> tuple[Int64[np.ndarray, "queries best"], Float32[np.ndarray, "queries best"], np.ndarray]:
        """The k best of the kept rows (or all, where those are fewer), and whether no other row can be nearer."""
        slack = (width(view, feature) + 8) * 2.0**-24  # of a float32 product of vectors of length 1
        estimates = self.estimates.astype(np.float64)
        near = estimates >= estimates[:, k - 1 : k] - 2 * slack  # than any other, k rows are surely nearer
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
    """The cosine of each normalised query to each of its own rows, in float64; -inf where the row is -1."""
    exact = np.empty(rows.shape)
    group = max(COMPARED // rows.shape[1], 1)
    for start in range(0, len(rows), group):
        part = slice(start, start + group)
        near, places = np.unique(rows[part], return_inverse=True)
        absent = np.searchsorted(near, 0)  # -1, where there is one, comes first
        vectors = view.read_float(feature, near[absent:])
        norms = checked_norms(store, view, feature, near[absent:], squares(vectors))
        given = vectors, norms, places.reshape(-1, rows.shape[1]) - absent, queries[part]
        each(lambda share: cosines_of(*given, *share, exact[part]), shares(len(queries[part])))  # noqa: B023
    return exact


@cache
def blas() -> ThreadpoolController:
    """The library behind numpy's products, whose own threads spin while they wait and take a core from what follows."""
    return ThreadpoolController().select(user_api="blas")


def multiply(
    vectors: Float32[np.ndarray, "rows dim"],
    queries: Float32[np.ndarray, "queries dim"],
    share: tuple[int, int],
    scores: Float32[np.ndarray, "rows queries"],
) -> None:
    """Fill a share of the rows of `scores` with the products of those vectors and all queries."""
    np.matmul(vectors[slice(*share)], queries.T, out=scores[slice(*share)])


def squares(vectors: Float32[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
    """Sums of squares of each row."""
    out = np.empty(len(vectors))
    each(lambda share: squares_of(vectors[slice(*share)], out[slice(*share)]), shares(len(vectors)))
    return out
