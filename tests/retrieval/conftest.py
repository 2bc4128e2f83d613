"""Small real stores for the tests of retrieval."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest

from retrieval.__main__ import main
from store import Feature, Provenance, Store, View, text_key
from tests.store.conftest import Run, ended
from tests.stores import write_view

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
    frame = pl.DataFrame({"key": list(keys), **(columns or {})})
    store.catalog(entity).append(frame)
    good, features = (
        np.delete(np.arange(len(keys)), failed),
        {"embedding": Feature((vectors.shape[1],), dtype)},
    )
    reasons, values = {keys[at]: "no frames" for at in failed}, {"embedding": vectors[good]}
    return write_view(
        store,
        frame[good],
        features,
        values,
        reasons,
        entity=entity,
        name=view,
        by=made_by,
        shard=shard,
    )


def all_cosines(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the ok rows [N] and the cosines [N, N] between all of them, in float64."""
    rows = np.flatnonzero(view.status() == 1)
    vectors = view.read("embedding", rows, dtype="float32").astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows, vectors @ vectors.T


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `python -m retrieval` with words."""
    return partial(ended, capsys, main)


def error(run: Run, *words: object) -> str:
    """Return the one-line error of a command that must fail."""
    status, out, err = run(*words)
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread: FAISS's threads wait for each other at every training step, which takes
    minutes on busy cores."""
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
    """A view of 30 clips of 16 channels in three steps; rows 3, 8 and 29 have failed, 5 and 6 are
    equal."""
    vectors = np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)
    vectors[6] = vectors[5]
    columns = {
        "step": [f"step {at % 3}" for at in range(30)],
        "video": [f"v{at}.mp4" for at in range(30)],
        "narration": ["so now we whisk [bold]it[/bold] " * 9] * 30,
    }
    keys = [f"video_{at}_0_{at + 1}" for at in range(30)]
    return _fill(store, vectors, keys, failed=(3, 8, 29), columns=columns)
