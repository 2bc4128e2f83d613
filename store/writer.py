"""The one writer of a shard.

The order of a commit: every array's shard file, checksum, failures and what wrote it, all of them
durable together, and status last. Before status is written the old status still tells the truth,
because the rows that it calls ok were copied byte for byte.

Guarantees
- one commit a shard: status is written last
- a shard filled later keeps the bytes of the rows that were ok
- a row that is not finite, or does not fit, fails alone
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, UInt8

from store import failures as failure_files
from store import table
from store.commit import make_folder
from store.errors import StoreError
from store.layout import encode_json, read_json
from store.lock import check_held, locked
from store.quantise import quantise
from store.remote import Place
from store.remote_shard import open_shard
from store.seal import BLANK, crc32c
from store.shard import encode_chunk, pieces, read_chunk
from store.together import Together

if TYPE_CHECKING:
    from store.view import View

_OK, _FAILED = 1, 2


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
        make_folder(lock.parent)
        with locked(lock, wait=True):  # a writer left over from a dead run may still be at it
            status = self.view.shard_status(self.shard).copy()
            fresh = status[rows - self.first] != _OK
            rows = rows[fresh]
            features = {name: _where(values, fresh) for name, values in features.items()}
            reasons = {row: why for row, why in failures.items() if status[row - self.first] != _OK}
            reasons |= self._unfit(rows, features)
            if not len(rows) and not reasons:
                return
            good = np.array([row not in reasons for row in rows.tolist()], bool)
            slots = rows[good] - self.first
            failed = np.array(sorted(reasons), np.int64)
            earlier = self._earlier_reasons(status)
            with Together() as files:
                if len(slots):
                    good_features = {name: _where(values, good) for name, values in features.items()}
                    self._write_rows(files, status == _OK, slots, good_features)
                # Until status is replaced the earlier failures still count: both lists at first.
                self._write_failures(files, earlier | reasons)
                self._write_info(files, np.concatenate([slots + self.first, failed]), info or {})
            status[slots] = _OK
            status[failed - self.first] = _FAILED
            with Together() as files:
                self._put(files, self.view.paths.status(self.shard), encode_chunk(status))
            still = {r: w for r, w in earlier.items() if status[r - self.first] == _FAILED}
            if len(still) < len(earlier):
                with Together() as files:
                    self._write_failures(files, still | reasons)

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
            raise StoreError(f"{where}: a row is given twice, or both with features and as failed")
        if len(every) and (every.min() < self.first or every.max() >= last):
            raise StoreError(
                f"{where} takes rows {self.first} to {last - 1}, got {every.min()} to "
                f"{every.max()}: call resize() after the catalog grew"
            )
        if len(rows) and set(features) != set(view.features):
            raise StoreError(f"{where} takes {sorted(view.features)}, got {sorted(features)}")
        for name, values in features.items():
            if values.shape != (len(rows), *view.features[name].shape):
                raise StoreError(f"{where}: {name} is {values.shape}, needs {(len(rows), *view.features[name].shape)}")

    def _unfit(self, rows: Int[np.ndarray, " K"], features: Mapping[str, Float[np.ndarray, "K ..."]]) -> dict[int, str]:
        """Why rows cannot be stored, by row."""
        reasons: dict[int, str] = {}
        for name, values in sorted(features.items()):
            narrow = self.view.features[name].dtype != "float32"
            for row, value in zip(rows.tolist(), values, strict=True):
                peak = _peak(value)
                if not np.isfinite(peak):
                    reasons.setdefault(row, f"{name} holds {'NaN' if np.isnan(peak) else 'infinity'}")
                elif narrow and not _fits_float16(peak):
                    reasons.setdefault(row, f"{name} holds {peak:.4g}, a magnitude past float16")
        return reasons

    def _write_rows(
        self,
        files: Together,
        keep: Bool[np.ndarray, " slots"],
        slots: Int[np.ndarray, " G"],
        features: Mapping[str, Float[np.ndarray, "G ..."]],
    ) -> None:
        view = self.view
        path = view.paths.checksum(self.shard)
        shape = (view.rows_per_shard, len(view.checksummed))
        old = read_chunk(path, shape, "uint32")
        sums = np.zeros(shape, "<u4") if old is None else old.copy()
        for name, values in self._stored(features):
            column = view.checksummed.index(name)
            new = dict(zip(slots.tolist(), values, strict=True))
            self._write_shard_file(files, name, keep, new)
            for slot, value in new.items():  # while the file is on its way to the disk
                sums[slot, column] = crc32c(value)
        self._put(files, path, encode_chunk(sums))

    def _write_shard_file(
        self, files: Together, name: str, keep: Bool[np.ndarray, " slots"], new: dict[int, np.ndarray]
    ) -> None:
        feature, slots = self.view.stored[name], self.view.rows_per_shard
        path = self.view.paths.shard(name, self.shard, 1 + len(feature.shape))
        try:
            old = open_shard(path, slots) if keep.any() else None
        except FileNotFoundError:  # every kept row is the fill value
            old = None
        size = (int(keep.sum()) + len(new)) * feature.row_bytes + slots * 16 + 4
        check_held(self.view.paths.lock(self.shard))
        files.replace(path, pieces(old, keep, new, feature.row_bytes), size)

    def _stored(self, features: Mapping[str, Float[np.ndarray, "G ..."]]) -> Iterable[tuple[str, np.ndarray]]:
        """The arrays to store, each row contiguous, little-endian."""
        for name, values in sorted(features.items()):
            dtype = self.view.features[name].dtype
            if dtype == "int8":
                levels, scale = quantise(values)
                yield name, levels
                yield "scale", np.ascontiguousarray(scale, "<f2")
            else:
                yield name, np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))

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
        self._put(files, path, table.encode(frame))

    def _write_info(self, files: Together, rows: Int[np.ndarray, " W"], info: dict[str, Any]) -> None:
        """Record what wrote `rows`, beside what wrote the others."""
        path = self.view.paths.info(self.shard)
        try:
            writes = read_json(path)["writes"]
        except FileNotFoundError:
            writes = []
        new = set(rows.tolist())
        by_info = [(_from_ranges(write["rows"]) - new, write["info"]) for write in writes]
        if not any(known == info for _, known in by_info):
            by_info.append((set(), info))
        merged = [(old | new if known == info else old, known) for old, known in by_info]
        writes = [{"rows": _to_ranges(done), "info": known} for done, known in merged if done]
        self._put(files, path, encode_json({"shard": self.shard, "writes": writes, "seal": BLANK}))

    def _put(self, files: Together, path: Place, data: bytes) -> None:
        check_held(self.view.paths.lock(self.shard))
        files.replace(path, [data], len(data))


def _peak(value: Float[np.ndarray, "..."]) -> np.floating:
    """The greatest magnitude; NaN and infinity come through."""
    if value.dtype == np.float16:  # as integers they compare alike, twenty times as fast
        return (value.view(np.uint16) & 0x7FFF).max().view(np.float16)
    return np.abs(value).max()


def _fits_float16(peak: np.floating) -> bool:
    """Whether a finite magnitude rounds to a finite float16."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(peak.astype(np.float16)))


def _where(values: np.ndarray, mask: Bool[np.ndarray, " K"]) -> np.ndarray:
    """The rows of `mask`; no copy where that is all of them."""
    return values if mask.all() else values[mask]


def _to_ranges(rows: Iterable[int]) -> list[list[int]]:
    """Rows as [first, last] of every unbroken run."""
    ranges: list[list[int]] = []
    for row in sorted(rows):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ranges


def _from_ranges(ranges: Iterable[list[int]]) -> set[int]:
    return {row for first, last in ranges for row in range(first, last + 1)}
