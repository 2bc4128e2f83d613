"""Sealed Parquet files: what the catalog and the failures are written in."""

import io
from pathlib import Path

import polars as pl

from store.errors import StoreError
from store.seal import BLANK, seal


def encode(frame: pl.DataFrame) -> bytes:
    """`frame` as the bytes of a sealed Parquet file."""
    file = io.BytesIO()
    frame.write_parquet(file, metadata={"seal": BLANK})
    return seal(file.getvalue())


def read(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The frame in `path`; StoreError where it is damaged."""
    try:
        return pl.read_parquet(path, columns=columns, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"cannot read {path} ({reason}): run python -m store verify") from error


def height(path: Path) -> int:
    """Rows of the frame in `path`, from its footer alone."""
    try:
        return pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"cannot read {path} ({reason}): run python -m store verify") from error
