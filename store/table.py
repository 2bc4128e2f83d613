"""Sealed Parquet files: what the catalog and the failures are written in.

Guarantees
- a damaged file is refused, not read
- a forked process is told so, where polars would wait for threads that the fork left behind
"""

import io
import os

import polars as pl

from store.errors import StoreError
from store.remote import Place
from store.seal import BLANK, is_sealed, seal

_used = False  # polars has started its threads
_lost = False  # ... and this process was forked off without them


def _after_fork() -> None:
    global _lost
    _lost = _used


os.register_at_fork(after_in_child=_after_fork)


def _check_threads(what: str) -> None:
    global _used
    if _lost:
        raise StoreError(f"cannot {what} in a forked process: do it before the fork, or start workers with spawn")
    _used = True


def encode(frame: pl.DataFrame) -> bytes:
    """`frame` as the bytes of a sealed Parquet file."""
    _check_threads("write a table")
    file = io.BytesIO()
    frame.write_parquet(file, metadata={"seal": BLANK})
    return seal(file.getvalue())


def read(path: Place, columns: list[str] | None = None) -> pl.DataFrame:
    """The frame in `path`, or some columns of it; StoreError where it is damaged."""
    _check_threads(f"read {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    if not is_sealed(data):  # before it is parsed: polars panics on some damage
        raise StoreError(f"{path} is not as it was written: run python -m store verify")
    return pl.read_parquet(io.BytesIO(data), columns=columns)
