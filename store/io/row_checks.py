"""The stored checksums of a view's rows, and which rows this process has compared with them.

Every row of every array has a crc32c in the view's array `checksum`. `RowChecks` remembers, one bit a row, which
rows of one array were right; the bits of a shard are cleared when its file is replaced. A million rows take 125 kB
per array, and a shard of which a row was read about 250 bytes. Chunks of checksums are loaded when a row of their shard
is checked for the first time, and at most `MOST_BYTES` of them are kept.
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from stepdiff.common.errors import DamageError, StepDiffError
from stepdiff.common.io.local import Identity
from stepdiff.common.io.sealed import crc32c
from store.format.layout import ViewPaths
from store.format.shard import by_shard, read_chunk
from store.io.records import filled_by_featurize

Check = Literal["always", "first", "never"]
"""when a row is compared with its checksum: at every read, at the first one through an open view, or never"""
Versions = Mapping[int, Identity | None]
"""shard -> the identity of the shard file that was opened, None where it does not exist"""
MOST_BYTES = 64 * 2**20
_CHUNK_BYTES = 200  # of a chunk in memory besides its values, about
_guard = threading.Lock()  # of every view's bits and chunks
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
"""errors of a process or machine at its limit of open files"""


def known_check(check: str) -> Check:
    """Return `check`, or StepDiffError where it is not a `Check`."""
    for known in get_args(Check):
        if check == known:
            return known
    raise StepDiffError(f"check={check!r} is not known: give one of {', '.join(get_args(Check))}")


class Checksums:
    """The array `checksum` of a view, one chunk per shard. Safe to share between threads, and across a fork."""

    def __init__(self, paths: ViewPaths, rows_per_shard: int, arrays: int) -> None:
        """Open the checksums of a view of `arrays` arrays."""
        self._paths = paths
        self._shape = (rows_per_shard, arrays)
        self._chunks: OrderedDict[int, UInt32[np.ndarray, "slots arrays"]] = OrderedDict()

    def of_rows(self, rows: Int[np.ndarray, " R"]) -> UInt32[np.ndarray, "R arrays"]:
        """Return the checksums of rows of status 1. DamageError where a chunk is damaged or missing."""
        parts = by_shard(rows, self._shape[0])
        sums = np.empty((len(rows), self._shape[1]), np.uint32)
        chunks = self._paths.store.map(self._chunk, [shard for shard, _ in parts])
        for (_, here), chunk in zip(parts, chunks, strict=True):
            sums[here] = chunk[rows[here] % self._shape[0]]
        return sums

    def forget(self, shards: Sequence[int]) -> None:
        """Load the chunks of these shards again when they are next needed."""
        with _guard:
            for shard in shards:
                self._chunks.pop(shard, None)

    def _chunk(self, shard: int) -> UInt32[np.ndarray, "slots arrays"]:
        with _guard:
            if shard in self._chunks:
                self._chunks.move_to_end(shard)
                return self._chunks[shard]
        try:
            chunk = read_chunk(self._paths.checksum(shard), self._shape, "uint32")
            state = "missing"
        except DamageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_MORE_FILES:
                raise cause from None  # which is no damage
            chunk, state = None, "damaged"
        if chunk is None:
            raise DamageError(
                f"the checksums of shard {shard} of view {self._paths.view} ({self._paths.entity}) are {state}: "
                f"{remedy(self._paths, shard)}"
            )
        with _guard:
            self._chunks[shard] = chunk
            while len(self._chunks) > max(MOST_BYTES // (chunk.nbytes + _CHUNK_BYTES), 1):
                self._chunks.popitem(last=False)
        return chunk


class RowChecks:
    """Which rows of one array were compared with their checksums. Safe to share between threads, and across a fork."""

    def __init__(self, checksums: Checksums, column: int, rows_per_shard: int, row_bytes: int) -> None:
        """Remember rows of the array whose checksums are column `column` of `checksums`."""
        self._checksums = checksums
        self._column = column
        self._shard_rows = rows_per_shard
        self._row_bytes = row_bytes
        self._bits: UInt8[np.ndarray, " bytes"] = np.zeros(0, np.uint8)
        self._versions: dict[int, Identity | None] = {}

    def wrong_zeros(self, missing: Bool[np.ndarray, " B"], sums: UInt32[np.ndarray, " B"]) -> list[int]:
        """Return the places of rows that the shard file leaves out, although their checksums are not those of zeros."""
        if not missing.any():
            return []
        return np.flatnonzero(missing & (sums != self._sum_of_zeros)).tolist()

    @cached_property
    def _sum_of_zeros(self) -> int:
        return crc32c(bytes(self._row_bytes))

    def to_check(
        self, rows: Int[np.ndarray, " B"], versions: Versions, check: Check
    ) -> tuple[Bool[np.ndarray, " B"], UInt32[np.ndarray, " B"]]:
        """Return which rows, about to be read from shard files of these versions, to check now, and their checksums.

        Checksums of other rows are 0. DamageError where they cannot be read.
        """
        now, sums = self._unchecked(rows, versions, check), np.zeros(len(rows), np.uint32)
        if now.any():
            sums[now] = self._checksums.of_rows(rows[now])[:, self._column]
        return now, sums

    def _unchecked(self, rows: Int[np.ndarray, " B"], versions: Versions, check: Check) -> Bool[np.ndarray, " B"]:
        if check == "never":
            return np.zeros(len(rows), bool)
        replaced = []
        with _guard:
            needed, room = -(-(max(versions, default=-1) + 1) * self._shard_rows // 8), len(self._bits)
            if needed > room:
                self._bits = np.append(self._bits, np.zeros(max(needed, room * 5 // 4) - room, np.uint8))
            for shard, version in versions.items():
                if self._versions.setdefault(shard, version) != version:
                    every = np.arange(shard * self._shard_rows, (shard + 1) * self._shard_rows)
                    np.bitwise_and.at(self._bits, every >> 3, ~_mask(every))
                    replaced.append(shard)
                    self._versions[shard] = version
            unchecked = (self._bits[rows >> 3] & _mask(rows)) == 0
        self._checksums.forget(replaced)
        return unchecked if check == "first" else np.ones(len(rows), bool)

    def passed(self, rows: Int[np.ndarray, " R"], versions: Versions) -> None:
        """Remember that rows of shard files of these versions were right."""
        if not len(rows):
            return
        with _guard:
            same = [shard for shard, version in versions.items() if self._versions[shard] == version]
            if len(same) < len(versions):  # another version was opened since: its rows are not known
                rows = rows[np.isin(rows // self._shard_rows, same)]
            np.bitwise_or.at(self._bits, rows >> 3, _mask(rows))


def wrong_rows(
    data: UInt8[np.ndarray, "B bytes"], sums: UInt32[np.ndarray, " B"], places: Int[np.ndarray, " R"]
) -> list[int]:
    """Return those of `places` where a row of `data` differs from its checksum."""
    known = zip(places.tolist(), sums[places].tolist(), strict=True)
    return [place for place, total in known if crc32c(data[place]) != total]


def remedy(paths: ViewPaths, shard: int) -> str:
    """Return the end of a message: what to do about a damaged row."""
    listing = f"run python -m store verify {paths.store} to list all damage; to compute the shard again, "
    if filled_by_featurize(paths, shard):
        return f"{listing}repeat the featurize command that filled the view, with --repair"
    return f"{listing}delete {paths.status(shard)} and repeat the command that filled the view"


def _mask(rows: Int[np.ndarray, " R"]) -> UInt8[np.ndarray, " R"]:
    """Return the bit of each row in its byte."""
    return np.left_shift(1, rows & 7).astype(np.uint8)


def _after_fork() -> None:
    """Replace the lock: another thread may have held it at the fork."""
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
