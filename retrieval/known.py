"""What the catalog knows of clips or texts, by the names of its columns."""

from collections.abc import Sequence

import polars as pl

from retrieval.errors import RetrievalError
from store import Store


def known(store: Store, entity: str, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of the catalog, a row each in the order of the rows. RetrievalError lists those there are."""
    frame = store.catalog(entity).frame(columns)
    for column in columns:
        if column not in frame.columns:
            there = ", ".join(store.catalog(entity).frame().columns)
            raise RetrievalError(f"{entity} have no column {column!r}: the catalog has {there}")
    return frame
