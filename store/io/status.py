"""The status of every row of a view: absent, ok or failed; and why rows failed.

A shard's own file of failures has all its reasons; a merged file is for shards that have none.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl
from jaxtyping import Int, UInt8

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place, listed
from stepdiff.common.io.local import Identity
from store.catalog.catalog import Catalog
from store.format.layout import MERGED_SHARDS, ViewPaths, shard_number
from store.format.shard import by_shard, read_chunk

ABSENT, OK, FAILED = 0, 1, 2
"""the values of the array `status`"""


class Statuses:
    """The status chunks of a view. A chunk is read when it is first needed, and again once its file changed."""

    def __init__(self, paths: ViewPaths, rows_per_shard: int) -> None:
        self._paths = paths
        self._slots = rows_per_shard
        self._chunks: dict[int, tuple[Identity | None, np.ndarray]] = {}

    def of_shard(self, shard: int) -> UInt8[np.ndarray, " slots"]:
        """Return the current status of every slot of a shard."""
        return self._chunk(shard, self._paths.status(shard).identity())

    def of_rows(self, rows: Int[np.ndarray, " K"]) -> UInt8[np.ndarray, " K"]:
        """Return the status of K rows. An object store gets all its requests at once."""
        status = np.zeros(len(rows), np.uint8)
        parts = by_shard(rows, self._slots)
        chunks = self._paths.store.map(self._read, [shard for shard, _ in parts])
        for (_, here), chunk in zip(parts, chunks, strict=True):
            if chunk is not None:
                status[here] = chunk[rows[here] % self._slots]
        return status

    def existing(self) -> Iterator[tuple[int, UInt8[np.ndarray, " slots"]]]:
        """Yield every shard that has a status, with it. An object store gets all its requests at once."""
        folder = self._paths.status(0).parent
        if folder.remote:
            now = folder.identities()
            shards = [shard for name in now if (shard := shard_number(name)) is not None]
            yield from zip(shards, folder.map(lambda n: self._chunk(n, now[str(n)]), shards), strict=True)
            return
        for name in os.listdir(str(folder)) if folder.is_dir() else ():  # there may be millions: none is kept
            if (shard := shard_number(name)) is not None and (chunk := self._read(shard)) is not None:
                yield shard, chunk

    def first_not_ok(self, rows: Int[np.ndarray, " B"]) -> tuple[int, int] | None:
        """Return a row that is not ok and its status; None if all are ok.

        A row that was ok is taken to be ok still: if it was withdrawn, its checksum differs when it is read.
        """
        parts = by_shard(rows, self._slots)
        new = [shard for shard, _ in parts if shard not in self._chunks]
        list(self._paths.store.map(self.of_shard, new))  # of an object store all at the same time
        for shard, places in parts:
            slots = rows[places] % self._slots
            if shard in self._chunks and (self._chunks[shard][1][slots] == OK).all():
                continue
            status = self.of_shard(shard)[slots]
            if (status != OK).any():
                first = int(np.argmax(status != OK))
                return int(rows[places[first]]), int(status[first])
        return None

    def forget(self, shards: Iterable[int] | None = None) -> None:
        """Read the chunks of these shards, or of all, again when they are next needed."""
        for shard in list(self._chunks) if shards is None else shards:
            self._chunks.pop(shard, None)

    def _chunk(self, shard: int, now: Identity | None) -> UInt8[np.ndarray, " slots"]:
        """Return the chunk of a shard whose file is `now`."""
        known = self._chunks.get(shard)
        if known is None or known[0] != now:
            chunk = None if now is None else self._read(shard)
            if chunk is None:
                chunk = np.zeros(self._slots, np.uint8)
            self._chunks[shard] = known = (now, chunk)
        return known[1]

    def _read(self, shard: int) -> UInt8[np.ndarray, " slots"] | None:
        return read_chunk(self._paths.status(shard), (self._slots,), "uint8")


REASONS = {"key": pl.String, "reason": pl.String}
"""columns of a file of failures"""


def failures_of_shard(paths: ViewPaths, shard: int) -> pl.DataFrame:
    """Return key and reason of rows that failed in a shard, maybe of others too; StepDiffError where damaged."""
    return own if (own := _read(paths.failures(shard))) is not None else _merged(paths, shard)


def encode_failures(catalog: Catalog, reasons: Mapping[int, str]) -> bytes:
    """Return the file of failures with these reasons, by row."""
    rows = np.array(sorted(reasons), np.int64)
    columns = {"key": catalog.keys(rows), "reason": [reasons[row] for row in rows.tolist()]}
    return table.encode(pl.DataFrame(columns, schema=REASONS))


def reasons_by_row(catalog: Catalog, failures: pl.DataFrame) -> dict[int, str]:
    """Return row -> reason of what `failures_of_shard` returns."""
    return dict(zip(catalog.rows(failures["key"]).tolist(), failures["reason"].to_list(), strict=True))


def failures_of_shards(paths: ViewPaths, shards: Iterable[int]) -> pl.DataFrame:
    """Return key and reason of the rows that failed in some shards, maybe of others too; a key comes once."""
    shards = list(shards)
    there = {path.name for path in listed(paths.failures(0).parent, "*.parquet")}  # one request, not one a shard
    named = [shard for shard in shards if paths.failures(shard).name in there]
    frames_by_shard = {shard: frame for shard in named if (frame := _read(paths.failures(shard))) is not None}
    # merged files last: a file that was merged in the meantime is in them
    groups = {shard // MERGED_SHARDS: shard for shard in shards if shard not in frames_by_shard}
    frames = [*frames_by_shard.values(), *(_merged(paths, shard) for shard in groups.values())]
    return pl.concat([pl.DataFrame(schema=REASONS), *frames]).unique("key", keep="first", maintain_order=True)


def _merged(paths: ViewPaths, shard: int) -> pl.DataFrame:
    frame = _read(paths.merged_failures(shard))
    return pl.DataFrame(schema=REASONS) if frame is None else frame


def _read(path: Place) -> pl.DataFrame | None:
    """Return the frame in `path`, None where it does not exist. StepDiffError where it is damaged."""
    try:
        frame = table.read(path)
    except StepDiffError:
        if path.exists():
            raise
        return None
    if dict(frame.schema) != REASONS:
        raise StepDiffError(
            f"{path} has columns {', '.join(frame.columns)[:100]}, not key and reason: restore the file"
        )
    return frame
