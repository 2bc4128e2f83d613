"""The k best of many cosines compared with sorting all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from retrieval import exact
from retrieval.exact import nearest_of
from retrieval.index.factory import bytes_of


@given(
    vectors=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=30),
    asking=st.integers(1, 5),
    k=st.integers(1, 8),
    block=st.integers(1, 9),
)
@settings(deadline=None)
def test_the_best_come_first(vectors: list[list[int]], asking: int, k: int, block: int) -> None:
    """Small whole numbers give many equal cosines and products without rounding."""
    all_of = np.array(vectors, np.float32)
    rows, apart = np.arange(len(all_of)) * 3, np.arange(len(all_of)) // 2
    asked, mine = all_of[:asking], apart[:asking]
    parts = [slice(start, start + block) for start in range(0, len(all_of), block)]
    found, cosines = nearest_of(asked, mine, ((rows[some], all_of[some], apart[some]) for some in parts), k)
    for at in range(len(asked)):
        others = [other for other in range(len(all_of)) if apart[other] != mine[at]]
        others.sort(key=lambda other: (-float(all_of[other] @ asked[at]), other))  # noqa: B023
        expected = [other * 3 for other in others[:k]]
        assert found[at].tolist() == expected + [-1] * (k - len(expected))
        expected_cosines = [float(all_of[other] @ asked[at]) for other in others[:k]]
        assert cosines[at].tolist() == expected_cosines + [-np.inf] * (k - len(expected_cosines))


def test_a_row_is_never_its_own_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "QUERIES", 7)
    monkeypatch.setattr(exact, "VECTORS", 11)
    vectors, rows = np.ones((50, 4), np.float32), np.arange(50)
    found, _ = nearest_of(vectors, rows, [(rows, vectors, rows)], 3)
    assert found.tolist() == [[other for other in range(5) if other != at][:3] for at in range(50)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [("20GB", 20 * 10**9), ("512MiB", 2**29), ("1.5 gib", 3 * 2**29), ("1e9", 10**9), ("7", 7), ("2T", 2 * 10**12)],
)
def test_common_spellings_of_sizes_are_read(size: str, expected: int) -> None:
    assert bytes_of(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "ten GB", "-1GB", "1XB", "nan", "1.2.3GB"])
def test_an_invalid_size_is_refused(size: str) -> None:
    with pytest.raises(StepDiffError, match="is not a size: write for example 20GB or 512MiB"):
        bytes_of(size)
