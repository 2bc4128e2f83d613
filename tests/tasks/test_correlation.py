"""Guarantees of tasks/correlation.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tasks.correlation import kendall, spearman

few_values = st.integers(-2, 2).map(float)
sides = st.integers(2, 12).flatmap(lambda n: st.tuples(*[arrays(float, n, elements=few_values)] * 2))
OURS_AND_SCIPYS = [(spearman, stats.spearmanr), (kendall, stats.kendalltau)]


def theirs(function: object, one: np.ndarray, two: np.ndarray) -> float:
    if len(set(one)) < 2 or len(set(two)) < 2:
        return float("nan")
    return float(function(one, two).statistic)  # type: ignore[operator]


@settings(deadline=None)
@given(sides)
@pytest.mark.parametrize(("ours", "scipys"), OURS_AND_SCIPYS)
def test_without_resamples_a_correlation_equals_that_of_scipy(ours: object, scipys: object, both: tuple) -> None:
    assert ours(*both) == pytest.approx([theirs(scipys, *both)], abs=1e-12, nan_ok=True)  # type: ignore[operator]


@settings(deadline=None)
@given(sides, st.integers(0, 2**32))
@pytest.mark.parametrize(("ours", "scipys"), OURS_AND_SCIPYS)
def test_a_resamples_correlation_equals_that_of_the_items_repeated_as_often_as_they_were_drawn(
    ours: object, scipys: object, both: tuple, seed: int
) -> None:
    items = len(both[0])
    drawn = np.random.default_rng(seed).integers(items, size=(5, items))
    weights = np.stack([np.bincount(row, minlength=items) for row in drawn]).astype(float)
    expected = [theirs(scipys, both[0][row], both[1][row]) for row in drawn]
    assert ours(*both, weights) == pytest.approx(expected, abs=1e-12, nan_ok=True)  # type: ignore[operator]


@pytest.mark.parametrize("ours", [spearman, kendall])
def test_a_correlation_is_nan_where_all_values_of_one_side_tie(ours: object) -> None:
    assert np.isnan(ours(np.full(4, 0.1), np.arange(4.0)))[0]  # type: ignore[operator]
