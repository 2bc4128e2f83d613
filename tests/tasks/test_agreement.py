"""Guarantees of tasks/agreement.py."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.agreement import alpha, ceiling

LEVELS = 5
rated = st.lists(st.lists(st.integers(0, LEVELS - 1), min_size=2, max_size=5), max_size=6)  # the scores of each item


def naive_alpha(given: Sequence[Sequence[int]], level: str) -> float | None:
    """Alpha from a coincidence matrix, entry by entry."""
    matrix = np.zeros((LEVELS, LEVELS))
    for scores in given:
        for one, two in itertools.permutations(range(len(scores)), 2):
            matrix[scores[one], scores[two]] += 1 / (len(scores) - 1)
    totals = matrix.sum(0)

    def distance(one: int, two: int) -> float:
        if level == "nominal":
            return float(one != two)
        if level == "interval":
            return float(one - two) ** 2
        low, high = sorted((one, two))
        return float(totals[low : high + 1].sum() - (totals[low] + totals[high]) / 2) ** 2

    couples = list(itertools.product(range(LEVELS), repeat=2))
    observed = sum(matrix[c] * distance(*c) for c in couples)
    expected = sum(totals[c[0]] * totals[c[1]] * distance(*c) for c in couples)
    return None if expected == 0 else 1 - (totals.sum() - 1) * observed / expected


def counts(given: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([np.bincount(scores, minlength=LEVELS) for scores in given], np.int64).reshape(-1, LEVELS)


@settings(deadline=None)
@given(rated)
def test_alpha_is_that_of_a_naive_coincidence_matrix(given: list[list[int]]) -> None:
    for level in ("nominal", "ordinal", "interval"):
        assert alpha(counts(given), level) == pytest.approx(naive_alpha(given, level), abs=1e-9)


@settings(deadline=None)
@given(rated)
def test_alpha_is_that_of_the_library_krippendorff(given: list[list[int]]) -> None:
    library = pytest.importorskip("krippendorff", reason="the library is not installed")
    found = counts(given)
    for level in ("nominal", "ordinal", "interval"):
        ours = alpha(found, level)
        if ours is not None:
            theirs = library.alpha(
                value_counts=found, value_domain=list(range(LEVELS)), level_of_measurement=level, dtype=np.float64
            )
            assert ours == pytest.approx(theirs, abs=1e-9)


def of_people(items: int, people: int, noise: float, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the truth of items, and answers of people about them, which are wrong by a normal deviation."""
    draws = np.random.default_rng(seed)
    truth = draws.normal(size=items)
    return truth, [value + noise * draws.normal(size=(people, 1)) for value in truth]


def test_people_who_agree_have_the_ceiling_1() -> None:
    _, items = of_people(20, 3, 0.0, 1)
    assert ceiling(items) == pytest.approx([1])


def test_a_ceiling_is_what_a_method_reaches_that_knows_the_truth() -> None:
    truth, items = of_people(4000, 4, 1.0, 2)
    means = np.array([answers.mean() for answers in items])
    assert ceiling(items, 5)[0] == pytest.approx(np.corrcoef(truth, means)[0, 1], abs=0.02)


def test_a_ceiling_depends_on_the_answers_and_the_seed_alone() -> None:
    _, items = of_people(30, 5, 1.0, 3)
    assert ceiling(items, 3, 7) == ceiling([*items, np.ones((1, 1))], 3, 7)  # an item with one answer does not count
    assert ceiling(items, 3, 7) != ceiling(items, 3, 8)


def test_a_ceiling_of_fewer_than_two_items_is_not_defined() -> None:
    assert np.isnan(ceiling([np.ones((3, 2)), np.ones((1, 2))])).all()
