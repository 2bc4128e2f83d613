"""Agreement of people who score the same items: Krippendorff's alpha, and the ceiling that it sets for a method.

Shape legend: U items; L levels of a score; C concepts, each with a score.

Guarantees
- alpha is that of a naive coincidence matrix, and of the library krippendorff
- a ceiling depends on the answers and the seed alone
- a ceiling is what a method reaches that knows the truth: 1 if people agree
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from stepdiff.common.streams import generator
from stepdiff.tasks.correlation import spearman

Level = Literal["nominal", "ordinal", "interval"]


def alpha(counts: Int64[np.ndarray, "U L"], level: Level) -> float | None:
    """Return Krippendorff's alpha. None where all ratings are the same, or no item has two.

    These few lines are ours because the library `krippendorff` has a licence (GPL) that this project cannot take on;
    the tests compare the two.

    Args:
        counts: How often each item has each score.
        level: What two scores have to do with each other: nothing, their order, or also their distance.
    """
    counts = counts[counts.sum(1) > 1].astype(np.float64)
    totals = counts.sum(0)
    distances = _distances(totals, level)
    expected = totals @ distances @ totals / max(totals.sum() - 1, 1)
    if not expected:
        return None
    within = np.einsum("ul,lm,um->u", counts, distances, counts)
    return float(1 - (within / (counts.sum(1) - 1)).sum() / expected)


def _distances(totals: Float64[np.ndarray, " L"], level: Level) -> Float64[np.ndarray, "L L"]:
    """Return the squared distance of each two scores; totals: how often each score is given."""
    places = np.arange(len(totals), dtype=np.float64)
    if level == "nominal":
        return (places[:, None] != places).astype(np.float64)
    if level == "ordinal":  # the ratings between the middles of two scores
        places = np.cumsum(totals) - totals / 2
    return (places[:, None] - places) ** 2


def ceiling(items: Sequence[Shaped[np.ndarray, "_ C"]], splits: int = 50, seed: int = 0) -> Float64[np.ndarray, " C"]:
    """Return the highest rank correlation with the mean scores that a method can expect.

    Mean scores of other people would be different ones. The answers about each item are split at random into two
    halves; rho of the halves' means, corrected to the full number of answers by 2 rho / (1 + rho) (Spearman-Brown), is
    the reliability of the mean scores, and its root the correlation of a method that knows what all people would say
    on average. It is averaged over the splits.

    Args:
        items: For each item its answers, at least one. Items with one answer do not count.
        splits: Number of splits.
        seed: Seed of the splits.

    Returns:
        A number for each concept, NaN where it is not defined, as for fewer than two items.
    """
    shared = [np.asarray(answers, float) for answers in items if len(answers) > 1]
    draws = generator(seed, "split halves of answers")
    found = np.full((splits, items[0].shape[1]), np.nan)
    for split in found[: splits if len(shared) > 1 else 0]:
        halves = np.empty((2, len(shared), len(split)))
        for number, answers in enumerate(shared):
            order = draws.permutation(len(answers))
            middle = len(answers) // 2
            halves[0, number] = answers[order[:middle]].mean(axis=0)
            halves[1, number] = answers[order[middle:]].mean(axis=0)
        rho = np.array([spearman(one, two)[0] for one, two in zip(*halves.transpose(0, 2, 1), strict=True)])
        with np.errstate(invalid="ignore", divide="ignore"):  # negative: the halves have nothing in common
            split[:] = np.sqrt(2 * rho / (1 + rho))
    return found.mean(axis=0)
