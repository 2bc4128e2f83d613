"""Hits of an index are compared in mapped memory or from the store, with the same result."""

from collections.abc import Callable

import faiss
import numpy as np
import pytest

from common.errors import StepDiffError
from retrieval.exact import cosines
from retrieval.index import hits
from retrieval.index.builder import build_index
from retrieval.index.hits import Hits
from retrieval.index.index import ivf_of, open_index
from retrieval.vectors import filled_rows, normalised
from store import Store, View
from store.io.remote import RemoteReader

Fill = Callable[..., View]
ROWS, SHARD = 1500, 512


def vectors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, 16)).astype(np.float32)


@pytest.fixture(params=["float32", "float16"])
def view(store: Store, fill: Fill, request: pytest.FixtureRequest) -> View:
    """A view of 1,500 rows in three shards, the first without a failed row."""
    keys = [f"c{at}" for at in range(ROWS)]
    return fill(store, vectors().astype(request.param), keys, failed=(600, 700, 703), shard=SHARD, dtype=request.param)


@pytest.fixture
def asked(store: Store, view: View) -> tuple[np.ndarray, np.ndarray]:
    """40 queries, and 12 rows to compare with each, some of them missing."""
    rng = np.random.default_rng(1)
    queries = normalised(store, view, "embedding", filled_rows(view)[:40]).astype(np.float32)
    rows = rng.choice(filled_rows(view), (40, 12))
    rows[rng.random(rows.shape) < 0.1] = -1
    return queries, rows


def read(store: Store, view: View, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines of rows that are read from the store."""
    exact = np.full(rows.shape, -np.inf)
    query, rank = np.nonzero(rows >= 0)
    exact[query, rank] = cosines(store, view, "embedding", queries, query, rows[query, rank])
    return exact


def test_mapped_rows_give_the_same_cosines(
    store: Store, view: View, asked: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, rows = asked
    expected, compared = read(store, view, queries, rows), Hits(store, view, "embedding", filled_rows(view))
    for _ in range(20):  # first from the store, then mapped
        np.testing.assert_array_equal(compared.cosines(queries, rows), expected)
    left: list[int] = []
    monkeypatch.setattr(hits, "cosines", lambda *given: left.extend(given[-1]) or cosines(*given))
    np.testing.assert_array_equal(compared.cosines(queries, rows), expected)
    short = [700, 701, 702]  # between failed rows, so seldom compared
    assert set(left) <= ({*short} if view.features["embedding"].dtype == "float32" else set(rows.ravel()))
    monkeypatch.setattr(View, "in_place", lambda *_: None)  # not in memory
    np.testing.assert_array_equal(Hits(store, view, "embedding", filled_rows(view)).cosines(queries, rows), expected)


@pytest.mark.parametrize("view", ["float32"], indirect=True)
def test_a_replaced_shard_is_mapped_again(store: Store, view: View, asked: tuple[np.ndarray, np.ndarray]) -> None:
    queries, rows = asked
    found = Hits(store, view, "embedding", filled_rows(view))
    before = [found.cosines(queries, rows) for _ in range(2)][-1]
    with store.lock():
        view.withdraw(np.arange(SHARD))
        view.write_shard(0, np.arange(SHARD), {"embedding": vectors(2)[:SHARD]}, {})
    now = found.cosines(queries, rows)
    np.testing.assert_array_equal(now, read(store, view, queries, rows))
    changed = (rows >= 0) & (rows < SHARD)
    assert (now != before)[changed].all() and (now == before)[~changed].all()


@pytest.mark.parametrize("view", ["float32"], indirect=True)
def test_a_row_without_a_direction_is_named(store: Store, fill: Fill, view: View) -> None:
    fill(store, np.zeros((100, 16), np.float32), [f"zero{at}" for at in range(100)], shard=SHARD)
    found = Hits(store, view, "embedding", filled_rows(view))
    queries = vectors()[:1] / np.linalg.norm(vectors()[0])
    for _ in range(2):
        with pytest.raises(StepDiffError, match="zero0 in clips/tiny is all zeros"):
            found.cosines(queries, np.arange(ROWS - 80, ROWS + 80)[None])


@pytest.mark.parametrize("factory", ["IVF16,SQfp16", "IVF16,Flat"])
def test_a_few_hits_of_fine_codes_give_the_result_of_many(
    store: Store, fill: Fill, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = fill(store, vectors(), [f"c{at}" for at in range(ROWS)], shard=SHARD)
    build_index(store, view, factory=factory, workers=1)
    queries = normalised(store, view, "embedding", np.arange(0, ROWS, 5)).astype(np.float32)
    few = open_index(store, view).search(queries, 10)
    monkeypatch.setattr("retrieval.index.index.NEAR", 200)
    many = open_index(store, view).search(queries, 10)
    np.testing.assert_array_equal(few[0], many[0])
    np.testing.assert_array_equal(few[1], many[1])


def test_a_search_of_mapped_lists_starts_no_threads(store: Store, fill: Fill) -> None:
    view = fill(store, vectors(), [f"c{at}" for at in range(ROWS)], shard=SHARD)
    build_index(store, view, factory="IVF16,SQfp16", workers=1)
    index = open_index(store, view)
    lists = faiss.downcast_InvertedLists(ivf_of(index.faiss).invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists) and lists.prefetch_nthread == 0


def test_rows_of_an_object_store_are_read_once(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot be mapped: the rows that are read are those that are compared."""
    remote = Store.open("memory://hits/features", create=True)
    view = fill(remote, vectors(), [f"c{at}" for at in range(ROWS)], shard=SHARD)
    read: list[int] = []
    reading = RemoteReader.read
    monkeypatch.setattr(
        RemoteReader, "read", lambda self, rows, *given: read.extend(rows.tolist()) or reading(self, rows, *given)
    )
    found, rng = Hits(remote, view, "embedding", filled_rows(view)), np.random.default_rng(1)
    queries = vectors()[:1] / np.linalg.norm(vectors()[0])
    asked = [rng.choice(ROWS, (1, 12), replace=False) for _ in range(20)]
    for rows in asked:
        found.cosines(queries, rows)
    assert sorted(read) == sorted(np.concatenate(asked).ravel().tolist())
