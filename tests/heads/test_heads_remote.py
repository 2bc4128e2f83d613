"""Cached features in an object store are read in the same way."""

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from heads.data.clips import Features
from store import Feature, Provenance, Store
from store.verbs.drop import drop
from store.verbs.options import DropOptions


def write(path: str, encoder: str, tokens: np.ndarray) -> None:
    """Write the view `net` of an encoder: rows 0 and 2 of three clips."""
    store = Store.open(path)
    with store.lock():
        features = {"tokens": Feature((4, 8), "float32")}
        view = store.create_view("clips", "net", Provenance(encoder, "0", "l", "f", "c", {}), features)
        view.write_shard(0, np.array([0, 2]), {"tokens": tokens}, {})


def test_features_of_a_store_in_an_object_store_are_read_by_key(bucket: str) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": ["a", "b", "c"]}))
    tokens = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    write(f"{bucket}/features", "net", tokens)
    cached = Features(Store.open(f"{bucket}/features"), "net", "tokens")
    assert np.array_equal(cached.read(["c", "a", "c"]).numpy(), tokens[[1, 0, 1]])
    assert cached.has(["a", "b", "nobody"]).tolist() == [True, False, False]
    with pytest.raises(StepDiffError, match="b is absent in view net"):
        cached.read(["b"])


def test_a_view_that_was_dropped_or_replaced_since_it_was_opened_is_not_read(bucket: str) -> None:
    path, tokens = f"{bucket}/features", np.ones((2, 4, 8), np.float32)
    Store.open(path, create=True).catalog("clips").append(pl.DataFrame({"key": ["a", "b", "c"]}))
    write(path, "net", tokens)
    cached = Features(Store.open(path), "net", "tokens")
    cached.read(["a"])
    drop(DropOptions(path, "net", yes=True))
    for key in ("a", "c"):  # one that was read before, and one that was not
        with pytest.raises(StepDiffError, match="view net of clips in .* was dropped: open it again"):
            cached.read([key])
    write(path, "other", tokens + 1)
    with pytest.raises(StepDiffError, match="view net of clips in .* was dropped: open it again"):
        cached.read(["a"])
