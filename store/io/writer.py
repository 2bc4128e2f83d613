"""The one writer of a shard.

The order of a commit: every array's shard file, checksum, failures and what wrote it, all of them
durable together, and status last. Before status is written the old status still tells the truth,
because the rows that it calls ok were copied byte for byte.

Guarantees
- one commit a shard: status is written last
- a shard filled later keeps the bytes of the rows that were ok
- rows that are withdrawn are absent from one moment to the next, and no other row changes
- no damaged row is copied
"""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, UInt8, UInt32

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.locks import check_held, locked
from common.io.places import Place
from common.io.seal import crc32c
from store.format.rows import StoredRows, stored_rows
from store.format.shard import encode_chunk, pieces
from store.format.shard_info import Write, encode_writes, read_writes
from store.io import failures as failure_files
from store.io.commit_group import Together
from store.io.remote import open_shard

if TYPE_CHECKING:
    from store.view import View

_ABSENT, _OK, _FAILED = 0, 1, 2


class ShardWriter:
    """Writes rows of one shard of a view."""

    def __init__(self, view: "View", shard: int) -> None:
        """A writer of shard number `shard`."""
        self.view = view
        self.shard = shard
        self.first = shard * view.rows_per_shard

    def write(
        self,
        rows: Int[np.ndarray, " K"],
        features: Mapping[str, Float[np.ndarray, "K ..."]],
        failures: Mapping[int, str],
        info: dict[str, Any] | None,
    ) -> None:
        """See `View.write_shard`."""
        self._check(rows, features, failures)
        lock = self.view.paths.lock(self.shard)
        lock.parent.make_folder()
        held = partial(check_held, lock)
        with locked(lock, wait=True):  # a writer left over from a dead run may still be at it
            self.view.check_stands()
            status = self.view.shard_status(self.shard).copy()
            fresh = np.flatnonzero(status[rows - self.first] != _OK)
            fresh = fresh[np.argsort(rows[fresh])]
            slots = rows[fresh] - self.first
            features = {name: _taken(values, fresh) for name, values in features.items()}
            reasons = {row: why for row, why in failures.items() if status[row - self.first] != _OK}
            if not len(slots) and not reasons:
                return
            earlier = self._earlier_reasons(status)
            with Together(held) as files:
                if len(slots):
                    slots, unfit = self._write_rows(files, status == _OK, slots, features)
                    reasons |= {slot + self.first: why for slot, why in unfit.items()}
                failed = np.array(sorted(reasons), np.int64)
                # Until status is replaced the earlier failures still count: both lists at first.
                self._write_failures(files, earlier | reasons)
                self._write_info(files, np.concatenate([slots + self.first, failed]), info or {})
            self.view.check_stands()  # or rows would be ok in a view that others made meanwhile
            status[slots] = _OK
            status[failed - self.first] = _FAILED
            with Together(held) as files:
                _put(files, self.view.paths.status(self.shard), encode_chunk(status))
            still = {r: w for r, w in earlier.items() if status[r - self.first] == _FAILED}
            if len(still) < len(earlier):
                with Together(held) as files:
                    self._write_failures(files, still | reasons)

    def withdraw(self, rows: Int[np.ndarray, " K"]) -> int:
        """See `View.withdraw`; `rows` are of this shard."""
        lock = self.view.paths.lock(self.shard)
        lock.parent.make_folder()
        with locked(lock, wait=True):  # a worker of an earlier run may still be writing the shard
            self.view.check_stands()
            status = self.view.shard_status(self.shard).copy()
            slots = rows - self.first
            count = int((status[slots] == _OK).sum())
            if status[slots].any():
                status[slots] = _ABSENT
                with Together(partial(check_held, lock)) as files:
                    _put(files, self.view.paths.status(self.shard), encode_chunk(status))
        return count

    def _check(
        self,
        rows: Int[np.ndarray, " K"],
        features: Mapping[str, Float[np.ndarray, "K ..."]],
        failures: Mapping[int, str],
    ) -> None:
        view, where = self.view, f"shard {self.shard} of view {self.view.name} ({self.view.entity})"
        every = np.concatenate([rows, np.array(list(failures), np.int64)]).astype(np.int64)
        last = min(self.first + view.rows_per_shard, len(view))
        if len(np.unique(every)) != len(every):
            raise StepDiffError(f"{where}: a row is given twice, or both with features and as failed")
        if len(every) and (every.min() < self.first or every.max() >= last):
            raise StepDiffError(
                f"{where} takes rows {self.first} to {last - 1}, got {every.min()} to "
                f"{every.max()}: call resize() after the catalog grew"
            )
        if len(rows) and set(features) != set(view.features):
            raise StepDiffError(f"{where} takes {sorted(view.features)}, got {sorted(features)}")
        for name, values in features.items():
            if values.shape != (len(rows), *view.features[name].shape):
                raise StepDiffError(
                    f"{where}: {name} is {values.shape}, needs {(len(rows), *view.features[name].shape)}"
                )

    def _write_rows(
        self,
        files: Together,
        keep: Bool[np.ndarray, " slots"],
        slots: Int[np.ndarray, " K"],
        features: Mapping[str, Float[np.ndarray, "K ..."]],
    ) -> tuple[Int[np.ndarray, " G"], dict[int, str]]:
        """Write the rows of `slots`, ascending; returns the slots of good ones, and by slot why others are not."""
        view = self.view
        names = sorted(view.checksummed, key=lambda name: -view.stored[name].row_bytes)
        sums = np.zeros((view.rows_per_shard, len(names)), "<u4")
        if keep.any():
            sums[keep] = view.checksums(self.first + np.flatnonzero(keep))
        rows, *parts = tee(stored_rows(slots, features, view.features), 1 + len(names))
        for name, of_name in zip(names, parts, strict=True):  # while the largest is written all are made ready
            kept = sums[:, view.checksummed.index(name)]
            self._write_shard_file(files, name, keep, kept, len(slots), of_name)
        good: list[Int[np.ndarray, " some"]] = []
        unfit: dict[int, str] = {}
        for part in rows:
            good.append(part.slots)
            unfit |= part.reasons
            for column, name in enumerate(view.checksummed):
                sums[part.slots, column] = part.sums[name]
        _put(files, view.paths.checksum(self.shard), encode_chunk(sums))
        return np.concatenate(good), unfit

    def _write_shard_file(
        self,
        files: Together,
        name: str,
        keep: Bool[np.ndarray, " slots"],
        sums: UInt32[np.ndarray, " slots"],
        count: int,
        parts: Iterable[StoredRows],
    ) -> None:
        feature, slots = self.view.stored[name], self.view.rows_per_shard
        path = self.view.paths.shard(name, self.shard, 1 + len(feature.shape))
        try:
            old = open_shard(path, slots) if keep.any() else None
        except FileNotFoundError:  # every kept row is the fill value
            old = None
        size = (int(keep.sum()) + count) * feature.row_bytes + slots * 16 + 4
        new = ((part.slots, part.arrays.pop(name)) for part in parts)  # written, its memory is free for the next

        def check(slot: int, row: bytes | memoryview) -> None:
            if crc32c(row) != sums[slot]:
                raise self.view.damage([name], np.array([self.first + slot]))

        files.replace(path, pieces(old, keep, new, feature.row_bytes, check), size)

    def _earlier_reasons(self, status: UInt8[np.ndarray, " slots"]) -> dict[int, str]:
        """The reasons on file of rows that have failed so far."""
        if not (status == _FAILED).any():
            return {}
        frame = failure_files.of_shard(self.view.paths, self.shard)
        rows = self.view.catalog.rows(frame["key"].to_list()).tolist()
        reasons = dict(zip(rows, frame["reason"], strict=True))
        failed = (np.flatnonzero(status == _FAILED) + self.first).tolist()
        return {row: reasons[row] for row in failed if row in reasons}

    def _write_failures(self, files: Together, reasons: Mapping[int, str]) -> None:
        path = self.view.paths.failures(self.shard)
        if not reasons and not path.exists():
            return
        rows = np.array(sorted(reasons), np.int64)
        frame = pl.DataFrame(
            {"key": self.view.catalog.keys(rows), "reason": [reasons[r] for r in rows.tolist()]},
            schema=failure_files.SCHEMA,
        )
        _put(files, path, table.encode(frame))

    def _write_info(self, files: Together, rows: Int[np.ndarray, " W"], info: dict[str, Any]) -> None:
        """Record what wrote `rows`, beside what wrote the others."""
        path = self.view.paths.info(self.shard)
        try:
            writes = read_writes(path, self.first, self.view.rows_per_shard)
        except FileNotFoundError:
            writes = []
        new = frozenset(rows.tolist())
        kept = [Write(write.rows - new, write.info) for write in writes]
        if not any(write.info == info for write in kept):
            kept.append(Write(frozenset(), info))
        merged = [Write(write.rows | new, info) if write.info == info else write for write in kept]
        _put(files, path, encode_writes(self.shard, merged))


def _put(files: Together, path: Place, data: bytes) -> None:
    files.replace(path, [data], len(data))


def _taken(values: Float[np.ndarray, "K ..."], places: Int[np.ndarray, " F"]) -> Float[np.ndarray, "F ..."]:
    """The rows at `places`; no copy where those are all, in order."""
    return values if np.array_equal(places, np.arange(len(values))) else values[places]
