"""The status of every row of a view: absent, ok or failed."""

import os
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int, UInt8

from common.io.places import Identity
from store.format.layout import ViewPaths, shard_number
from store.format.shard import read_chunk

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
        shards = rows // self._slots
        wanted = np.unique(shards).tolist()
        new = [shard for shard in wanted if shard >= 0 and shard not in self._chunks]
        list(self._paths.store.map(self.of_shard, new))  # of an object store all at the same time
        for shard in wanted:
            here = rows[shards == shard]
            slots = here % self._slots
            if shard in self._chunks and (self._chunks[shard][1][slots] == OK).all():
                continue
            status = self.of_shard(shard)[slots] if shard >= 0 else np.zeros(len(here), np.uint8)
            if (status != OK).any():
                first = int(np.argmax(status != OK))
                return int(here[first]), int(status[first])
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
