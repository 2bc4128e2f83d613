"""Maps of a view, and the file of a map for Embedding Atlas."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval.__main__ import main
from retrieval.projection import pooled_feature, project, sample_rows
from stepdiff.common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from tests.retrieval.conftest import Fill, error


def filled_view(store: Store, arrays: dict[str, np.ndarray], dtype: str = "float32") -> View:
    """A view of clips with these arrays."""
    count = len(next(iter(arrays.values())))
    keys = [f"clip_{at}" for at in range(count)]
    about = Provenance("tiny", "0" * 64, "last", "8", "centre", {name: dtype for name in arrays})
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": keys}))
        features = {name: Feature(array.shape[1:], dtype) for name, array in arrays.items()}
        with store.writer("clips", "tiny", about, features, rows_per_shard=16) as writer:
            writer.fill(np.arange(count), lambda rows: ({name: array[rows] for name, array in arrays.items()}, {}))
    return store.view("clips", "tiny")


def naive_map(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """PCA of all rows by singular values."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, values[:2] ** 2 / (values**2).sum()


@pytest.fixture
def vectors() -> np.ndarray:
    random = np.random.default_rng(3)
    return (random.normal(size=(90, 12)) * np.linspace(3, 0.2, 12)).astype(np.float32)


def test_pca_equals_a_naive_one(store: Store, vectors: np.ndarray) -> None:
    view = filled_view(store, {"embedding": vectors})
    rows, total = sample_rows(view, 90)
    assert rows.tolist() == list(range(90)) and total == 90
    xy, xy_shares = project(view, rows)
    expected, shares = naive_map(vectors)
    signs = np.sign((xy * expected).sum(axis=0))
    np.testing.assert_allclose(xy, expected * signs, atol=1e-5)
    np.testing.assert_allclose(xy_shares, shares, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tokens_are_averaged(store: Store, dtype: str) -> None:
    tokens = np.random.default_rng(5).normal(size=(40, 6, 64)).astype(np.float32)
    view = filled_view(store, {"tokens": tokens}, dtype)
    expected, _ = naive_map(tokens.mean(axis=1))
    found, _ = project(view, np.arange(40))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=0.02)


@pytest.mark.full
def test_a_larger_view_is_sampled(store: Store, vectors: np.ndarray) -> None:
    view = filled_view(store, {"embedding": vectors})
    rows, total = sample_rows(view, 30)
    assert total == 90 and len(set(rows.tolist())) == 30 and (np.diff(rows) > 0).all()
    assert rows.max() < 90 and (rows != sample_rows(view, 30, seed=1)[0]).any()
    often = np.bincount(np.concatenate([sample_rows(view, 30, seed)[0] for seed in range(600)]), minlength=90)
    assert often.min() > 140 and often.max() < 260  # 200 expected, 11.5 standard deviation


def test_what_has_no_map_is_refused(store: Store) -> None:
    view = filled_view(store, {"frames": np.ones((3, 2, 2, 4), np.float32)})
    with pytest.raises(StepDiffError, match="no embedding and no tokens to average: it has frames"):
        pooled_feature(view)


@pytest.mark.full
def test_umap_separates_clusters_and_is_seeded(tmp_path: Path) -> None:
    pytest.importorskip("umap", reason="UMAP is not installed: pip install 'stepdiff[umap]'")
    random = np.random.default_rng(2)
    groups = np.repeat(np.eye(3, 16), 20, axis=0) * 3
    store = Store.open(tmp_path / "features", create=True)
    view = filled_view(store, {"embedding": (groups + random.normal(size=(60, 16)) * 0.1).astype(np.float32)})
    xy, _ = project(view, np.arange(60), "umap")
    middles = xy.reshape(3, 20, 2).mean(axis=1)
    spread = np.linalg.norm(xy.reshape(3, 20, 2) - middles[:, None], axis=2).max()
    assert min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * spread
    assert (project(view, np.arange(60), "umap")[0] == xy).all()


def written(store: Store, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[pl.DataFrame, dict]:
    """Run the verb; return the file and the record."""
    assert main(["atlas", "--store", str(store.path), "--view", "tiny", "--out", str(out), "--json", *options]) == 0
    return pl.read_parquet(out), json.loads(capsys.readouterr().out)


def naive(vectors: np.ndarray, k: int) -> tuple[list[list[int]], np.ndarray]:
    """Places of the k nearest other vectors, and their distances."""
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(unit)), cosines.shape), -cosines.round(7)))[:, :k]
    return order.tolist(), 1 - np.take_along_axis(cosines, order, axis=1)


def test_coordinates_are_those_of_the_map(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, record = written(store, tmp_path / "map.parquet", capsys)
    rows = np.setdiff1d(np.arange(30), [3, 8, 29])
    xy, _ = project(clips, rows)
    assert (frame.select("x", "y").to_numpy() == xy).all()
    assert frame["clip"].to_list() == [f"video_{at}_0_{at + 1}" for at in rows]
    assert frame.columns == ["clip", "step", "video", "narration", "x", "y", "neighbors"]
    assert frame["step"].to_list() == [f"step {at % 3}" for at in rows]
    assert record["command"] == (
        f"embedding-atlas {tmp_path / 'map.parquet'} --x x --y y --neighbors neighbors --text narration "
        "--disable-projection"
    )


def test_neighbours_are_places_in_the_file(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--neighbours", "4", "--where", "step != 'step 1'"]
    frame, record = written(store, tmp_path / "map.parquet", capsys, *options)
    rows = np.array([at for at in range(30) if at not in (3, 8, 29) and at % 3 != 1])
    places, distances = naive(clips.read("embedding", rows, dtype="float32"), 4)
    assert record["clips"] == frame.height == len(rows) and record["neighbours"] == 4
    assert [near["ids"] for near in frame["neighbors"]] == places
    written_distances = np.array([near["distances"] for near in frame["neighbors"]])
    np.testing.assert_allclose(written_distances, distances, atol=1e-6)


@pytest.mark.full
def test_a_map_of_many_pieces_has_every_clip(
    store: Store, fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More clips than are fitted, written at a time, or compared without an index."""
    vectors = np.random.default_rng(0).normal(size=(100_001, 4)).astype(np.float32)
    fill(store, vectors, [f"c{at}" for at in range(100_001)], shard=16_384)
    out = ["--store", str(store.path), "--view", "tiny", "--out", str(tmp_path / "map.parquet")]
    assert main(["atlas", *out]) == 2
    assert "has no index: run `python -m retrieval build" in capsys.readouterr().err
    frame, _ = written(store, tmp_path / "map.parquet", capsys, "--neighbours", "0")
    assert frame["clip"].to_list() == [f"c{at}" for at in range(100_001)]
    np.testing.assert_array_equal(
        frame.select("x", "y").to_numpy(), project(store.view("clips", "tiny"), np.arange(100_001))[0]
    )


def test_clips_with_few_neighbours_and_none(
    store: Store, fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, np.eye(2, 4, dtype=np.float32), ["a", "b"], columns={"x": ["catalog's own", "x"]})
    frame, record = written(store, tmp_path / "map.parquet", capsys)
    assert frame["neighbors"].to_list() == [{"ids": [1], "distances": [1.0]}, {"ids": [0], "distances": [1.0]}]
    assert frame.schema["x"] == pl.Float32 and record["neighbours"] == 1
    frame, record = written(store, tmp_path / "map.parquet", capsys, "--neighbours", "0")
    assert "neighbors" not in frame.columns and "--neighbors" not in record["command"]


def test_what_cannot_be_written_is_one_line(
    store: Store, clips: View, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--store", str(store.path), "--view", "tiny", "--out", str(tmp_path / "map.parquet")]
    for words, why in (
        (["--where", "step = 'none'"], "no clip of"),
        (["--feature", "size"], "no embedding called size"),
        (["--feature", "size", "--neighbours", "0", "--out", str(tmp_path / "no" / "map.parquet")], "cannot write"),
    ):
        assert why in error(capsys, "atlas", *given, *words)
    assert not (tmp_path / "map.parquet").exists()
