"""Strategies of hypothesis for what a store holds.

@given(small_view())
def test_my_reader(view: SmallView) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = view.write(folder + "/store")
        assert (my_reader(written) == view.stored("main")).all()
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st
from jaxtyping import Float32, Shaped

from common.io.remote import RemotePath
from store import Feature, Provenance, Store, View
from store.provenance import DTYPES
from store.testing.model import Row

Draw = Callable[..., Any]
"""what hypothesis gives a composite strategy"""
_NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


@st.composite
def features(draw: Draw, most: int = 3) -> dict[str, Feature]:
    """Draw 1 to `most` features of a view, one of them called `main`, at most one in int8."""
    names = [
        "main",
        *draw(st.lists(st.sampled_from(["embedding", "frame_embedding", "words"]), max_size=most - 1, unique=True)),
    ]
    found = {}
    for name in names:
        dtypes = [dtype for dtype in DTYPES if dtype != "int8" or name == "main"]
        shape = draw(st.lists(st.integers(1, 5), max_size=2)) + [draw(st.sampled_from([1, 3, 8, 64, 65, 130]))]
        found[name] = Feature(tuple(shape), draw(st.sampled_from(dtypes)))
    return found


@st.composite
def provenances(draw: Draw, of: Mapping[str, Feature] | None = None) -> Provenance:
    """Draw a provenance, of a view with the features `of`."""
    word = st.text(_NAMES, min_size=1, max_size=12)
    weights = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    encoder, layer, frames, crop = (draw(word) for _ in range(4))
    return Provenance(encoder, weights, layer, frames, crop, {name: one.dtype for name, one in (of or {}).items()})


def keys(most: int = 10) -> st.SearchStrategy[list[str]]:
    """Draw 1 to `most` different keys of any characters that UTF-8 has."""
    key = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
    return st.lists(key, min_size=1, max_size=most, unique=True)


@st.composite
def row_values(draw: Draw, of: Mapping[str, Feature], count: int) -> dict[str, Float32[np.ndarray, "B ..."]]:
    """Draw float32 values of B = `count` rows of each feature: magnitudes vary, and some rows are zero."""
    dice = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = {}
    for name, feature in of.items():
        powers = 10.0 ** dice.integers(-3, 3, (count, *[1] * len(feature.shape)))
        values = (dice.normal(size=(count, *feature.shape)) * powers).astype(np.float32)
        values[dice.random(count) < 0.1] = 0
        found[name] = values
    return found


@dataclass(frozen=True)
class SmallView:
    """A view to write: some keys are finished, some failed, some absent."""

    name: str
    provenance: Provenance
    features: dict[str, Feature]
    rows_per_shard: int
    keys: tuple[str, ...]
    """of the catalog, in the order of the rows"""
    good: tuple[str, ...]
    """B keys that are finished, in the order of the rows"""
    failures: dict[str, str]
    """keys that failed, with reasons"""
    values: dict[str, Float32[np.ndarray, "B ..."]]
    """what an encoder computes for `good`"""

    def stored(self, feature: str) -> Shaped[np.ndarray, "B ..."]:
        """Return what a store returns for `good`, in the dtype that the feature is stored in."""
        dtype = {feature: self.features[feature].dtype}
        rows = [Row.of({feature: values}, dtype).stored[feature] for values in self.values[feature]]
        return np.stack(rows) if rows else np.empty((0, *self.features[feature].shape), dtype[feature])

    def write(self, path: str | os.PathLike[str] | RemotePath, entity: str = "clips") -> View:
        """Write it into the store in `path`, which is made if it does not exist."""
        store = Store.open(path, create=True)
        with store.lock():
            store.catalog(entity).append(pl.DataFrame({"key": self.keys}, schema={"key": pl.String}))
            shards = self.rows_per_shard
            with store.writer(entity, self.name, self.provenance, self.features, rows_per_shard=shards) as writer:
                writer.write(list(self.good), self.values, self.failures)
        return store.view(entity, self.name)


@st.composite
def small_view(draw: Draw, most: int = 10) -> SmallView:
    """Draw a view of 1 to `most` keys."""
    chosen, of = draw(keys(most)), draw(features())
    fate = st.sampled_from(["good", "good", "good", "failed", "absent"])
    fates = dict(zip(chosen, draw(st.lists(fate, min_size=len(chosen), max_size=len(chosen))), strict=True))
    good = tuple(key for key in chosen if fates[key] == "good")
    failures = {key: f"no video of {number}" for number, key in enumerate(chosen) if fates[key] == "failed"}
    name = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True))
    shard, made = draw(st.sampled_from([1, 2, 4, 8])), draw(provenances(of))
    return SmallView(name, made, of, shard, tuple(chosen), good, failures, draw(row_values(of, len(good))))
