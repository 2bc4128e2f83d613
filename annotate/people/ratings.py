"""Scores as arrays, and figures of agreement over them.

Shape legend: R ratings; C couples, which are two ratings of one item by two people; U items; L levels of the score;
P pairs of people.

Guarantees
- kappa is that of scikit-learn for two people
- two of three is the share of threes of people in which at least two give the same score
- a figure that is not defined is None
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from common.errors import StepDiffError
from tasks.agreement import alpha

COUPLES = 50_000_000
"""two ratings of one item, at most: more need gigabytes"""


@dataclass(frozen=True)
class Ratings:
    """R ratings: who gave which item which score."""

    item: Int64[np.ndarray, " R"]
    person: Int64[np.ndarray, " R"]
    score: Int64[np.ndarray, " R"]
    """from 0 to levels - 1"""
    levels: int

    def of(self, chosen: np.ndarray) -> "Ratings":
        """Return a part of the ratings."""
        return Ratings(self.item[chosen], self.person[chosen], self.score[chosen], self.levels)


@dataclass(frozen=True)
class Figures:
    """Agreement of people about items that at least two of them rated. None: not defined."""

    items: int
    """items with at least two ratings"""
    ratings: int
    """ratings of these items"""
    two_of_three: float | None
    """share of all threes of people who rated one item in which at least two gave the same score"""
    pairwise: float | None
    """share of all twos of people who rated one item that gave the same score"""
    kappa: float | None
    """Cohen's kappa, mean over pairs of people who share items"""
    kappa_weighted: float | None
    """the same, weighted by how many items a pair of people shares: with few shared items kappa is noise"""
    kappa_pairs: int
    """pairs of people with a kappa: it is not defined where both always give one and the same score"""
    distance: float | None
    """mean distance of two different scores of one item"""
    nominal: float | None
    """Krippendorff's alpha"""
    ordinal: float | None
    interval: float | None


def figures(ratings: Ratings) -> Figures:
    """Return all figures of agreement."""
    counts = _counts(ratings)
    counts = counts[counts.sum(1) > 1]
    one, two = couples(ratings)
    kappas, shared = _kappas(ratings, one, two)
    apart = np.abs(ratings.score[one] - ratings.score[two])
    return Figures(
        items=len(counts),
        ratings=int(counts.sum()),
        two_of_three=two_of_three(counts),
        pairwise=_mean(apart == 0),
        kappa=_mean(kappas),
        kappa_weighted=float(np.average(kappas, weights=shared)) if len(kappas) else None,
        kappa_pairs=len(kappas),
        distance=_mean(apart[apart > 0]),
        nominal=alpha(counts, "nominal"),
        ordinal=alpha(counts, "ordinal"),
        interval=alpha(counts, "interval"),
    )


def _counts(ratings: Ratings) -> Int64[np.ndarray, "U L"]:
    """Return how often each item has each score."""
    _, item = np.unique(ratings.item, return_inverse=True)
    items = int(item.max(initial=-1)) + 1
    cells = np.bincount(item * ratings.levels + ratings.score, minlength=items * ratings.levels)
    return cells.reshape(items, ratings.levels).astype(np.int64)


def couples(ratings: Ratings) -> tuple[Int64[np.ndarray, " C"], Int64[np.ndarray, " C"]]:
    """Return the places of all two ratings of one item, that of the person with the smaller number first.

    Raises:
        StepDiffError: More than COUPLES.
    """
    order = np.lexsort((ratings.person, ratings.item))
    item = ratings.item[order]
    sizes = np.unique(item, return_counts=True)[1]
    if (count := int((sizes * (sizes - 1) // 2).sum())) > COUPLES:
        raise StepDiffError(f"{count:,} pairs of ratings of one item, more than {COUPLES:,}; take fewer people an item")
    first = [np.zeros(0, np.int64)]
    second = [np.zeros(0, np.int64)]
    for step in range(1, int(sizes.max(initial=1))):
        same = np.flatnonzero(item[step:] == item[:-step])
        first.append(order[same])
        second.append(order[same + step])
    return np.concatenate(first), np.concatenate(second)


def two_of_three(counts: Int64[np.ndarray, "U L"]) -> float | None:
    """Return the share of all threes of ratings of one item in which at least two are the same."""
    n, counts = counts.sum(1), counts.astype(np.int64)
    threes = n * (n - 1) * (n - 2) // 6
    # Newton: the threes of three different scores are the third elementary symmetric polynomial of the counts.
    different = (n**3 - 3 * n * (counts**2).sum(1) + 2 * (counts**3).sum(1)) // 6
    return None if not threes.sum() else float(1 - different.sum() / threes.sum())


def _kappas(
    ratings: Ratings, one: Int64[np.ndarray, " C"], two: Int64[np.ndarray, " C"]
) -> tuple[Float64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return the kappa of each pair of people for which it is defined, and how many items they share."""
    people, levels = int(ratings.person.max(initial=0)) + 1, ratings.levels
    _, pair = np.unique(ratings.person[one] * people + ratings.person[two], return_inverse=True)
    cells = (pair * levels + ratings.score[one]) * levels + ratings.score[two]
    pairs = int(pair.max(initial=-1)) + 1
    tables = np.bincount(cells, minlength=pairs * levels**2).reshape(pairs, levels, levels).astype(np.int64)
    shared = tables.sum((1, 2))
    observed = np.einsum("pll->p", tables) / shared
    expected = (tables.sum(1) * tables.sum(2)).sum(1) / shared**2
    known = expected < 1
    return (observed[known] - expected[known]) / (1 - expected[known]), shared[known]


def from_others(ratings: Ratings) -> Float[np.ndarray, " R"]:
    """Return the distance of each rating from the median of the other ratings of its item; NaN where it is alone."""
    order = np.lexsort((ratings.score, ratings.item))
    item, score = ratings.item[order], ratings.score[order].astype(np.float64)
    _, start, size = np.unique(item, return_index=True, return_counts=True)
    start, size = np.repeat(start, size), np.repeat(size, size)
    place = np.arange(len(item)) - start

    def other(rank: Int64[np.ndarray, " R"]) -> Float64[np.ndarray, " R"]:
        """Return the score of a rank among the others, which skips the rating itself."""
        return score[np.minimum(start + rank + (rank >= place), len(score) - 1)]

    median = (other(np.maximum(size - 2, 0) // 2) + other((size - 1) // 2)) / 2
    distances = np.empty(len(item))
    distances[order] = np.where(size > 1, np.abs(score - median), np.nan)
    return distances


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
