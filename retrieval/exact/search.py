"""exact nearest neighbours: every embedding of a view passes once through memory, block by block

A block of rows is multiplied with all queries, in bfloat16 where the processor is faster with it, else in float32;
what comes near the best so far is kept, more than were asked for. At the end the kept rows are compared again in
float64. A product's error has a bound: where it leaves open whether a row that was not kept is among the k best, the
search of that query is done again in float32, and then keeps more.

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

from common.threads import each, shares
from retrieval.exact.bfloat16 import Rough, worth_it
from retrieval.exact.kernels import LONGEST, SHORTEST, cosines_of, keep_best, keep_best_rough, multiply_few, squares_of
from retrieval.vectors import checked_norms, chosen, raw_blocks, reused, width
from store import Store, View

QUERIES = 1024  # multiplied at a time: scores of a block take 32 MiB at 768 channels
FEW = 16  # queries up to which one pass over the rows, with their norms, takes no more time than BLAS and another pass
MANY = 48  # queries from which rounding the rows costs less than it saves
SPARE = 22  # rows kept beyond the k asked for
ROUGH_SPARE = 86  # likewise, where scores are rough
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
    StepDiffError: no such embedding, or a row without a direction, by its key.
    """
    found_rows = np.full((len(queries), k), -1, np.int64)
    found = np.full((len(queries), k), -np.inf, np.float32)
    open_queries, kept = np.arange(len(queries)), k + SPARE
    rough = len(queries) >= MANY and worth_it(len(rows), *queries.shape)
    while len(open_queries):
        asked = queries[open_queries]
        passing = Passing(asked, k + ROUGH_SPARE if rough else kept, rough)
        for block, vectors in raw_blocks(view, feature, rows):
            checked_norms(store, view, feature, block, passing.see(block, vectors))
        best_rows, best, certain = passing.settle(store, view, feature, k)
        found_rows[open_queries, : best.shape[1]] = best_rows
        found[open_queries, : best.shape[1]] = best
        open_queries, kept, rough = open_queries[~certain], kept if rough else kept * MORE, False
    return found_rows, found


class Passing:
    """Queries, and the rows nearest to each among all those that have passed so far."""

    def __init__(self, queries: Float32[np.ndarray, "queries dim"], kept: int, rough: bool = False) -> None:
        """`kept` rows are remembered for each of the normalised `queries`; `rough` compares them in bfloat16."""
        self.queries = queries
        self._rough = Rough(queries) if rough else None
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
        if self._rough:
            return self._see_roughly(self._rough, rows, vectors)
        few = sums is None and len(self.queries) <= FEW
        if few:
            scores, sums = self._room(rows, self.queries), np.empty(len(rows))
            each(lambda share: multiply_few(vectors, self.queries, *share, scores, sums), shares(len(rows)))
        elif sums is None:
            sums = squares(vectors)
        with np.errstate(divide="ignore", invalid="ignore"):
            lengths = np.sqrt(sums)
            if ((lengths < SHORTEST) | (lengths > LONGEST)).any():  # float32 holds no products of such rows
                vectors, lengths, few = (vectors / lengths[:, None]).astype(np.float32), np.ones_like(sums), False
            factors = (1 / lengths).astype(np.float32)
        for start in range(0, len(self.queries), QUERIES):
            part = self.queries[start : start + QUERIES]
            kept = self.rows[start : start + QUERIES], self.estimates[start : start + QUERIES]
            if not few:
                scores = self._room(rows, part)
                with blas().limit(limits=1):
                    each(lambda share: multiply(vectors, part, share, scores), shares(len(rows)))  # noqa: B023
            each(lambda share: keep_best(scores, factors, rows, *share, *kept), shares(len(part)))  # noqa: B023
        return sums

    def _see_roughly(
        self, rough: Rough, rows: Int64[np.ndarray, " rows"], vectors: Float32[np.ndarray, "rows dim"]
    ) -> Float64[np.ndarray, " rows"]:
        sums = rough.take(vectors)
        for start in range(0, len(self.queries), QUERIES):
            kept = self.rows[start : start + QUERIES], self.estimates[start : start + QUERIES]
            scores = rough.scores(start, start + len(kept[0]))
            each(lambda share: keep_best_rough(scores, rows, *share, *kept), shares(len(kept[0])))  # noqa: B023
        return sums

    def _room(self, rows: np.ndarray, queries: np.ndarray) -> Float32[np.ndarray, "rows queries"]:
        """Memory for their scores, filled again with those of the next block."""
        self._scores, room = reused(self._scores, (len(rows), len(queries)))
        return room

    def settle(
        self, store: Store, view: View, feature: str, k: int
    ) -> tuple[Int64[np.ndarray, "queries best"], Float32[np.ndarray, "queries best"], np.ndarray]:
        """The k best of the kept rows (or all, where those are fewer), and whether no other row can be nearer."""
        of_float32 = (width(view, feature) + 8) * 2.0**-24  # of a product of vectors of length 1
        slack = self._rough.slack if self._rough else of_float32
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
    exact = np.full(rows.shape, -np.inf)
    asking, ranks = np.nonzero(rows >= 0)
    for start in range(0, len(asking), COMPARED):
        part = slice(start, start + COMPARED)
        near, places = np.unique(rows[asking[part], ranks[part]], return_inverse=True)
        vectors = chosen(view, feature, near)
        norms = checked_norms(store, view, feature, near, squares(vectors))
        cosines = np.empty(len(places))
        given = vectors, norms, places, queries, asking[part]
        each(lambda share: cosines_of(*given, *share, cosines), shares(len(cosines)))  # noqa: B023
        exact[asking[part], ranks[part]] = cosines
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
