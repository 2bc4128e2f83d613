"""Sealed Parquet files: what the catalog and the failures are written in.

Guarantees
- a damaged file is refused, not read"""

import io
from pathlib import Path

import polars as pl

from store.errors import StoreError
from store.seal import BLANK, is_sealed, seal


def encode(frame: pl.DataFrame) -> bytes:
    """`frame` as the bytes of a sealed Parquet file."""
    file = io.BytesIO()
    frame.write_parquet(file, metadata={"seal": BLANK})
    return seal(file.getvalue())


def read(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The frame in `path`, or some columns of it; StoreError where it is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if not is_sealed(data):  # before it is parsed: polars panics on some damage
        raise StoreError(f"{path} is not as it was written: run python -m store verify")
    return pl.read_parquet(io.BytesIO(data), columns=columns)
