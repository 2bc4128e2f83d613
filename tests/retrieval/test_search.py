"""Exact search, hits of an index and neighbours of rows equal a comparison of all rows in
float64."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import neighbours
from retrieval.exact import cosines, nearest_of, search_exactly
from retrieval.index.builder import build_index
from retrieval.index.index import RowComparer
from retrieval.vectors import filled_rows, normalised
from stepdiff_core.errors import StepDiffError
from store import Store, View
from tests.retrieval.conftest import Fill, all_cosines


def naive(
    store: Store, view: View, rows: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return all cosines in float64, sorted, the lower row first among equals; -1 and -inf after
    the last."""
    unit = view.read("embedding", rows, dtype="float32").astype(np.float64)
    unit /= np.sqrt(np.sum(unit * unit, axis=1))[:, None]
    hits, cosines = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for at, query in enumerate(queries.astype(np.float64)):
        all_of_them = np.sum(unit * query, axis=1)
        order = np.lexsort((rows, -all_of_them))[:k]
        hits[at, : len(order)], cosines[at, : len(order)] = rows[order], all_of_them[order]
    return hits, cosines


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 70),
    k=st.integers(1, 45),
    distinct=st.integers(1, 40),
)
def test_exact_search_equals_float64(
    tmp_path_factory: pytest.TempPathFactory,
    fill: Fill,
    seed: int,
    queries: int,
    k: int,
    distinct: int,
) -> None:
    """Few distinct vectors give many ties, which the lower row wins."""
    rng = np.random.default_rng(seed)
    store = Store.open(tmp_path_factory.mktemp("exact") / "features", create=True)
    values = rng.normal(size=(distinct, 12)).astype(np.float32)[rng.integers(distinct, size=90)]
    values *= rng.uniform(0.1, 9, size=(90, 1)).astype(np.float32)  # lengths must not matter
    failed = rng.choice(90, 5, replace=False).tolist()
    view = fill(store, values, [f"c{at}" for at in range(90)], failed=failed, shard=64)
    rows = filled_rows(view)[rng.random(85) < 0.8]
    check(store, view, rows, unit(rng.normal(size=(queries, 12))), k)


def check(store: Store, view: View, rows: np.ndarray, queries: np.ndarray, k: int) -> None:
    hits, cosines = search_exactly(view, "embedding", rows, queries, k)
    expected, expected_cosines = naive(store, view, rows, queries, k)
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(cosines, expected_cosines.astype(np.float32))


@pytest.mark.full
@pytest.mark.parametrize(("rows", "queries"), [(70_000, 3), (9_000, 1100)])
def test_exact_search_of_many_rows_equals_float64(
    store: Store, fill: Fill, rows: int, queries: int
) -> None:
    """More rows than a block and a tile, more queries than are multiplied at a time, and many
    ties."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 12)).astype(np.float32)[rng.integers(500, size=rows)]
    view = fill(store, values, [f"c{at}" for at in range(rows)], shard=8192)
    check(store, view, filled_rows(view), unit(rng.normal(size=(queries, 12))), 300)


@pytest.mark.full
@pytest.mark.parametrize("queries", [3, 60])
def test_vectors_of_any_length_are_compared(store: Store, fill: Fill, queries: int) -> None:
    """Some are so short or so long that their squares and products underflow or overflow
    float32."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(900, 48))
    values[:40] *= 1e-41
    values[40:80] = 3.3e38 * np.sign(values[40:80])
    view = fill(store, values.astype(np.float32), [f"c{at}" for at in range(900)], shard=512)
    check(store, view, filled_rows(view), unit(rng.normal(size=(queries, 48))), 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_neighbours_equal_those_of_faiss_flat(tmp_path: Path, fill: Fill, dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3000, 64)).astype(np.float32)
    store = Store.open(tmp_path / "features", create=True)
    view = fill(store, values, [f"c{at}" for at in range(3000)], shard=1024, dtype=dtype)
    rows, queries = filled_rows(view), unit(rng.normal(size=(200, 64)))
    index = faiss.IndexFlatIP(64)
    index.add(normalised(view, "embedding", rows).astype(np.float32))
    similarities, theirs = index.search(queries, 10)
    hits, cosines = search_exactly(view, "embedding", rows, queries, 10)
    np.testing.assert_allclose(cosines, similarities, atol=2e-6)
    differ = hits != theirs  # only if two cosines are equal in FAISS's precision
    assert differ.mean() < 0.01
    np.testing.assert_allclose(cosines[differ], similarities[differ], atol=2e-6)


def test_a_row_without_a_direction_is_refused_by_its_key(store: Store, fill: Fill) -> None:
    values = np.ones((20, 4), np.float32)
    values[13] = 0
    view = fill(store, values, [f"c{at}" for at in range(20)])
    with pytest.raises(
        StepDiffError, match="the embedding of c13 in clips/tiny is all zeros"
    ) as caught:
        search_exactly(view, "embedding", filled_rows(view), unit(np.ones((1, 4))), 3)
    assert "\n" not in str(caught.value)


@given(
    vectors=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=30),
    asking=st.integers(1, 5),
    k=st.integers(1, 8),
    block=st.integers(1, 9),
)
def test_the_best_come_first(vectors: list[list[int]], asking: int, k: int, block: int) -> None:
    """Small whole numbers give many equal cosines and products without rounding."""
    all_of = np.array(vectors, np.float32)
    rows, apart = np.arange(len(all_of)) * 3, np.arange(len(all_of)) // 2
    queries, mine = all_of[:asking], apart[:asking]
    parts = [slice(start, start + block) for start in range(0, len(all_of), block)]
    hits, cosines = nearest_of(
        queries, mine, ((rows[some], all_of[some], apart[some]) for some in parts), k
    )
    for at in range(len(queries)):
        others = [other for other in range(len(all_of)) if apart[other] != mine[at]]
        others.sort(key=lambda other: (-float(all_of[other] @ queries[at]), other))  # noqa: B023
        expected = [other * 3 for other in others[:k]]
        assert hits[at].tolist() == expected + [-1] * (k - len(expected))
        expected_cosines = [float(all_of[other] @ queries[at]) for other in others[:k]]
        assert cosines[at].tolist() == expected_cosines + [-np.inf] * (k - len(expected_cosines))


ROWS, SHARD = 1500, 512


def random_vectors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, 16)).astype(np.float32)


@pytest.fixture(params=["float32", "float16"])
def view(store: Store, fill: Fill, request: pytest.FixtureRequest) -> View:
    """A view of 1,500 rows in three shards, the first without a failed row."""
    keys = [f"c{at}" for at in range(ROWS)]
    return fill(
        store,
        random_vectors().astype(request.param),
        keys,
        failed=(600, 700, 703),
        shard=SHARD,
        dtype=request.param,
    )


@pytest.fixture
def queries_and_rows(store: Store, view: View) -> tuple[np.ndarray, np.ndarray]:
    """40 queries, and 12 rows to compare with each, some of them missing."""
    rng = np.random.default_rng(1)
    queries = normalised(view, "embedding", filled_rows(view)[:40]).astype(np.float32)
    rows = rng.choice(filled_rows(view), (40, 12))
    rows[rng.random(rows.shape) < 0.1] = -1
    return queries, rows


def read(store: Store, view: View, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines of rows that are read from the store."""
    exact = np.full(rows.shape, -np.inf)
    query, rank = np.nonzero(rows >= 0)
    exact[query, rank] = cosines(view, "embedding", queries, query, rows[query, rank])
    return exact


def test_mapped_rows_give_the_same_cosines(
    store: Store, view: View, queries_and_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    queries, rows = queries_and_rows
    expected, hits = (
        read(store, view, queries, rows),
        RowComparer(view, "embedding", filled_rows(view)),
    )
    for _ in range(20):  # first from the store, then mapped
        np.testing.assert_array_equal(hits.cosines(queries, rows), expected)


@pytest.mark.parametrize("view", ["float32"], indirect=True)
def test_a_replaced_shard_is_mapped_again(
    store: Store, view: View, queries_and_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    queries, rows = queries_and_rows
    comparer = RowComparer(view, "embedding", filled_rows(view))
    before = [comparer.cosines(queries, rows) for _ in range(2)][-1]
    with store.lock():
        view.withdraw(np.arange(SHARD))
        view.write_shard(0, np.arange(SHARD), {"embedding": random_vectors(2)[:SHARD]}, {})
    now = comparer.cosines(queries, rows)
    np.testing.assert_array_equal(now, read(store, view, queries, rows))
    changed = (rows >= 0) & (rows < SHARD)
    assert (now != before)[changed].all() and (now == before)[~changed].all()


def test_the_nearest_rows_come_first(store: Store, clips: View) -> None:
    build_index(store, clips)
    rows = np.array([5, 0, 28, 6])
    hits, cosines = neighbours(store, clips, rows, 30)
    assert hits.shape == cosines.shape == (4, 30)
    assert (hits[:, 26:] == -1).all() and np.isneginf(cosines[:, 26:]).all()
    everyone = set(np.flatnonzero(clips.status() == 1))
    for row, nearest in zip(rows, hits, strict=True):
        assert set(nearest[:26]) == everyone - {row}
    assert (hits[0, 0], hits[3, 0]) == (6, 5)
    assert (np.diff(cosines[:, :26]) <= 0).all()


def test_neighbours_can_be_restricted_to_the_same_step(store: Store, clips: View) -> None:
    rows = np.array([5, 0, 28, 6, 0])
    hits, cosines = neighbours(store, clips, rows, 9, same="step")  # needs no index
    filled, all_of_them = all_cosines(clips)
    for row, nearest, near in zip(rows, hits, cosines, strict=True):
        to_row = dict(zip(filled.tolist(), all_of_them[filled == row][0].tolist(), strict=True))
        alike = [other for other in to_row if other % 3 == row % 3 and other != row]
        order = sorted(alike, key=lambda at: -to_row[at])[:9]  # noqa: B023
        assert nearest.tolist() == order + [-1] * (9 - len(order))
        np.testing.assert_allclose(near[: len(order)], [to_row[at] for at in order], atol=1e-6)


def test_unusable_neighbours_requests_are_refused(store: Store, clips: View) -> None:
    with pytest.raises(StepDiffError, match="video_8_0_9 and 1 more rows have no features"):
        neighbours(store, clips, np.array([1, 8, 3]), 2, same="step")
    with pytest.raises(StepDiffError, match="clips have no column 'stop': the catalog has key"):
        neighbours(store, clips, np.array([1]), 2, same="stop")
    with pytest.raises(StepDiffError, match="has no index"):
        neighbours(store, clips, np.array([1]), 2)


def test_a_row_without_a_step_has_no_neighbours(store: Store, fill: Fill) -> None:
    vectors = np.eye(4, dtype=np.float32) + 1
    view = fill(store, vectors, list("abcd"), columns={"step": ["x", None, "x", None]})
    hits, _ = neighbours(store, view, np.arange(4), 1, same="step")
    assert hits.tolist() == [[2], [-1], [0], [-1]]
