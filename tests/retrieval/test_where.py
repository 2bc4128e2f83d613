"""Filters over the catalog, and searches among the selected clips."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from retrieval import build_index
from retrieval.__main__ import main
from retrieval.index.index import open_index
from retrieval.queries.condition import rows_where
from retrieval.queries.search import compute, of_clips, resolve
from store import Store, View

Fill = Callable[..., View]


@pytest.fixture
def cut(store: Store, fill: Fill) -> View:
    """A view of 60 clips with step, split, start and end; row 6 has failed; rows 50 and later have no split."""
    vectors = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32)
    columns = {
        "step": [("chop", "whisk", "fry")[at % 3] for at in range(60)],
        "split": [("train", "test")[at % 2] if at < 50 else None for at in range(60)],
        "start": [0.5 * at for at in range(60)],
        "end": [0.5 * at + 1 + at % 7 for at in range(60)],
    }
    return fill(store, vectors, [f"clip_{at}" for at in range(60)], failed=(6,), columns=columns)


CONDITIONS = {
    "step = 'whisk'": lambda at: at % 3 == 1,
    "split == 'test' AND step != 'fry'": lambda at: at < 50 and at % 2 == 1 and at % 3 != 2,
    "duration > 4.5": lambda at: 1 + at % 7 > 4.5,
    "step LIKE '%h%' OR \"end\" < 3": lambda at: at % 3 < 2 or 0.5 * at + 1 + at % 7 < 3,
    "split IS NULL": lambda at: at >= 50,
    "key IN ('clip_3', 'clip_6')": lambda at: at in (3, 6),
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_a_filter_selects_the_rows_for_which_it_is_true(store: Store, cut: View, where: str) -> None:
    assert rows_where(store, "clips", where).tolist() == [at for at in range(60) if CONDITIONS[where](at)]


@pytest.mark.parametrize("factory", [None, "Flat", "IVF4,SQfp16"])
@pytest.mark.parametrize("where", ["step = 'whisk'", "duration > 4.5 AND split = 'train'"])
def test_a_filter_is_applied_before_the_search(
    store: Store, cut: View, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    factory: str | None, where: str,
) -> None:  # fmt: skip
    """The nearest of the selected clips equal those of a direct comparison, with exact search and with an index."""
    if factory is not None:
        build_index(store, cut, factory=factory)
        monkeypatch.setattr("retrieval.queries.search.FLAT_BELOW", 0)
    vectors = np.random.default_rng(2).normal(size=(60, 16)).astype(np.float32).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    through = {"step = 'whisk'": CONDITIONS["step = 'whisk'"]}.get(
        where, lambda at: CONDITIONS["duration > 4.5"](at) and at < 50 and at % 2 == 0
    )
    let = [at for at in range(60) if through(at) and at not in (4, 6)]
    nearest = sorted(let, key=lambda at: -float(vectors[at] @ vectors[4]))[:5]
    words = ["query", "--store", str(store.path), "--view", "tiny", "--clip", "clip_4", "-k", "5", "--json"]
    assert main([*words, "--where", where]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["clip"] for hit in hits] == [f"clip_{at}" for at in nearest]
    assert [hit["similarity"] for hit in hits] == pytest.approx([vectors[at] @ vectors[4] for at in nearest], abs=1e-6)


def test_a_selection_hides_all_other_rows_of_an_index(store: Store, cut: View) -> None:
    for factory in ("Flat", "IVF4,SQfp16", "HNSW8"):
        build_index(store, cut, factory=factory)
        index = open_index(store, cut)
        among = np.array([0, 7, 19, 41])
        rows, _ = index.search(cut.read("embedding", np.array([3, 40]), dtype="float32"), 4, among)
        assert set(rows.ravel().tolist()) <= {0, 7, 19, 41, -1}, factory
        if factory != "HNSW8":  # the search of a graph ends before it has visited every row
            assert all(set(found) == {0, 7, 19, 41} for found in rows.tolist()), factory
    build_index(store, cut, factory="PQ4x2")
    with pytest.raises(StepDiffError, match="cannot search only some rows of an index 'PQ4x2': build one"):
        open_index(store, cut).search(cut.read("embedding", np.array([3]), dtype="float32"), 4, among)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("colour = 'red'", "names no column of the clips: colour; the catalog has key, step, split, start, end, dur"),
        ("step = ", "is not a condition ("),
        ("start + 1", "is not a condition ("),
        ("start > 'late'", "is not a condition ("),
        ("", "is not a condition ("),
        ("step = 'whisk' AND", "write one as after SQL's WHERE"),
        ("step = 'bake'", "no clip of "),
    ],
)
def test_a_bad_filter_is_refused_in_one_line(
    store: Store, cut: View, capsys: pytest.CaptureFixture[str], where: str, why: str
) -> None:
    words = ["query", "--store", str(store.path), "--view", "tiny", "--clip", "clip_4", "--where", where]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and why in err


def nearest(store: Store, view: View, k: int, where: str | None = None) -> pl.DataFrame:
    """Return the clips nearest to clip_4."""
    return compute(resolve(store, view, partial(of_clips, clips=["clip_4"]), where), k)


def test_fewer_selected_clips_than_k_are_all_returned(
    store: Store, cut: View, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "key IN ('clip_3', 'clip_4', 'clip_6')"
    assert nearest(store, cut, 2, where)["clip"].to_list() == ["clip_3"]
    assert nearest(store, cut, 2, "key = 'clip_4'").height == 0
    words = ["query", "--store", str(store.path), "--view", "tiny", "--clip", "clip_4", "-k", "2", "--json"]
    assert main([*words, "--where", where]) == 0
    printed = capsys.readouterr()
    assert [hit["clip"] for hit in json.loads(printed.out)["hits"]] == ["clip_3"]
    assert printed.err == f"-k 2: there are only 1 clips to choose from with {where}\n"


def test_a_small_view_without_an_index_is_searched_exactly(
    store: Store, cut: View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exact = nearest(store, cut, 58)
    monkeypatch.setattr("retrieval.queries.search.FLAT_BELOW", 10)
    with pytest.raises(StepDiffError, match="has no index: run `python -m retrieval build"):
        nearest(store, cut, 58)
    build_index(store, cut)
    by_index = nearest(store, cut, 58)
    assert exact["clip"].to_list() == by_index["clip"].to_list()
    assert exact["similarity"].to_list() == pytest.approx(by_index["similarity"].to_list(), abs=1e-6)
