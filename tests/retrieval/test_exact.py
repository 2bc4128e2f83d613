"""Exact search equals a comparison of all rows in float64, for any blocks and ties."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StepDiffError
from retrieval import exact, vectors
from retrieval.exact import search_exactly
from retrieval.vectors import filled_rows, normalised
from store import Store, View

Fill = Callable[..., View]


def naive(store: Store, view: View, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all cosines in float64, sorted, the lower row first among equals; -1 and -inf after the last."""
    unit = view.read("embedding", rows, dtype="float32").astype(np.float64)
    unit /= np.sqrt(np.sum(unit * unit, axis=1))[:, None]
    found, cosines = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for at, query in enumerate(queries.astype(np.float64)):
        all_of_them = np.sum(unit * query, axis=1)
        order = np.lexsort((rows, -all_of_them))[:k]
        found[at, : len(order)], cosines[at, : len(order)] = rows[order], all_of_them[order]
    return found, cosines


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 70),
    k=st.integers(1, 45),
    distinct=st.integers(1, 40),
    spare=st.integers(0, 9),
)
def test_exact_search_equals_float64(
    tmp_path_factory: pytest.TempPathFactory,
    fill: Fill,
    seed: int,
    queries: int,
    k: int,
    distinct: int,
    spare: int,
) -> None:
    """Few distinct vectors give many ties, which blocks of 16 rows, tiles of 7 rows and 32 queries split."""
    rng = np.random.default_rng(seed)
    store = Store.open(tmp_path_factory.mktemp("exact") / "features", create=True)
    values = rng.normal(size=(distinct, 12)).astype(np.float32)[rng.integers(distinct, size=90)]
    values *= rng.uniform(0.1, 9, size=(90, 1)).astype(np.float32)  # lengths must not matter
    failed = rng.choice(90, 5, replace=False).tolist()
    view = fill(store, values, [f"c{at}" for at in range(90)], failed=failed, shard=64)
    rows = filled_rows(view)[rng.random(85) < 0.8]
    asked = unit(rng.normal(size=(queries, 12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "BLOCK_BYTES", 16 * 4 * 12)
        patch.setattr(exact, "TILE_BYTES", 5 * 4 * 12)
        patch.setattr(exact, "TILE_ROWS", 7)
        patch.setattr(exact, "QUERIES", 32)
        patch.setattr(exact, "SPARE", spare)
        found, cosines = search_exactly(store, view, "embedding", rows, asked, k)
    expected, figures = naive(store, view, rows, asked, k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cosines, figures.astype(np.float32))


@pytest.mark.parametrize("queries", [3, 60])
def test_vectors_of_any_length_are_compared(store: Store, fill: Fill, queries: int) -> None:
    """Some are so short or so long that their squares and products underflow or overflow float32."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(900, 48))
    values[:40] *= 1e-41
    values[40:80] = 3.3e38 * np.sign(values[40:80])
    view = fill(store, values.astype(np.float32), [f"c{at}" for at in range(900)], shard=512)
    asked = unit(rng.normal(size=(queries, 48)))
    found, cosines = search_exactly(store, view, "embedding", filled_rows(view), asked, 3)
    expected, figures = naive(store, view, filled_rows(view), asked, 3)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cosines, figures.astype(np.float32))


def test_ties_are_ordered_by_row(store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many copies of one clip the answer is the lowest rows, also where they are compared block by block."""
    monkeypatch.setattr(exact, "SPARE", 100)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 64 * 4 * 16)
    values = np.ones((700, 16), np.float32)
    values[::7] = np.random.default_rng(0).normal(size=(100, 16))
    view = fill(store, values, [f"c{at}" for at in range(700)], shard=128)
    found, cosines = search_exactly(store, view, "embedding", filled_rows(view), unit(values[1:2]), 10)
    assert found[0].tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert np.ptp(cosines) == 0 and cosines[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_neighbours_equal_those_of_faiss_flat(tmp_path: Path, fill: Fill, dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3000, 64)).astype(np.float32)
    store = Store.open(tmp_path / "features", create=True)
    view = fill(store, values, [f"c{at}" for at in range(3000)], shard=1024, dtype=dtype)
    rows, asked = filled_rows(view), unit(rng.normal(size=(200, 64)))
    index = faiss.IndexFlatIP(64)
    index.add(normalised(store, view, "embedding", rows).astype(np.float32))
    similarities, theirs = index.search(asked, 10)
    found, cosines = search_exactly(store, view, "embedding", rows, asked, 10)
    np.testing.assert_allclose(cosines, similarities, atol=2e-6)
    differ = found != theirs  # only if two cosines are equal in FAISS's precision
    assert differ.mean() < 0.01
    np.testing.assert_allclose(cosines[differ], similarities[differ], atol=2e-6)


@pytest.mark.parametrize("resident", [True, False])
def test_memory_is_bounded_by_a_few_blocks(
    resident: bool, store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read and no in-place access requests more rows than a block has."""
    view = fill(store, np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32), [f"c{n}" for n in range(500)])
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 64 * 4 * 8)
    reads: list[int] = []
    read = View.read

    def counted(view: View, feature: str, rows: np.ndarray, *rest: Any, **named: Any) -> np.ndarray:
        reads.append(len(rows))
        return read(view, feature, rows, *rest, **named)

    monkeypatch.setattr(View, "read", counted)
    in_place = View.in_place

    def seen(view: View, feature: str, rows: np.ndarray, *check: Any) -> np.ndarray | None:
        lying = in_place(view, feature, rows, *check) if resident else None
        reads.append(0 if lying is None else len(lying))
        return lying

    monkeypatch.setattr(View, "in_place", seen)
    search_exactly(store, view, "embedding", filled_rows(view), unit(np.ones((1, 8))), 3)
    assert max(reads) == 64 and sum(reads) < 500 + 10  # only rows that can be among the best are compared again


def test_a_row_without_a_direction_is_refused_by_its_key(store: Store, fill: Fill) -> None:
    values = np.ones((20, 4), np.float32)
    values[13] = 0
    view = fill(store, values, [f"c{at}" for at in range(20)])
    with pytest.raises(StepDiffError, match="the embedding of c13 in clips/tiny is all zeros") as caught:
        search_exactly(store, view, "embedding", filled_rows(view), unit(np.ones((1, 4))), 3)
    assert "\n" not in str(caught.value)
