"""The walk from each true pair to the pairs nearest to it, compiled.

A matrix product in float32 estimates the distances of a block of true pairs to all pairs. It only tells which pairs
may be among the nearest: those are ordered by their exact distance, and the walk goes no further than that order is
certain. Where this does not suffice, four times as many are ordered.

Guarantees:
- exact_distances_alone_order_the_walk: an estimate decides nothing but what need not be looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from common.progress import progress
from common.threads import cores, each
from retrieval.exact.kernels import compiled, distance, dot

NEGATIVES = 3
BLOCK = 512  # true pairs whose distances are estimated at a time
SHORTLIST = 64  # pairs ordered exactly at first
GROWTH = 4


class Asked(NamedTuple):
    """The questions of a test set as arrays, sorted by pair and category."""

    clips: Int64[np.ndarray, "pairs 2"]
    """reference and candidate of each pair, as places among the clips"""
    bounds: Int64[np.ndarray, " groups_and_one"]
    """the questions of pair p in category c, which are also all that is said of it there, are those from
    bounds[p * categories + c] to bounds[p * categories + c + 1]"""
    said: Int64[np.ndarray, " questions"]
    """the text of each question, as its place among the texts"""
    texts: Float64[np.ndarray, "texts text_dim"]
    """normalised embeddings"""


def walk(
    asked: Asked, averages: Float64[np.ndarray, "pairs dim"], most_shared: int, threshold: float
) -> Int64[np.ndarray, "questions 3"]:
    """The first three pairs that each question's walk keeps, as places among the pairs; -1 where there are fewer.

    A pair is kept that shares at most `most_shared` clips with the true one, and of which nothing is said in the
    question's category whose cosine to the question's text is above the threshold.
    """
    found = np.full((len(asked.said), NEGATIVES), -1, np.int64)
    squares, ones = np.sum(averages * averages, axis=-1), np.ones(len(averages))
    one = np.column_stack([-2 * averages, squares, ones]).astype(np.float32)
    other = np.column_stack([averages, ones, squares]).astype(np.float32)  # one @ other is the squared distance
    with progress("walked pairs", len(averages)) as advance:
        for start in range(0, len(averages), BLOCK):
            true = np.arange(start, min(start + BLOCK, len(averages)))
            _walk_block(true, one[true] @ other.T, SHORTLIST, averages, asked, most_shared, threshold, found)
            advance(len(true))
    return found


def _walk_block(
    true: Int64[np.ndarray, " some"],
    estimates: Float32[np.ndarray, "some pairs"],
    size: int,
    averages: Float64[np.ndarray, "pairs dim"],
    asked: Asked,
    most_shared: int,
    threshold: float,
    found: Int64[np.ndarray, "questions 3"],
) -> None:
    """Fills `found` for the questions of some true pairs, ordering `size` pairs of each exactly, or more."""

    def some(part: slice) -> Bool[np.ndarray, " part"]:
        limits, certain = _reach(estimates[part], size, averages.shape[1])
        near = true[part], estimates[part], limits, certain
        return _walk_some(*near, averages, *asked, most_shared, threshold, found)

    each_core = -(-len(true) // cores())
    filled = np.concatenate(each(some, [slice(at, at + each_core) for at in range(0, len(true), each_core)]))
    if size < len(averages) and not filled.all():
        rest = true[~filled], estimates[~filled], size * GROWTH
        _walk_block(*rest, averages, asked, most_shared, threshold, found)


def error_of(dim: int) -> float:
    """What an estimated squared distance of vectors no longer than 1 is wrong by, at most: a float32 sum of `dim` + 2
    products whose magnitudes sum to 4 (Higham's bound), and as much again to be safe."""
    return 8 * (dim + 8) * 2.0**-24


def _reach(
    estimates: Float32[np.ndarray, "true pairs"], size: int, dim: int
) -> tuple[Float32[np.ndarray, " true"], Float64[np.ndarray, " true"]]:
    """The estimate up to which pairs are ordered, and the distance up to which nothing can be missing then."""
    if size >= estimates.shape[1]:
        return np.full(len(estimates), np.inf, np.float32), np.full(len(estimates), np.inf)
    limits = np.partition(estimates, size, axis=1)[:, size]
    squares = limits.astype(np.float64) - error_of(dim)
    return limits, np.where(squares > 0, np.sqrt(np.abs(squares)), -1.0)


@compiled
def _walk_some(
    true: Int64[np.ndarray, " some"],
    estimates: Float32[np.ndarray, "some pairs"],
    limits: Float32[np.ndarray, " some"],
    certain: Float64[np.ndarray, " some"],
    averages: Float64[np.ndarray, "pairs dim"],
    clips: Int64[np.ndarray, "pairs 2"],
    bounds: Int64[np.ndarray, " groups_and_one"],
    said: Int64[np.ndarray, " questions"],
    texts: Float64[np.ndarray, "texts text_dim"],
    most_shared: int,
    threshold: float,
    found: Int64[np.ndarray, "questions 3"],
) -> Bool[np.ndarray, " some"]:
    """Fills `found` for the questions of some true pairs; whether all of a pair's questions found three."""
    categories = (len(bounds) - 1) // len(clips)
    filled = np.ones(len(true), np.bool_)
    for at in range(len(true)):
        pair = true[at]
        near = np.flatnonzero(estimates[at] <= limits[at])
        distances = np.array([distance(averages[other], averages[pair]) for other in near])
        order = np.argsort(distances, kind="mergesort")  # stable: equal distances keep the order of the pairs
        for category in range(categories):
            group = pair * categories + category
            for question in range(bounds[group], bounds[group + 1]):
                count = 0
                for place in order:
                    if count == found.shape[1] or distances[place] > certain[at]:
                        break
                    other = near[place]
                    theirs = other * categories + category
                    if _shared(clips[other], clips[pair]) <= most_shared and not _alike(
                        texts, said[question], said[bounds[theirs] : bounds[theirs + 1]], threshold
                    ):
                        found[question, count] = other
                        count += 1
                filled[at] &= count == found.shape[1]
    return filled


@compiled
def _shared(one: Int64[np.ndarray, " 2"], other: Int64[np.ndarray, " 2"]) -> int:
    """How many clips two pairs have in common."""
    return int(one[0] == other[0] or one[0] == other[1]) + int(one[1] == other[0] or one[1] == other[1])


@compiled
def _alike(
    texts: Float64[np.ndarray, "texts text_dim"], text: int, others: Int64[np.ndarray, " others"], threshold: float
) -> bool:
    """Is the cosine of a text to one of the others above the threshold?"""
    for other in others:
        if dot(texts[text], texts[other]) > threshold:
            return True
    return False
