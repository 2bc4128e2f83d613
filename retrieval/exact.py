"""Exact nearest neighbours: a matrix product, and a float64 comparison of the rows that may be
among the best.

A view passes through memory once, block by block. Float32 products estimate the cosines; their
error has a bound, so the rows whose estimates are within twice that bound of the k-th best are
compared again in float64. `nearest_of` searches vectors that are in memory, in float32.

Guarantees
- the k nearest rows equal a float64 comparison of all rows, best first; among rows with the same
  embedding, the lower row comes first
- at most a few blocks of the view are in memory, and the scores of one tile for each thread
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from threadpoolctl import ThreadpoolController

from retrieval.vectors import Queries, Rows, Vectors, checked_norms, floats, stored_blocks, width
from stepdiff_core import threads
from stepdiff_core.threads import cores, each, prefetched, shares
from store import View
from store.batches import Batch

FEW = 8  # queries up to which a dot product with each row is faster than a product of BLAS
FEW_ROWS = 4096  # of a tile for these
TILE_ROWS = 1024  # for more queries, which BLAS copies for every product
QUERIES = 1024  # multiplied at a time
# rows near the k best of a query, on average, from which those that are no longer near are dropped
SPARE = 1024
COMPARED = 16_384  # pairs compared in float64 at a time
SHARED = 256  # pairs from which all cores compare: for fewer, waking a thread takes longer
VECTORS = 4096  # vectors in memory multiplied at a time: with QUERIES, 17 MB of cosines
SHORTEST, LONGEST = 1e-30, 1e30  # squared lengths of vectors that float32 can scale and multiply

Pairs = Int64[np.ndarray, " pairs"]
"""the query, or the row, of each pair of both"""
Scores = Float32[np.ndarray, "rows queries"]
Squares = Float32[np.ndarray, " rows"]
Cosines = Float64[np.ndarray, " pairs"]
Near = tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""queries, rows and scores, as many of each"""
Heaps = Float32[np.ndarray, "k queries"]
"""the k best scores of each query, the lowest first"""
Found = tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]
Candidates = tuple[Int64[np.ndarray, " _"], Float32[np.ndarray, "_ dim"], Int64[np.ndarray, " _"]]
"""rows, vectors of length 1, and `apart`, as many of each"""
NONE: Near = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
_one = threading.Lock()  # the limit of BLAS's threads applies to the whole process


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop at its first use; its sums may run in any order, and each keeps its
    precision."""
    return threads.compiled(loop, ("reassoc", "nsz"))


def search_exactly(view: View, feature: str, rows: Rows, queries: Queries, k: int) -> Found:
    """Return the k of `rows` (rising, all filled) nearest to each normalised query and their
    cosines, best first.

    Where fewer rows exist, the row is -1 and the cosine -inf. StepDiffError names a row without a
    direction.
    """
    margin, most, few = (
        2 * error_of(width(view, feature)),
        len(queries) * (k + SPARE),
        len(queries) <= FEW,
    )
    size, batches, lock = (
        FEW_ROWS if few else TILE_ROWS,
        stored_blocks(view, feature, rows),
        threading.Lock(),
    )
    tiles = (
        (batch, slice(at, at + size)) for batch in batches for at in range(0, len(batch.rows), size)
    )

    def take() -> tuple[Batch, slice] | None:
        with lock:
            return next(tiles, None)

    def estimated() -> Iterator[Near]:
        heaps = np.full((k, len(queries)), -np.inf, np.float32)
        for batch, some in iter(take, None):
            near, tile = batch.rows[some], floats(batch, feature, some)
            for first in range(0, len(queries), QUERIES):
                part = queries[first : first + QUERIES]
                with np.errstate(over="ignore"):
                    scores, squares = (
                        compiled(_multiply)(tile, part)
                        if few
                        else (tile @ part.T, np.vecdot(tile, tile))
                    )
                # float32 overflows, or no direction
                if not ((squares > SHORTEST) & (squares < LONGEST)).all():
                    tile = (tile / checked_norms(view, feature, near, tile)[:, None]).astype(
                        np.float32
                    )
                    scores, squares = tile @ part.T, np.ones(len(tile), np.float32)
                query, above, cosine = _above(
                    near, scores, squares, heaps[:, first : first + QUERIES], margin
                )
                yield query + first, above, cosine

    def compared(near: Near) -> Near:
        return *near[:2], cosines(view, feature, queries, *near[:2])

    near, count = list[Near](), 0
    with nullcontext() if few else _one_thread():
        for some in prefetched([estimated() for _ in range(cores())], cores()):
            near.append(some)
            count += len(some[0])
            if count > most:
                near = [_best(near, k, margin)]
                if len(near[0][0]) > most // 2:  # many rows are nearly equal
                    near = [_best([compared(near[0])], k)]
                count = len(near[0][0])
    return _table(compared(_best(near, k, margin)), len(queries), k)


def error_of(dim: int) -> float:
    """Return the error bound of an estimated cosine: a float32 sum of `dim` products, divided by a
    float32 length."""
    return (1.5 * dim + 16) * 2.0**-24


def _above(rows: Rows, scores: Scores, squares: Squares, heaps: Heaps, margin: float = 0.0) -> Near:
    """Return the rising rows that may be among the k best, by products and squared lengths; add
    them to the heaps."""
    places = compiled(_places)(scores, squares, heaps, np.float32(margin))
    place, query = np.divmod(places, scores.shape[1])
    return query, rows[place], scores.ravel()[places]


def _best(near: list[Near], k: int, margin: float = 0.0) -> Near:
    """Return the k best of each query and those less than `margin` below, best first; of equal
    ones, the lower row."""
    query, rows, scores = map(np.concatenate, zip(NONE, *near, strict=True))
    order = np.lexsort((rows, -scores, query))
    query, rows, scores = query[order], rows[order], scores[order]
    first = np.searchsorted(query, query)
    last = scores[np.minimum(first + k, len(query)) - 1]  # of a query with fewer, all are kept
    kept = (np.arange(len(query)) - first < k) | (scores > last - margin)
    return query[kept], rows[kept], scores[kept]


def _table(near: Near, queries: int, k: int) -> Found:
    """Return the k best rows of each query and their scores, best first; -1 and -inf where there
    are fewer."""
    query, rows, scores = _best([near], k)
    place = query, np.arange(len(query)) - np.searchsorted(query, query)
    table = np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)
    table[0][place], table[1][place] = rows, scores
    return table


def _multiply(vectors: Vectors, queries: Queries) -> tuple[Scores, Squares]:
    """Return products and squared lengths; each vector is read from memory once."""
    scores, squares = (
        np.empty((len(vectors), len(queries)), np.float32),
        np.empty(len(vectors), np.float32),
    )
    for row in range(len(vectors)):
        vector, square = vectors[row], np.float32(0)
        for d in range(len(vector)):
            square += vector[d] * vector[d]
        squares[row] = square
        for query in range(len(queries)):
            other, product = queries[query], np.float32(0)
            for d in range(len(vector)):
                product += vector[d] * other[d]
            scores[row, query] = product
    return scores, squares


def _places(
    scores: Scores, squares: Squares, heaps: Heaps, margin: np.float32
) -> Int64[np.ndarray, " near"]:
    """Return flat places of scores less than `margin` below the k-th best; these are divided by
    lengths."""
    places, count, k = np.empty(scores.size, np.int64), 0, len(heaps)
    for row in range(len(scores)):
        factor = np.float32(1) / np.sqrt(squares[row])
        for query in range(scores.shape[1]):
            score = scores[row, query] * factor
            if score > heaps[0, query] - margin:
                scores[row, query] = score
                places[count] = row * scores.shape[1] + query
                count += 1
                if score > heaps[0, query]:
                    place, child = 0, 1
                    while child < k:
                        if child + 1 < k and heaps[child + 1, query] < heaps[child, query]:
                            child += 1
                        if heaps[child, query] >= score:
                            break
                        heaps[place, query] = heaps[child, query]
                        place, child = child, 2 * child + 1
                    heaps[place, query] = score
    return places[:count]


def without_itself(
    hits: tuple[np.ndarray, np.ndarray], itself: Int64[np.ndarray, " queries"], k: int
) -> Found:
    """Return at most k found rows of each query and their cosines without its own row; -1 and -inf
    after the last."""
    rows, cosines = hits
    other = (rows >= 0) & (rows != itself[:, None])
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    rows, cosines, other = (
        np.take_along_axis(array, order, axis=1) for array in (rows, cosines, other)
    )
    return np.where(other, rows, -1), np.where(other, cosines, np.float32(-np.inf))


def nearest_of(
    queries: Queries,
    queries_apart: Int64[np.ndarray, " queries"],
    candidates: Iterable[Candidates],
    k: int,
) -> Found:
    """Return the k best candidates of each query and their cosines in float32, best first.

    Candidates are given in parts, their rows rising. One whose `apart` equals the query's is
    skipped. If fewer exist, the row is -1 and the cosine -inf.
    """
    tiles = [slice(start, start + QUERIES) for start in range(0, max(len(queries), 1), QUERIES)]
    heaps, best = np.full((k, len(queries)), -np.inf, np.float32), [NONE for _ in tiles]
    for rows, vectors, apart in candidates:
        for at, tile in enumerate(tiles):
            for start in range(0, len(vectors), VECTORS):
                part = slice(start, start + VECTORS)
                scores = vectors[part] @ queries[tile].T
                scores[apart[part, None] == queries_apart[tile]] = -np.inf
                near = _above(rows[part], scores, np.ones(len(scores), np.float32), heaps[:, tile])
                best[at] = _best([best[at], near], k)
    hits = [_table(near, len(queries[tile]), k) for tile, near in zip(tiles, best, strict=True)]
    return np.concatenate([rows for rows, _ in hits]), np.concatenate(
        [scores for _, scores in hits]
    )


def fill_cosines(
    memory: Float32[np.ndarray, " floats"],
    starts: Pairs,
    queries: Queries,
    query: Pairs,
    first: int,
    last: int,
    out: Cosines,
) -> None:
    """Fill `out` from `first` to `last` (exclusive) with float64 cosines of the vectors that begin
    at `starts` in `memory` and queries[query]."""
    dim = queries.shape[1]
    for pair in range(first, last):
        vector = memory[starts[pair] : starts[pair] + dim]
        other, product, square = queries[query[pair]], 0.0, 0.0
        for d in range(dim):
            value = np.float64(vector[d])
            product += value * np.float64(other[d])
            square += value * value
        out[pair] = product / np.sqrt(square)


def cosines_in(
    memory: Float32[np.ndarray, " floats"], starts: Pairs, queries: Queries, query: Pairs
) -> Cosines:
    """Return the float64 cosine of each vector that begins at `starts` in `memory`, a float of it,
    and its query; by all cores if they are many."""
    out = np.empty(len(starts))
    parts = shares(len(starts), None if len(starts) >= SHARED else 1)
    each(lambda part: compiled(fill_cosines)(memory, starts, queries, query, *part, out), parts)
    return out


def cosines(view: View, feature: str, queries: Queries, query: Pairs, rows: Pairs) -> Cosines:
    """Return the float64 cosine of each pair of a normalised query and a row.

    Raises StepDiffError that names a row without a direction.
    """
    out = np.empty(len(rows))
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), COMPARED):
        part = order[start : start + COMPARED]
        near, places = np.unique(rows[part], return_inverse=True)
        vectors = view.read(feature, near, dtype="float32")
        exact = cosines_in(vectors.ravel(), places * vectors.shape[1], queries, query[part])
        check_directions(view, feature, rows[part], exact)
        out[part] = exact
    return out


def check_directions(view: View, feature: str, rows: Pairs, cosines: Cosines) -> None:
    """Raise StepDiffError that names a row without a direction, which has no cosine."""
    if len(bad := np.unique(rows[~np.isfinite(cosines)])):
        checked_norms(view, feature, bad, view.read(feature, bad, dtype="float32"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: its own threads spin while they wait and occupy a core
    afterwards."""
    with _one, _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    """Return the controller of BLAS: finding it among all libraries takes 3 ms."""
    return ThreadpoolController().select(user_api="blas")
