"""Exact nearest neighbours: a matrix product, and a float64 comparison of the rows that may be among the best.

A view passes through memory once, block by block. Float32 products estimate the cosines; their error has a bound, so
the rows whose estimates are within twice that bound of the k-th best are compared again in float64. `nearest_of`
searches vectors that are in memory, in float32.

Guarantees
- the k nearest rows are those of a float64 comparison of all rows, best first; among rows with the same embedding, the
  lower row comes first
- at most a few blocks of the view are in memory
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from threadpoolctl import ThreadpoolController

from retrieval.vectors import Queries, Rows, Vectors, checked_norms, raw_blocks, width
from stepdiff.common import threads
from stepdiff.common.threads import each, shares
from store import View

FEW = 8  # queries up to which a dot product with each row is faster than a product of BLAS
FEW_BYTES = 2**22  # of vectors at a time for these
TILE_BYTES = 2**20  # for more queries: a core's cache keeps them while lengths are computed
TILE_ROWS = 1024  # multiplied with many queries, which BLAS copies for every product
QUERIES = 1024  # multiplied at a time
MANY = 4  # scores above the bar, times k, from which a tile is cut to its own k best
SPARE = 1024  # rows near the k best of a query, on average, from which they are compared before the next block
COMPARED = 16_384  # pairs compared in float64 at a time
VECTORS = 4096  # vectors in memory multiplied at a time: with QUERIES, 17 MB of cosines
SHORTEST, LONGEST = 1e-30, 1e30  # squared lengths of vectors that float32 can scale and multiply

Pairs = Int64[np.ndarray, " pairs"]
"""the query, or the row, of each pair of both"""
Cosines = Float64[np.ndarray, " pairs"]
Found = tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]
Near = tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Float32[np.ndarray, " _"]]
"""queries, rows and scores, as many of each"""
Candidates = tuple[Int64[np.ndarray, " _"], Float32[np.ndarray, "_ dim"], Int64[np.ndarray, " _"]]
"""rows, vectors of length 1, and `apart`, as many of each"""
_one = threading.Lock()  # the limit of BLAS's threads applies to the whole process


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop; its sums may run in any order, and each value is still a float64."""
    return threads.compiled(loop, ("reassoc", "nsz"))


def search_exactly(view: View, feature: str, rows: Rows, queries: Queries, k: int) -> Found:
    """Return the k of `rows` (rising, all filled) nearest to each normalised query and their cosines, best first.

    Where fewer rows exist, the row is -1 and the cosine -inf. StepDiffError names a row without a direction.
    """
    dim = width(view, feature)
    best = Best(len(queries), k, 2 * error_of(dim))
    for block, vectors in raw_blocks(view, feature, rows):
        best.add(_estimate(view, feature, block, vectors, queries, best))
        if len(best.rows) > len(queries) * (k + SPARE):  # many rows are nearly equal
            best.compare(cosines(view, feature, queries, best.query, best.rows))
    best.compare(cosines(view, feature, queries, best.query, best.rows))
    return best.found()


def _estimate(view: View, feature: str, rows: Rows, vectors: Vectors, queries: Queries, best: Best) -> list[Near]:
    """Return the rows of a block that may be among the best."""
    few = len(queries) <= FEW
    size = (FEW_BYTES if few else TILE_BYTES) // (4 * vectors.shape[1])
    size = max(size, min(16 * len(queries), TILE_ROWS), 1)

    def estimate(share: tuple[int, int]) -> list[Near]:
        near: list[Near] = []
        for start in range(*share, size):
            some = slice(start, min(start + size, share[1]))
            tile = vectors[some]
            with np.errstate(over="ignore"):
                squares = np.vecdot(tile, tile)
            if ((squares > SHORTEST) & (squares < LONGEST)).all():
                factors = 1 / np.sqrt(squares)
            else:  # products overflow or underflow float32, or a row has no direction
                factors = np.ones(len(tile), np.float32)
                tile = (tile / checked_norms(view, feature, rows[some], tile)[:, None]).astype(np.float32)
            for first in range(0, len(queries), QUERIES):
                part = queries[first : first + QUERIES]
                scores = np.vecdot(tile, part[:, None]) if few else part @ tile.T
                scores *= factors
                query, place, above = best.above(scores, first)
                near.append((query, rows[start + place], above))
        return near

    with nullcontext() if few else _one_thread():
        return [one for share in each(estimate, shares(len(vectors))) for one in share]


def error_of(dim: int) -> float:
    """Return the error bound of an estimated cosine: a float32 sum of `dim` products, divided by a float32 length."""
    return (1.5 * dim + 16) * 2.0**-24


class Best:
    """The k best rows of each query so far, and those whose scores are less than `margin` below the k-th."""

    def __init__(self, queries: int, k: int, margin: float = 0.0) -> None:
        self._k, self._margin = k, np.float32(margin)
        self._bar = np.full(queries, -np.inf, np.float32)  # scores must be above it
        self.query, self.rows = np.empty(0, np.int64), np.empty(0, np.int64)
        self._scores, self._rank = np.empty(0, np.float32), np.empty(0, np.int64)

    def above(self, scores: Float32[np.ndarray, "queries rows"], first: int = 0) -> Near:
        """Return query, place and score of the scores that may be among the best of the queries from `first`."""
        bar = self._bar[first : first + len(scores), None]
        near = scores > bar
        if scores.shape[1] > self._k and np.count_nonzero(near) > MANY * self._k * len(scores):
            near &= scores >= np.partition(scores, -self._k, axis=1)[:, -self._k, None] - self._margin
        at = np.flatnonzero(near)
        query, place = np.divmod(at, scores.shape[1])
        return query + first, place, scores.ravel()[at]

    def add(self, near: Iterable[Near]) -> None:
        """Add queries, rows and scores. Among equal scores of a query the lower row is better."""
        query, rows, scores = map(np.concatenate, zip((self.query, self.rows, self._scores), *near, strict=True))
        self._keep(query, rows, scores, exact=False)

    def compare(self, cosines: Float64[np.ndarray, " near"]) -> None:
        """Replace the scores by exact ones, and keep the k best."""
        self._keep(self.query, self.rows, cosines, exact=True)

    def _keep(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray, exact: bool) -> None:
        order = np.lexsort((rows, -scores, query))
        query, rows, scores = query[order], rows[order], scores[order]
        starts = np.searchsorted(query, np.arange(len(self._bar) + 1))
        rank = np.arange(len(query)) - starts[query]
        full = np.flatnonzero(np.diff(starts) >= self._k)
        self._bar[full] = scores[starts[full] + self._k - 1] - self._margin
        kept = rank < self._k
        if not exact:
            kept |= scores > self._bar[query]
        self.query, self.rows = query[kept], rows[kept]
        self._scores, self._rank = scores[kept].astype(np.float32), rank[kept]

    def found(self) -> Found:
        """Return the k best rows of each query and their scores, best first; -1 and -inf where there are fewer."""
        rows = np.full((len(self._bar), self._k), -1, np.int64)
        scores = np.full((len(self._bar), self._k), -np.inf, np.float32)
        first = self._rank < self._k
        rows[self.query[first], self._rank[first]] = self.rows[first]
        scores[self.query[first], self._rank[first]] = self._scores[first]
        return rows, scores


def without_itself(hits: tuple[np.ndarray, np.ndarray], itself: Int64[np.ndarray, " queries"], k: int) -> Found:
    """Return at most k found rows of each query and their cosines without its own row; -1 and -inf after the last."""
    rows, cosines = hits
    other = (rows >= 0) & (rows != itself[:, None])
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    rows, cosines, other = (np.take_along_axis(array, order, axis=1) for array in (rows, cosines, other))
    return np.where(other, rows, -1), np.where(other, cosines, np.float32(-np.inf))


def nearest_of(
    queries: Queries, queries_apart: Int64[np.ndarray, " queries"], candidates: Iterable[Candidates], k: int
) -> Found:
    """Return the k best candidates of each query and their cosines in float32, best first.

    Candidates are given in parts, their rows rising. One whose `apart` equals that of the query is skipped. Where fewer
    exist, the row is -1 and the cosine -inf.
    """
    tiles = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]
    best = [Best(len(queries[tile]), k) for tile in tiles]
    for rows, vectors, apart in candidates:
        for tile, one in zip(tiles, best, strict=True):
            for start in range(0, len(vectors), VECTORS):
                part = slice(start, start + VECTORS)
                scores = queries[tile] @ vectors[part].T
                scores[queries_apart[tile, None] == apart[part]] = -np.inf
                query, place, above = one.above(scores)
                one.add([(query, rows[part][place], above)])
    hits = [one.found() for one in best] or [Best(0, k).found()]
    return np.concatenate([rows for rows, _ in hits]), np.concatenate([scores for _, scores in hits])


@cache
def fill_cosines() -> Callable[..., None]:
    """Return the loop `_fill_cosines`, compiled at its first use: numba is slow to import."""
    return compiled(_fill_cosines)


def _fill_cosines(
    vectors: Vectors, places: Pairs, queries: Queries, query: Pairs, first: int, last: int, out: Cosines
) -> None:
    """Fill `out` from `first` to `last` (exclusive) with float64 cosines of vectors[places] and queries[query]."""
    for pair in range(first, last):
        vector, other = vectors[places[pair]], queries[query[pair]]
        product, square = 0.0, 0.0
        for d in range(len(other)):
            value = np.float64(vector[d])
            product += value * np.float64(other[d])
            square += value * value
        out[pair] = product / np.sqrt(square)


def cosines(view: View, feature: str, queries: Queries, query: Pairs, rows: Pairs) -> Cosines:
    """Return the float64 cosine of each pair of a normalised query and a row.

    Raises StepDiffError that names a row without a direction.
    """
    out, fill = np.empty(len(rows)), fill_cosines()
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), COMPARED):
        part = order[start : start + COMPARED]
        near, places = np.unique(rows[part], return_inverse=True)
        vectors, exact = view.read(feature, near, dtype="float32"), np.empty(len(part))
        given = vectors, places, queries, query[part]
        each(lambda share: fill(*given, *share, exact), shares(len(part)))  # noqa: B023
        check_directions(view, feature, rows[part], exact)
        out[part] = exact
    return out


def check_directions(view: View, feature: str, rows: Pairs, cosines: Cosines) -> None:
    """Raise StepDiffError that names a row without a direction, which has no cosine."""
    if len(bad := np.unique(rows[~np.isfinite(cosines)])):
        checked_norms(view, feature, bad, view.read(feature, bad, dtype="float32"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: its own threads spin while they wait and occupy a core afterwards."""
    with _one, _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
