"""A Parquet file written piece by piece, there whole or not at all."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from common.io.files import make_folder, named_errors, sync_folder, temporary


def stream_parquet(
    path: Path, schema: Mapping[str, Any], pieces: Iterator[pl.DataFrame], metadata: Mapping[str, str]
) -> None:
    """Write `pieces` as they come, in their order. StepDiffError where the disk is full or refuses."""
    make_folder(path.parent)
    temp = temporary(path.parent)
    try:
        with named_errors(path, 0):
            source = register_io_source(lambda *_: pieces, schema=dict(schema))
            source.sink_parquet(temp, metadata=dict(metadata), engine="streaming")
            with temp.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temp, path)
            sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)
