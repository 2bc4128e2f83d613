"""Maps of a view."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval.projection import pooled_feature, project, sample_rows
from stepdiff_core.errors import StepDiffError
from store import Feature, Provenance, Store, View


def filled_view(store: Store, arrays: dict[str, np.ndarray], dtype: str = "float32") -> View:
    """A view of clips with these arrays."""
    count = len(next(iter(arrays.values())))
    keys = [f"clip_{at}" for at in range(count)]
    about = Provenance("tiny", "0" * 64, "last", "8", "centre", {name: dtype for name in arrays})
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": keys}))
        features = {name: Feature(array.shape[1:], dtype) for name, array in arrays.items()}
        with store.writer("clips", "tiny", about, features, rows_per_shard=16) as writer:
            writer.fill(
                np.arange(count),
                lambda rows: ({name: array[rows] for name, array in arrays.items()}, {}),
            )
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
    xy, _ = project(view, np.arange(40))
    signs = np.sign((xy * expected).sum(axis=0))
    np.testing.assert_allclose(xy, expected * signs, atol=0.02)


@pytest.mark.full
def test_a_larger_view_is_sampled(store: Store, vectors: np.ndarray) -> None:
    view = filled_view(store, {"embedding": vectors})
    rows, total = sample_rows(view, 30)
    assert total == 90 and len(set(rows.tolist())) == 30 and (np.diff(rows) > 0).all()
    assert rows.max() < 90 and (rows != sample_rows(view, 30, seed=1)[0]).any()
    often = np.bincount(
        np.concatenate([sample_rows(view, 30, seed)[0] for seed in range(600)]), minlength=90
    )
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
    view = filled_view(
        store, {"embedding": (groups + random.normal(size=(60, 16)) * 0.1).astype(np.float32)}
    )
    xy, _ = project(view, np.arange(60), "umap")
    middles = xy.reshape(3, 20, 2).mean(axis=1)
    spread = np.linalg.norm(xy.reshape(3, 20, 2) - middles[:, None], axis=2).max()
    assert (
        min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        > 2 * spread
    )
    assert (project(view, np.arange(60), "umap")[0] == xy).all()
