"""Compiled loops of exact search: norms of rows, the best of many scores, cosines of chosen rows.

They release Python's lock, so threads share the work; numba's own threads would abort a process after a fork.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from common import compiled as common_compiled

REORDER = ("reassoc", "nsz")  # a sum may use several lanes at once; each value is still a float64
LANES = 128  # scores compared at once before any single one is read
SHORTEST, LONGEST = 1e-30, 1e30  # lengths of rows that float32 can scale and multiply


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop; its sums may run in any order."""
    return common_compiled.compiled(loop, REORDER)


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


@compiled
def cosines_of(
    vectors: Float32[np.ndarray, "rows dim"],
    norms: Float64[np.ndarray, " rows"],
    places: Int64[np.ndarray, " pairs"],
    queries: Float32[np.ndarray, "queries dim"],
    asking: Int64[np.ndarray, " pairs"],
    first: int,
    last: int,
    out: Float64[np.ndarray, " pairs"],
) -> None:
    """Fill `out` from `first` to `last` (exclusive) with float64 cosines of vectors[places] and queries[asking]."""
    for pair in range(first, last):
        vector, query = vectors[places[pair]], queries[asking[pair]]
        total = 0.0
        for d in range(len(vector)):
            total += np.float64(vector[d]) * np.float64(query[d])
        out[pair] = total / norms[places[pair]]
