"""Small real stores for the tests of retrieval."""

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest

from retrieval.__main__ import main
from store import Feature, Provenance, Store, View, text_key

Fill = Callable[..., View]


def _fill(
    store: Store,
    vectors: np.ndarray,
    keys: Sequence[str],
    view: str = "tiny",
    entity: str = "clips",
    failed: Sequence[int] = (),
    columns: dict[str, Sequence[object]] | None = None,
    layer: str = "last",
    shard: int = 8,
    encoder: str | None = None,
    dtype: str = "float32",
) -> View:
    """Append `keys` to the store and write their vectors; rows in `failed` are failures."""
    made_by = Provenance(encoder or view, "0" * 64, layer, "8", "centre", {"embedding": dtype})
    with store.lock():
        frame = pl.DataFrame({"key": list(keys), **(columns or {})})
        store.catalog(entity).append(frame)
        features = {"embedding": Feature((vectors.shape[1],), dtype)}
        made = store.create_view(entity, view, made_by, features, shard)
        made.resize()
        rows = store.catalog(entity).rows(list(keys))
        for at_shard in np.unique(rows // shard).tolist():
            here = np.flatnonzero(rows // shard == at_shard)
            good = np.array([at for at in here if at not in failed], np.int64)
            reasons = {int(rows[at]): "no frames" for at in here if at in failed}
            made.write_shard(at_shard, rows[good], {"embedding": vectors[good]}, reasons)
    return made


def all_cosines(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the ok rows [N] and the cosines [N, N] between all of them, in float64."""
    rows = np.flatnonzero(view.status() == 1)
    vectors = view.read("embedding", rows, dtype="float32").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows, vectors @ vectors.T


def error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one-line error of a command that must fail."""
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: FAISS's threads wait for each other at every training step, which takes minutes on busy cores."""
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def fill() -> Fill:
    """Return a function that writes clips (or another entity) with given vectors into a store."""
    return _fill


@pytest.fixture
def fill_texts() -> Fill:
    """Return a function that writes texts with given vectors into a store."""

    def _fill_texts(store: Store, vectors: np.ndarray, texts: Sequence[str], view: str) -> View:
        keys = [text_key(text) for text in texts]
        return _fill(store, vectors, keys, view, "texts", columns={"text": list(texts)})

    return _fill_texts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "features", create=True)


@pytest.fixture
def clips(store: Store) -> View:
    """A view of 30 clips of 16 channels in three steps; rows 3, 8 and 29 have failed, 5 and 6 are equal."""
    vectors = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)
    vectors[6] = vectors[5]
    columns = {
        "step": [f"step {at % 3}" for at in range(30)],
        "video": [f"v{at}.mp4" for at in range(30)],
        "narration": ["so now we whisk [bold]it[/bold] " * 9] * 30,
    }
    keys = [f"video_{at}_0_{at + 1}" for at in range(30)]
    return _fill(store, vectors, keys, failed=(3, 8, 29), columns=columns)
