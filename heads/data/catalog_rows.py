"""Reads of a catalog by heads: its clips in blocks, or the clips of some keys; never the whole
catalog at once.

A table of clips may stand for the catalog, as one block.

Guarantees
- memory depends on the clips that are returned and on the size of a block, not on the number of
  clips of the store
- a column that the catalog lacks is null; a value of another type is cast
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, Integer

from stepdiff_core.errors import StepDiffError
from store import Catalog

Clips = pl.DataFrame | Catalog
"""a catalog, or a table with its columns"""
_AT_ONCE = 2**20  # rows looked up at a time


def blocks(clips: Clips, dtypes: Mapping[str, Any]) -> Iterator[pl.DataFrame]:
    """Yield these columns of all clips in order, block by block; of a catalog also `row`."""
    if isinstance(clips, Catalog):
        like, empty = pl.DataFrame(schema=dtypes), True
        for block in clips.blocks(like):
            yield block
            empty = False
        if empty:
            yield pl.DataFrame(schema={"row": pl.Int64, **dtypes})
    else:
        yield _like(clips, dtypes)


def of_keys(
    clips: Clips, keys: Sequence[str] | pl.Series, dtypes: Mapping[str, Any]
) -> pl.DataFrame:
    """Return these columns of the clips with these keys, in the order of the catalog; unknown keys
    are left out."""
    if isinstance(clips, Catalog):
        return pl.concat(of_rows(clips, clips.rows(keys), dtypes)).drop("row")
    names = pl.Series(keys, dtype=pl.String) if isinstance(keys, Sequence) else keys
    return _like(clips.filter(pl.col("key").is_in(names.implode())), dtypes)


def of_rows(
    catalog: Catalog, rows: Integer[np.ndarray, " R"], dtypes: Mapping[str, Any]
) -> Iterator[pl.DataFrame]:
    """Yield `row` and these columns of the clips in those rows, block by block; -1 is left out."""
    rows, like = np.unique(rows), pl.DataFrame(schema=dtypes)
    for start in range(0, max(len(rows), 1), _AT_ONCE):
        yield catalog.select(rows[start : start + _AT_ONCE].astype(np.int64), like)


def united(parts: Iterable[np.ndarray]) -> Iterator[Int64[np.ndarray, " B"]]:
    """Yield the rows that are in any of the parts, each once, ascending, in blocks; -1 is left out.

    Memory: a byte for each row up to the largest, and one of the parts at a time.
    """
    there = marked(parts)
    for start in range(0, len(there), _AT_ONCE):
        yield start + np.flatnonzero(there[start : start + _AT_ONCE])


def marked(parts: Iterable[np.ndarray]) -> Bool[np.ndarray, " R"]:
    """Return whether each row is in any of the parts, up to the largest row; -1 is left out."""
    there = np.zeros(0, bool)
    for rows in parts:
        rows = rows[rows >= 0] if len(rows) and rows.min() < 0 else rows
        if len(rows) and rows.max() >= len(there):
            there.resize(int(rows.max()) + 1, refcheck=False)  # with zeros, mostly without a copy
        there[rows] = True
    return there


def need_columns(clips: Clips, *names: str, reader: str = "", otherwise: str = "") -> None:
    """Raise StepDiffError if the catalog lacks a column. reader, otherwise: begin and end of the
    message."""
    there = clips.schema() if isinstance(clips, Catalog) else clips.schema
    if missing := set(names) - there.keys():
        raise StepDiffError(
            f"{reader}the store's catalog has no column {', '.join(sorted(missing))}; featurize "
            f"with a manifest that has it{otherwise}"
        )


def knows_splits(clips: Clips) -> bool:
    """Return whether the catalog has the split of any clip; without splits every clip may train."""
    return any(
        block["split"].null_count() < block.height for block in blocks(clips, {"split": pl.String})
    )


def _like(clips: pl.DataFrame, dtypes: Mapping[str, Any]) -> pl.DataFrame:
    filled = clips.with_columns(
        pl.lit(None).alias(name) for name in dtypes if name not in clips.columns
    )
    return filled.select(pl.col(name).cast(dtype, strict=False) for name, dtype in dtypes.items())
