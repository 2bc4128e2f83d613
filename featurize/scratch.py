"""Temporary files of a run: rows that are sorted into numbered buckets on disk.

Guarantees
- in memory is one bucket at a time
- the rows of a bucket keep the order in which they were added
- the files are deleted with the object, at the end of the process at the latest
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int


class Scratch:
    """A temporary folder, made when it is first used."""

    @cached_property
    def folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="featurize-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder


class Buckets:
    """Rows in numbered buckets."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._files: dict[int, list[Path]] = {}
        self._count = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the buckets that have rows, ascending."""
        return iter(sorted(self._files))

    def __len__(self) -> int:
        """Return the number of buckets that have rows."""
        return len(self._files)

    def add(self, frame: pl.DataFrame, buckets: Int[np.ndarray, " rows"]) -> None:
        """Append each row of `frame` to its bucket."""
        parts = frame.with_columns(_bucket=pl.Series(buckets)).partition_by(
            "_bucket", as_dict=True, include_key=False
        )
        for (bucket,), part in parts.items():
            path = self._scratch.folder / f"{self._count}.parquet"
            self._count += 1
            part.write_parquet(path)
            self._files.setdefault(bucket, []).append(path)

    def read(self, bucket: int) -> pl.DataFrame:
        """Return the rows of a bucket."""
        return pl.concat([pl.read_parquet(path) for path in self._files[bucket]])
