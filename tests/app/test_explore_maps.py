"""Guarantees of app.explore.maps and app.explore.nearest, with a small real store."""

import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.explore import maps as module
from app.explore.child import write_in_child
from app.explore.maps import Maps, UnfinishedError
from app.explore.nearest import Searcher
from app.site import Site, UnknownError
from common.errors import StepDiffError
from retrieval import build_index
from retrieval.projection import map_of, project
from retrieval.queries.search import compute, of_clips, resolve
from store import Feature, Provenance, Store, View
from store.catalog.catalog import Catalog


def grown(store: Store, first: int, end: int, vectors: np.ndarray) -> View:
    """Append clips `first` to `end` - 1 and their vectors."""
    about = Provenance("tiny", "0" * 64, "last", "8", "centre", {"embedding": "float32"})
    keys = [f"clip_{at}" for at in range(first, end)]
    steps = [("whisk", "chop")[at % 2] for at in range(first, end)]
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": keys, "step": steps}))
        with store.writer("clips", "tiny", about, {"embedding": Feature((8,), "float32")}, rows_per_shard=64) as writer:
            writer.fill(np.arange(first, end), lambda rows: ({"embedding": vectors[rows]}, {}))
    return store.view("clips", "tiny")


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, vectors: np.ndarray) -> Store:
    store = Store.open(tmp_path / "features", create=True)
    grown(store, 0, 40, vectors)
    return store


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Site:
    return Site.open(str(store.path), cache=str(tmp_path / "cache"))


def test_coordinates_are_kept_and_computed_again_if_rows_were_added(
    site: Site, store: Store, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    project = module.write_coordinates

    def counting(view: View, rows: np.ndarray, *given: object) -> None:
        computed.append(len(rows))
        project(view, rows, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_coordinates", counting)
    first = Maps(site)
    shown = first.get("tiny", "pca", fresh=True)
    assert (shown.map.xy == map_of(store.view("clips", "tiny")).xy).all()
    assert shown.like.columns == ["key", "row", "step"] and shown.read("row")["row"].to_list() == [*range(40)]
    assert first.get("tiny", "pca", fresh=True) is shown and computed == [40]
    assert (Maps(site).get("tiny", "pca").map.xy == shown.map.xy).all() and computed == [40], "from the cache"
    grown(store, 40, 50, vectors)
    assert first.get("tiny", "pca") is shown
    newer = first.get("tiny", "pca", fresh=True)
    assert len(newer.map.rows) == 50 and newer.version != shown.version and computed == [40, 50]


def test_new_metadata_is_a_new_version_with_the_same_coordinates(site: Site, store: Store) -> None:
    maps = Maps(site)
    shown = maps.get("tiny", "pca")
    with store.lock():
        store.catalog("clips").update(pl.DataFrame({"key": ["clip_3"], "step": ["fry"]}))
    newer = maps.get("tiny", "pca", fresh=True)
    assert newer.version != shown.version and newer.read("step")["step"][3] == "fry"
    assert (newer.map.xy == shown.map.xy).all()


def test_a_map_is_computed_once_and_requests_wait_only_briefly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    go, computed, project = threading.Event(), [], module.write_coordinates

    def slow(*given: object) -> None:
        computed.append(1)
        assert go.wait(60)
        project(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_coordinates", slow)
    monkeypatch.setattr(module, "_WAIT", 0.01)
    maps = Maps(site)
    for _ in range(3):
        with pytest.raises(UnfinishedError, match="^the map is being computed: 0 of 40 clips$") as caught:
            maps.get("tiny", "pca", fresh=True)
        assert caught.value.status == 202
    go.set()
    monkeypatch.setattr(module, "_WAIT", 60)
    assert len(maps.get("tiny", "pca").map.rows) == 40 and computed == [1]


def test_at_most_three_maps_and_eight_results_are_in_memory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MAPS", 1)
    maps = Maps(site)
    shown = maps.get("tiny", "pca")
    made = [shown.remembered(at % 9, lambda at=at: at) for at in range(20)]  # type: ignore[misc]
    assert made == [*range(20)], "nine names in turn are never among the last eight"
    assert shown.remembered("again", lambda: 1) == shown.remembered("again", lambda: 2) == 1
    assert shown.remembered(19 % 9, lambda: -1) == 19
    maps._making["tiny", "other"] = module._Making("", 0)
    assert maps.get("tiny", "pca", fresh=True) is shown and list(maps._making) == [("tiny", "pca")]


def test_what_cannot_be_shown_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps(site)
    with pytest.raises(UnknownError, match="no view 'none' of clips: the views are tiny"):
        maps.get("none", "pca")
    with pytest.raises(UnknownError, match="no projection 'tsne'"):
        maps.get("tiny", "tsne")
    monkeypatch.setattr("retrieval.projection.find_spec", lambda name: None)
    with pytest.raises(StepDiffError, match="pip install"):
        maps.get("tiny", "umap")
    maps.close()
    with pytest.raises(StepDiffError, match="the server ends"):
        maps.get("tiny", "pca")


def test_a_sample_of_a_large_view(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MOST, "pca", 15)
    shown = Maps(site).get("tiny", "pca")
    assert len(shown.map.rows) == len(shown.map.xy) == shown.read("key").height == 15 and shown.map.total == 40
    assert shown.read("row")["row"].to_list() == shown.map.rows.tolist()
    places = shown.places(np.array([shown.map.rows[4], 10**6, shown.map.rows[14]]))
    assert places.tolist() == [4, -1, 14]
    assert (shown.places(np.arange(40)) >= 0).sum() == 15


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_are_those_of_retrieval_query(
    site: Site, store: Store, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = store.view("clips", "tiny")
    if indexed:
        build_index(store, view, factory="Flat")
    searcher = Searcher(site)
    for keys in (["clip_5"], ["clip_5", "clip_9"]):
        expected = compute(
            resolve(store, view, lambda store, view, name, keys=keys: of_clips(store, view, name, keys)), 7
        )
        hits = searcher.of_clips(view, keys, 7, None)
        assert store.catalog("clips").keys(hits.rows) == expected["clip"].to_list()
        np.testing.assert_allclose(hits.similarities, expected["similarity"].to_numpy(), atol=1e-6)
    some = np.arange(1, 40, 2)
    hits = searcher.of_clips(view, ["clip_5"], 100, some)
    assert sorted(hits.rows.tolist()) == [row for row in some.tolist() if row != 5]
    if indexed:
        opened = searcher._indexes["tiny"][1]
        searcher.of_clips(view, ["clip_6"], 3, None)
        assert searcher._indexes["tiny"][1] is opened, "an index is opened once"


def test_neighbours_of_many_clips_are_those_of_their_average(site: Site, store: Store, vectors: np.ndarray) -> None:
    view, rows = store.view("clips", "tiny"), np.arange(0, 20)
    unit = vectors[:40] / np.linalg.norm(vectors[:40], axis=1, keepdims=True)
    average = unit[rows].mean(axis=0)
    cosines = unit @ (average / np.linalg.norm(average))
    hits = Searcher(site).of_rows(view, np.append(rows, 10**6), 5, None)
    assert hits.rows.tolist() == [at for at in np.argsort(-cosines).tolist() if at >= 20][:5]
    assert hits.title == "20 clips"
    with pytest.raises(StepDiffError, match="none of the 1 chosen clips has features in view tiny"):
        Searcher(site).of_rows(view, np.array([10**6]), 5, None)


def test_columns_are_read_when_they_are_needed_and_the_catalog_in_pieces(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    select = Catalog.select

    def counting(catalog: Catalog, rows: np.ndarray, *like: pl.DataFrame) -> pl.DataFrame:
        read.append(len(rows))
        return select(catalog, rows, *like)

    monkeypatch.setattr(Catalog, "select", counting)
    monkeypatch.setattr(Catalog, "frame", None)
    monkeypatch.setattr(module, "PIECE", 16)
    monkeypatch.setitem(module.MOST, "pca", 35)
    shown = Maps(site).get("tiny", "pca")
    assert read == [16, 16, 3], "the rows of the sample, and no other"
    assert shown.read("step").columns == ["step"] and shown.read("key").height == 35 and len(read) == 3
    for file in (Path(site.cache._folder)).glob("*.parquet"):
        file.unlink()
    assert shown.read("row")["row"].to_list() == shown.map.rows.tolist(), "files that the cache dropped are made again"
    assert read == 2 * [16, 16, 3]


def test_umap_is_ended_if_nobody_wants_it_and_holds_up_no_pca(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap", reason="UMAP is not installed: pip install 'stepdiff[umap]'")
    maps = Maps(site)
    monkeypatch.setattr(module, "_WAIT", 0.01)
    with pytest.raises(UnfinishedError, match="0 of 40"):
        maps.get("tiny", "umap")
    making = maps._making["tiny", "umap"]
    monkeypatch.setattr(module, "_WAIT", 60)
    assert len(maps.get("tiny", "pca").map.rows) == 40 and not making.ready.is_set()
    maps.close()
    assert making.ready.wait(30) and str(making.error) == "the server ends"
    assert not multiprocessing.active_children()


def test_a_map_that_was_closed_is_computed_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap", reason="UMAP is not installed: pip install 'stepdiff[umap]'")
    maps = Maps(site)
    monkeypatch.setattr(module, "_WAIT", 0.01)
    with pytest.raises(UnfinishedError):
        maps.get("tiny", "umap")
    making = maps._making.pop(("tiny", "umap"))
    assert making.ready.wait(30) and "ask again" in str(making.error)


def test_a_computation_of_the_child_is_that_of_project(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("umap", reason="UMAP is not installed: pip install 'stepdiff[umap]'")
    rows, path = np.arange(3), tmp_path / "map.npz"
    write_in_child(store, "tiny", rows, "umap", path, lambda: None)  # of three rows PCA is taken
    with np.load(path) as arrays:
        assert (arrays["xy"] == project(store.view("clips", "tiny"), rows, "umap")[0]).all()


def test_an_error_of_the_child_is_an_error_of_the_caller(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="has no features yet"):
        write_in_child(store, "tiny", np.arange(0), "pca", tmp_path / "map.npz", lambda: None)
    with pytest.raises(StepDiffError, match="its process ended with status 1"):
        write_in_child(store, "tiny", np.arange(3), "pca", tmp_path / "none" / "map.npz", lambda: None)


def test_shown_is_compared_by_identity(site: Site) -> None:
    shown = Maps(site).get("tiny", "pca")
    assert shown == shown and shown != replace(shown)


def test_a_map_of_a_snapshot_is_computed_from_its_rows_and_kept_apart(
    store: Store, vectors: np.ndarray, tmp_path: Path
) -> None:
    store.tag("v1")
    rows = np.arange(40)
    view = store.view("clips", "tiny")
    with store.lock():
        view.withdraw(rows)
    about = view.provenance
    with store.writer("clips", "tiny", about, view.features) as writer:
        writer.fill(rows, lambda rows: ({"embedding": vectors[::-1][rows]}, {}))
    cache = str(tmp_path / "cache")
    now = Maps(Site.open(str(store.path), cache=cache)).get("tiny", "pca").map.xy
    then = Maps(Site.open(f"{store.path}@v1", cache=cache)).get("tiny", "pca").map.xy
    old = Store.open(store.path, at="v1")
    expected = project(old.view("clips", "tiny"), rows, "pca")[0]
    assert (then == expected).all() and not np.allclose(now, then)
    write_in_child(old, "tiny", rows, "pca", tmp_path / "map.npz", lambda: None)
    with np.load(tmp_path / "map.npz") as arrays:
        assert (arrays["xy"] == expected).all()
