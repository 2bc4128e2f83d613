"""tau-b compared with scipy, which the published evaluation calls."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau

from tasks import scoring
from tasks.scoring import kendall_tau

few_values = st.sampled_from([0.0, -0.0, 1.0, 2.0, 2.5])
any_values = st.floats(allow_nan=False, allow_infinity=False)


def scipy_tau(first: np.ndarray, second: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows with fewer than two values
        return float(kendalltau(first, second).statistic)


def rankings(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    sizes = st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 8))
    return sizes.flatmap(lambda size: arrays(np.float64, size, elements=values))


@given(st.one_of(rankings(few_values), rankings(any_values)), st.data())
def test_tau_is_equal_to_scipy_row_by_row(values: np.ndarray, data: st.DataObject) -> None:
    first, second = values
    expected = [scipy_tau(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(kendall_tau(first, second), expected, rtol=1e-12, atol=1e-12)
    counted = data.draw(arrays(bool, first.shape))
    expected = [scipy_tau(a[here], b[here]) for a, b, here in zip(first, second, counted, strict=True)]
    found = kendall_tau(first, second, counted)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_tau_is_nan_if_all_values_of_one_side_tie() -> None:
    first = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    found = kendall_tau(first, np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    assert np.isnan(found[0]) and found[1] == 1


def test_chunked_rows_give_the_same_tau(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(0).integers(0, 4, (2, 50, 6)).astype(float)
    whole = kendall_tau(first, second)
    monkeypatch.setattr(scoring, "PAIRS_AT_ONCE", 100)
    np.testing.assert_array_equal(kendall_tau(first, second), whole)
