"""Cached features in an object store are read in the same way."""

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from heads.data.clips import Features
from store import Feature, Provenance, Store


def test_features_of_a_store_in_an_object_store_are_read_by_key(bucket: str) -> None:
    store = Store.open(f"{bucket}/features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": ["a", "b", "c"]}))
    tokens = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    with store.lock():
        features = {"tokens": Feature((4, 8), "float32")}
        view = store.create_view("clips", "net", Provenance("net", "0", "l", "f", "c", {}), features)
        view.write_shard(0, np.array([0, 2]), {"tokens": tokens}, {})
    cached = Features(Store.open(f"{bucket}/features"), "net", "tokens")
    assert np.array_equal(cached.read(["c", "a", "c"]).numpy(), tokens[[1, 0, 1]])
    assert cached.has(["a", "b", "nobody"]).tolist() == [True, False, False]
    with pytest.raises(StepDiffError, match="b is absent in view net"):
        cached.read(["b"])
