"""The clips that a mean is made of: their rows of the catalog, a bit each.

Guarantees
- the rows of a set are yielded in ascending order, in blocks of one size
- the checksum of keys is that of all keys in one sorted list, in bounded memory
"""

import hashlib
import heapq
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64

from heads.data.catalog_rows import marked
from store import Catalog

_BYTES = 2**16  # of the bits that are unpacked at once
_RUN = 2**20  # keys that are sorted at once
_GROUP = 2**13  # keys of each sorted run that are in memory while runs are merged


@dataclass(frozen=True)
class RowSet:
    """A set of rows that is small enough to be sent to every worker: 17 MB for 136 million rows."""

    bits: bytes = field(repr=False)
    """of the rows from 0 on, the first row in the highest bit"""

    @classmethod
    def of(cls, blocks: Iterable[Int64[np.ndarray, " _"]]) -> "RowSet":
        """Return the set of the rows of all blocks."""
        return cls(np.packbits(marked(blocks)).tobytes())

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(np.bitwise_count(np.frombuffer(self.bits, np.uint8)).sum())

    def blocks(self, size: int) -> Iterator[Int64[np.ndarray, " _"]]:
        """Yield the rows in ascending order, `size` at a time."""
        rows = np.empty(0, np.int64)
        for first in range(0, len(self.bits), _BYTES):
            bits = np.unpackbits(np.frombuffer(self.bits[first : first + _BYTES], np.uint8))
            rows = np.concatenate([rows, np.flatnonzero(bits) + 8 * first])
            while len(rows) >= size:
                yield rows[:size]
                rows = rows[size:]
        if len(rows):
            yield rows


def sha256_of_keys(catalog: Catalog, rows: RowSet) -> str:
    """Return the sha256 of the sorted keys of rows, with line feeds between them."""
    digest, between = hashlib.sha256(), b""
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:
        runs = [_sorted(catalog.keys(some), Path(folder, f"{n}.parquet")) for n, some in enumerate(rows.blocks(_RUN))]
        for key in heapq.merge(*runs):
            digest.update(between + key.encode())
            between = b"\n"
    return digest.hexdigest()


def _sorted(keys: list[str], path: Path) -> Iterator[str]:
    """Write keys to a file, and return an iterator over it in their order."""
    pl.Series("key", keys).sort().to_frame().write_parquet(path, row_group_size=_GROUP)
    return _read(path, len(keys))


def _read(path: Path, count: int) -> Iterator[str]:
    for first in range(0, count, _GROUP):
        yield from pl.scan_parquet(path).slice(first, _GROUP).collect()["key"].to_list()
