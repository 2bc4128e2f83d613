"""the loops of exact.py, compiled: norms of rows, the best of many scores, and cosines of chosen rows

They hold no lock, so that threads share the work out; numba's own threads would end a process that
uses them after a fork.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from retrieval.compiled import compiled, insert


@compiled
def squares_of(vectors: Float32[np.ndarray, "rows dim"], out: Float64[np.ndarray, " rows"]) -> None:
    """Fill `out` with the sums of squares."""
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
    """Fill rows `first` to `last` (exclusive) of `scores` with the products of those vectors and all queries, and of
    `sums` with their sums of squares. Four queries at a time share what is loaded of a row."""
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
    """Put scores * factors that are better than the last of `best`, a falling list, into their places there.

    Only queries `first` to `last` (exclusive) are looked at. Hardly any score is better, so those of a row are
    compared many at a time. Of equals the first stays first.
    """
    kept = best.shape[1]
    worst = best[:, kept - 1].copy()
    for row in range(scores.shape[0]):
        factor = factors[row]
        for start in range(first, last, 64):
            end = min(start + 64, last)
            ahead = np.float32(0)
            for query in range(start, end):
                ahead = max(ahead, scores[row, query] * factor - worst[query])
            if ahead == 0:
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
    places: Int64[np.ndarray, "queries some"],
    queries: Float32[np.ndarray, "queries dim"],
    first: int,
    last: int,
    out: Float64[np.ndarray, "queries some"],
) -> None:
    """Fill `out` with the cosines of normalised queries `first` to `last` (exclusive) and the vectors at their own
    places, in float64; -inf where a place is negative."""
    for query in range(first, last):
        for at in range(places.shape[1]):
            place = places[query, at]
            if place < 0:
                out[query, at] = -np.inf
                continue
            total = 0.0
            for d in range(vectors.shape[1]):
                total += np.float64(vectors[place, d]) * np.float64(queries[query, d])
            out[query, at] = total / norms[place]
