"""The compiled walk from each true pair to the pairs nearest to it.

A float32 matrix product estimates the distances of a block of true pairs to all pairs. The pairs with the smallest
estimates are sorted by their exact distance, and the walk stops where this order is no longer certain. If that is not
enough, four times as many pairs are sorted.

Guarantees
- only_exact_distances_order_the_candidates: estimates only decide which pairs need not be sorted
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from common.progress import progress
from common.threads import cores, each
from retrieval.exact.kernels import compiled, distance, dot

NEGATIVES = 3
BLOCK = 512  # true pairs estimated at a time
SHORTLIST = 64  # pairs sorted exactly at first
GROWTH = 4


class Questions(NamedTuple):
    """The questions of a test set as arrays, sorted by pair and category."""

    clips: Int64[np.ndarray, "pairs 2"]
    """positions of each pair's reference and candidate among the clips"""
    bounds: Int64[np.ndarray, " groups_and_one"]
    """questions bounds[p * categories + c] to bounds[p * categories + c + 1] are those of pair p in category c, and
    thereby all difference texts of that pair in that category"""
    text: Int64[np.ndarray, " questions"]
    """position of each question's text among the texts"""
    texts: Float64[np.ndarray, "texts text_dim"]
    """normalised embeddings"""


def walk(
    questions: Questions, averages: Float64[np.ndarray, "pairs dim"], most_shared: int, threshold: float
) -> Int64[np.ndarray, "questions 3"]:
    """Return the positions of the first three pairs that each question's walk keeps; -1 where there are fewer.

    A pair is kept if it shares at most `most_shared` clips with the true pair, and none of its texts in the question's
    category has a cosine above `threshold` to the question's text.
    """
    found = np.full((len(questions.text), NEGATIVES), -1, np.int64)
    squares, ones = np.sum(averages * averages, axis=-1), np.ones(len(averages))
    one = np.column_stack([-2 * averages, squares, ones]).astype(np.float32)
    other = np.column_stack([averages, ones, squares]).astype(np.float32)  # one @ other is the squared distance
    with progress("walked pairs", len(averages)) as advance:
        for start in range(0, len(averages), BLOCK):
            true = np.arange(start, min(start + BLOCK, len(averages)))
            _walk_block(true, one[true] @ other.T, SHORTLIST, averages, questions, most_shared, threshold, found)
            advance(len(true))
    return found


def _walk_block(
    true: Int64[np.ndarray, " some"],
    estimates: Float32[np.ndarray, "some pairs"],
    size: int,
    averages: Float64[np.ndarray, "pairs dim"],
    questions: Questions,
    most_shared: int,
    threshold: float,
    found: Int64[np.ndarray, "questions 3"],
) -> None:
    """Fill `found` for the questions of some true pairs; sort `size` pairs of each exactly, or more."""

    def some(part: slice) -> Bool[np.ndarray, " part"]:
        limits, certain = _reach(estimates[part], size, averages.shape[1])
        near = true[part], estimates[part], limits, certain
        return _walk_some(*near, averages, *questions, most_shared, threshold, found)

    each_core = -(-len(true) // cores())
    filled = np.concatenate(each(some, [slice(at, at + each_core) for at in range(0, len(true), each_core)]))
    if size < len(averages) and not filled.all():
        rest = true[~filled], estimates[~filled], size * GROWTH
        _walk_block(*rest, averages, questions, most_shared, threshold, found)


def error_of(dim: int) -> float:
    """Return twice the error bound of an estimated squared distance of vectors no longer than 1.

    It is Higham's bound of a float32 sum of `dim` + 2 products whose magnitudes sum to 4.
    """
    return 8 * (dim + 8) * 2.0**-24


def _reach(
    estimates: Float32[np.ndarray, "true pairs"], size: int, dim: int
) -> tuple[Float32[np.ndarray, " true"], Float64[np.ndarray, " true"]]:
    """The estimate up to which pairs are sorted, and the distance up to which the order is then complete."""
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
    text: Int64[np.ndarray, " questions"],
    texts: Float64[np.ndarray, "texts text_dim"],
    most_shared: int,
    threshold: float,
    found: Int64[np.ndarray, "questions 3"],
) -> Bool[np.ndarray, " some"]:
    """Fill `found` for the questions of some true pairs; returns whether all questions of a pair found three."""
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
                        texts, text[question], text[bounds[theirs] : bounds[theirs + 1]], threshold
                    ):
                        found[question, count] = other
                        count += 1
                filled[at] &= count == found.shape[1]
    return filled


@compiled
def _shared(one: Int64[np.ndarray, " 2"], other: Int64[np.ndarray, " 2"]) -> int:
    """The number of clips that two pairs share."""
    return int(one[0] == other[0] or one[0] == other[1]) + int(one[1] == other[0] or one[1] == other[1])


@compiled
def _alike(
    texts: Float64[np.ndarray, "texts text_dim"], text: int, others: Int64[np.ndarray, " others"], threshold: float
) -> bool:
    """Whether the cosine of a text to one of the others is above the threshold."""
    for other in others:
        if dot(texts[text], texts[other]) > threshold:
            return True
    return False
