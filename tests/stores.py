"""The one way in which tests make a store of their own; `store.testing.tiny_store` is one with
known values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from store import Feature, Provenance, Store, View


def made_by(encoder: str = "net", weights: str = "0", **dtypes: str) -> Provenance:
    """Return the provenance of a view: `weights` is a digit of the digest, `dtypes` are those of
    the features."""
    return Provenance(encoder, weights * 64, "last", "8 evenly", "centre 224", dtypes)


def write_view(
    place: Store | Path | str,
    rows: pl.DataFrame | Sequence[str] | int,
    features: dict[str, Feature],
    values: Mapping[str, Any] | None = None,
    failures: Mapping[str, str] | None = None,
    *,
    entity: str = "clips",
    name: str = "net",
    by: Provenance | None = None,
    shard: int | None = None,
    info: dict[str, Any] | None = None,
) -> View:
    """Write rows of a view into a store, which is made if it does not exist, and return the view.

    Args:
        rows: rows of the catalog; keys; or the number of clips `c0`, `c1`, ...
        values: by default random ones, the same at every call.
        by: by default that of an encoder with the name of the view.
        shard: rows of a shard.
    """
    store = place if isinstance(place, Store) else Store.open(place, create=True)
    keys = [f"c{row}" for row in range(rows)] if isinstance(rows, int) else rows
    frame = (
        keys if isinstance(keys, pl.DataFrame) else pl.DataFrame({"key": keys}, {"key": pl.String})
    )
    if values is None:
        dice = np.random.default_rng(0)
        values = {
            key: dice.normal(size=(len(frame), *form.shape)).astype("f4")
            for key, form in features.items()
        }
    by = by or made_by(name, **{key: form.dtype for key, form in features.items()})
    with store.writer(entity, name, by, features, info=info, rows_per_shard=shard) as writer:
        writer.write(frame, values, failures or {})
    return store.view(entity, name)
