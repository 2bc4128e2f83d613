"""Shard files in an object store: the index by one request for its tail, rows by requests for ranges.

Guarantees
- reads are correct while a writer replaces the shard: index and rows are of one ETag, or read again
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8, UInt32

from stepdiff.common.errors import DamageError
from stepdiff.common.io.files import Place
from stepdiff.common.io.remote import RemotePath, ReplacedError, pool
from store.format.shard import RemoteShard, by_shard
from store.io.row_checks import Check, RowChecks, wrong_rows

_INDEXES = 1024  # cached per feature
_GAP_BYTES = 512 * 2**10  # rows nearer than this are read with one request
_REQUEST_BYTES = 8 * 2**20  # longer runs are several requests
_TRIES = 10


class _Request(NamedTuple):
    shard: RemoteShard
    start: int
    end: int
    offsets: np.ndarray
    """where the rows begin, from `start`"""
    places: np.ndarray
    """their places in the batch"""


class RemoteReader:
    """Reads rows of one feature. Safe to share between threads."""

    def __init__(self, path: Callable[[int], Place], shard_rows: int, row_bytes: int, checks: RowChecks) -> None:
        """`path` returns the object of a shard of `shard_rows` rows, each of `row_bytes` bytes with `checks`."""
        self._path = path
        self.checks = checks
        self._shard_rows = shard_rows
        self._row_bytes = row_bytes
        self._open: OrderedDict[int, RemoteShard] = OrderedDict()
        self._guard = threading.Lock()

    def read(self, rows: Int[np.ndarray, " B"], out: Shaped[np.ndarray, "B ..."], check: Check = "first") -> list[int]:
        """Fill `out`, C-contiguous, with the rows, all of status 1.

        Returns the places of rows that were checked and differ from their checksums.
        """
        if not len(rows):
            return []
        slots = rows % self._shard_rows
        wanted, parts = zip(*by_shard(rows, self._shard_rows), strict=True)
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        tries = 0
        while True:
            try:
                opened = list(pool().map(self._shard, wanted))
                versions = {n: shard.identity if shard else None for n, shard in zip(wanted, opened, strict=True)}
                now, sums = self.checks.to_check(rows, versions, check)
                pairs = zip(opened, parts, strict=True)
                requests = [r for shard, places in pairs for r in self._requests(shard, places, slots, target)]
                wrong = list(pool().map(partial(self._fetch, target=target, now=now, sums=sums), requests))
                requested = np.concatenate([np.empty(0, np.int64), *(request.places for request in requests)])
                missing = now.copy()
                missing[requested] = False
                wrong.append(self.checks.wrong_zeros(missing, sums))
                places = sorted(place for some in wrong for place in some)
                now[places] = False
                self.checks.passed(rows[now], versions)
                return places
            except ReplacedError:  # a row that was ok is in the new object too
                tries += 1
                if tries == _TRIES:
                    raise
                with self._guard:
                    for n in wanted:
                        self._open.pop(n, None)

    def _shard(self, shard: int) -> RemoteShard | None:
        """Return the shard's index, as far as is known; None where it does not exist."""
        with self._guard:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        path = self._path(shard)
        assert isinstance(path, RemotePath)
        try:
            opened = RemoteShard(path, self._shard_rows)
        except FileNotFoundError:
            return None
        with self._guard:
            self._open[shard] = opened
            if len(self._open) > _INDEXES:
                self._open.popitem(last=False)
        return opened

    def _requests(
        self,
        shard: RemoteShard | None,
        places: Int[np.ndarray, " rows"],
        slots: Int[np.ndarray, " B"],
        target: UInt8[np.ndarray, "B bytes"],
    ) -> Iterator[_Request]:
        """Yield the requests for the rows of one shard; rows that are missing are filled at once."""
        there = np.zeros(len(places), bool) if shard is None else shard.present[slots[places]]
        target[places[~there]] = 0
        places = places[there]
        if shard is None or not len(places):
            return
        size = self._row_bytes
        if (shard.lengths[slots[places]] != size).any():
            raise DamageError(f"the index of {shard.path} does not fit: run python -m store verify")
        offsets = shard.offsets[slots[places]].astype(np.int64)
        order = np.argsort(offsets, kind="stable")
        offsets, places = offsets[order], places[order]
        first = 0
        for end in range(1, len(offsets) + 1):
            if (
                end == len(offsets)
                or offsets[end] - offsets[end - 1] - size > _GAP_BYTES
                or offsets[end] + size - offsets[first] > _REQUEST_BYTES
            ):
                start = int(offsets[first])
                yield _Request(
                    shard, start, int(offsets[end - 1]) + size, offsets[first:end] - start, places[first:end]
                )
                first = end

    def _fetch(
        self,
        request: _Request,
        target: UInt8[np.ndarray, "B bytes"],
        now: Bool[np.ndarray, " B"],
        sums: UInt32[np.ndarray, " B"],
    ) -> list[int]:
        """Make a request and copy its rows; the places of rows that are checked and wrong."""
        data = request.shard.path.read_range(request.start, request.end, request.shard.identity)
        values = np.frombuffer(data, np.uint8)
        for offset, place in zip(request.offsets.tolist(), request.places.tolist(), strict=True):
            target[place] = values[offset : offset + self._row_bytes]
        return wrong_rows(target, sums, request.places[now[request.places]])
