"""the loops of exact.py, compiled: norms of rows, the best of many scores, and cosines of chosen rows

They hold no lock, so that threads share the work out; numba's own threads would end a process that
uses them after a fork.

Loops of this room as machine code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64, UInt16

from common import compiled as store_compiled

REORDER = ("reassoc", "nsz")  # lets a sum run in several lanes at once; each value is still a float64


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code, its sums in any order."""
    return store_compiled.compiled(loop, REORDER)


@compiled
def dot(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """The inner product."""
    total = 0.0
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@compiled
def distance(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """The L2 distance."""
    total = 0.0
    for d in range(len(a)):
        total += (a[d] - b[d]) * (a[d] - b[d])
    return np.sqrt(total)


@compiled
def insert(score: float, row: int, falling: Float32[np.ndarray, " kept"], rows: Int64[np.ndarray, " kept"]) -> None:
    """Put a score that is better than the last of a falling list, and its row, into their places; of equals the first
    stays first, and the last one drops out."""
    at = len(falling) - 1
    while at > 0 and falling[at - 1] < score:
        falling[at], rows[at] = falling[at - 1], rows[at - 1]
        at -= 1
    falling[at], rows[at] = score, row


LANES = 128  # scores that are compared before any is looked at
LOWEST = np.int16(-(2**15))
SHORTEST, LONGEST = 1e-30, 1e30  # rows that float32 can scale and multiply


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
        for start in range(first, last, LANES):
            end = min(start + LANES, last)
            some, theirs = scores[row, start:end], worst[start:end]  # from 0 on: only so many are compared at a time
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
def round_rows(
    vectors: Float32[np.ndarray, "rows dim"],
    first: int,
    last: int,
    out: UInt16[np.ndarray, "rows dim"],
    sums: Float64[np.ndarray, " rows"],
    off: Float32[np.ndarray, " rows"],
) -> None:
    """Fill rows `first` to `last` (exclusive) of `out` with those vectors, divided by their length, as the bits of the
    nearest bfloat16; of `sums` with their sums of squares, and of `off` with how far the rounding moved each."""
    dim = vectors.shape[1]
    unit, back = np.empty(dim, np.float32), np.empty(dim, np.uint32)
    bits, rounded = unit.view(np.uint32), back.view(np.float32)
    squares_of(vectors[first:last], sums[first:last])
    for row in range(first, last):
        vector, line, length = vectors[row], out[row], np.sqrt(sums[row])
        factor = 1 / length
        if SHORTEST <= length <= LONGEST:
            for d in range(dim):
                unit[d] = vector[d] * np.float32(factor)
        else:
            for d in range(dim):
                unit[d] = np.float64(vector[d]) * factor
        for d in range(dim):  # half of the last bit that stays, less where that bit is 0: to the nearest, ties to even
            more = np.uint32(0x7FFF) + ((bits[d] >> np.uint32(16)) & np.uint32(1))
            back[d] = np.uint32(bits[d] + more) & np.uint32(0xFFFF0000)
            line[d] = np.uint16(back[d] >> np.uint32(16))
        total = np.float32(0)
        for d in range(dim):
            total += (unit[d] - rounded[d]) * (unit[d] - rounded[d])
        off[row] = np.sqrt(total)


@compiled
def keep_best_rough(
    scores: Int16[np.ndarray, "rows queries"],
    rows: Int64[np.ndarray, " rows"],
    first: int,
    last: int,
    best_rows: Int64[np.ndarray, "queries kept"],
    best: Float32[np.ndarray, "queries kept"],
) -> None:
    """As `keep_best`, of scores that are the bits of bfloat16: read as integers, those from 0 on rise as they do, and
    all below 0 lie before them."""
    kept = best.shape[1]
    score, place = np.empty(1, np.float32), np.empty(last - first, np.int16)
    bits = score.view(np.uint32)
    for query in range(first, last):
        score[0] = best[query, kept - 1]
        place[query - first] = np.int16(bits[0] >> np.uint32(16)) + 1 if score[0] >= 0 else LOWEST
    for row in range(scores.shape[0]):
        for start in range(first, last, LANES):
            end = min(start + LANES, last)
            some, least = scores[row, start:end], place[start - first : end - first]
            better = np.int16(0)
            for at in range(len(some)):
                better |= np.int16(some[at] >= least[at])
            if not better:
                continue
            for query in range(start, end):
                if scores[row, query] < place[query - first]:
                    continue
                bits[0] = np.uint32(np.uint16(scores[row, query])) << np.uint32(16)
                if score[0] > best[query, kept - 1]:
                    insert(score[0], rows[row], best[query], best_rows[query])
                    score[0] = best[query, kept - 1]
                    if score[0] >= 0:
                        place[query - first] = np.int16(bits[0] >> np.uint32(16)) + 1


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
    """Fill `out` from `first` to `last` (exclusive) with the cosine of the vector at each of `places` and the
    normalised query at the same of `asking`, in float64."""
    for pair in range(first, last):
        vector, query = vectors[places[pair]], queries[asking[pair]]
        total = 0.0
        for d in range(len(vector)):
            total += np.float64(vector[d]) * np.float64(query[d])
        out[pair] = total / norms[places[pair]]
