"""The writers of a view and of one of its shards.

A commit writes every array's shard file, checksum, failures and the record of their writer, makes
them durable together, and writes status last. Until then the old status is true, because rows that
are ok were copied byte for byte.

Guarantees
- each shard is one commit, and its status is written last
- completing a shard keeps the bytes of its ok rows
- rows that are withdrawn become absent at one moment, and no other row changes
"""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import tee
from math import gcd
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Int64, Shaped, UInt8, UInt32

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.direct_io import (
    LEAST,
    PAGE,
    aligned_empty,
    goes_direct,
    reopened,
    write_direct,
)
from stepdiff_core.io.files import Place, RemotePath
from stepdiff_core.io.local import (
    Buffer,
    make_names,
    named_errors,
    sync_folder,
    temporary,
    write_all,
)
from stepdiff_core.io.locks import check_held, locked
from stepdiff_core.io.sealed import crc32c
from stepdiff_core.threads import ahead
from store.catalog.catalog import are_forgotten, check_rows, refuse_forgotten
from store.format.quantise import misfits, quantise
from store.format.shard import by_shard, encode_chunk, open_shard, pieces
from store.io.reader import ABSENT, FAILED, OK
from store.io.records import (
    Write,
    encode_failures,
    encode_writes,
    failures_of_shard,
    reasons_by_row,
    writes_of_shard,
)
from store.provenance import Feature, RowNumbers, RowValues
from store.view import View

_THREADS = 8
_SEND_BYTES = 16 * 2**20
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None)


class CommitGroup:
    """Files that are made durable together, with one wait for the disk. Large pieces bypass the
    page cache.

    Use as `with CommitGroup() as files: files.replace(...)`: at the end of the block, once all of
    them are whole and durable, they get their names.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called before each request to an object store; an exception of it stops the
        write."""
        self._check = check
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-commit")
        # temporary and final path, bytes, fsync
        self._files: list[tuple[Path, Path, int, Future[None]]] = []
        self._folders: set[Path] = set()

    def __enter__(self) -> "CommitGroup":
        return self

    def replace(self, path: Path | Place, pieces: Iterable[Buffer], nbytes: int) -> None:
        """Write `pieces` (about `nbytes` bytes) as the file `path`, which replaces any old one at
        the end of the block.

        Raises StepDiffError if the disk is full or refuses. An object is put at once and is not
        visible before.
        """
        if isinstance(path, RemotePath):
            return path.put(pieces, nbytes, self._check)
        self._folders |= {*make_names(path.parent), path.parent}
        temp = temporary(path.parent)
        with named_errors(path, nbytes):
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                self._write(fd, pieces, nbytes)
            except BaseException:
                os.close(fd)
                temp.unlink(missing_ok=True)
                raise
        self._files.append((temp, path, nbytes, self._threads.submit(_sync, fd)))

    def put(self, path: Place, data: bytes) -> None:
        """Write a small file, as `replace` does."""
        self.replace(path, [data], len(data))

    def _write(self, fd: int, pieces: Iterable[Buffer], nbytes: int) -> None:
        """Write the pieces one after another: large ones past the page cache, two of them at the
        same time."""
        end = unsent = 0
        direct = reopened(fd, os.O_WRONLY) if nbytes >= LEAST else None
        under_way: deque[Future[None]] = deque()
        try:
            for piece in pieces:
                data = np.frombuffer(piece, np.uint8)
                if direct is not None and goes_direct(data, end):
                    under_way.append(self._threads.submit(_write_at, fd, direct, data, end))
                    if len(under_way) > 1:
                        under_way.popleft().result()
                else:
                    unsent += write_all(fd, data, end)
                # the disk begins with what there is
                if unsent >= _SEND_BYTES and hasattr(_libc, "sync_file_range"):
                    _libc.sync_file_range(
                        fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE
                    )
                    unsent = 0
                end += len(data)
            for writing in under_way:
                writing.result()
        finally:
            wait(under_way)
            if direct is not None:
                os.close(direct)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for _, path, nbytes, synced in self._files:
                with named_errors(path, nbytes):
                    synced.result()
            if error is None:
                for temp, path, nbytes, _ in self._files:
                    with named_errors(path, nbytes):
                        os.replace(temp, path)
                list(self._threads.map(sync_folder, self._folders))
        finally:
            self._threads.shutdown()
            for temp, *_ in self._files:
                temp.unlink(missing_ok=True)


def _write_at(fd: int, direct: int, data: UInt8[np.ndarray, " bytes"], offset: int) -> None:
    """Write all of `data`: past the page cache through `direct`, the rest through `fd`."""
    count = write_direct(direct, data, offset)
    write_all(fd, data[count:], offset + count)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_PART_BYTES = 8 * 2**20  # of stored rows prepared at a time: smaller writes of int8 are slower
# of float32 in one call: numpy rounds them in the time that the import of numba takes
_COMPILED_BYTES = 2**28


class StoredRows(NamedTuple):
    """Rows of one shard, G of them good."""

    slots: Int[np.ndarray, " G"]
    arrays: dict[str, Shaped[np.ndarray, "G ..."]]
    """by the name of the stored array, each contiguous and little-endian"""
    sums: dict[str, UInt32[np.ndarray, " G"]]
    """crc32c of each row, likewise"""
    reasons: dict[int, str]
    """why a row cannot be stored, by its slot"""


def stored_rows(
    slots: Int[np.ndarray, " R"], floats: Mapping[str, RowValues], features: Mapping[str, Feature]
) -> Iterator[StoredRows]:
    """Yield the rows of `slots` as `features` are stored, in parts, in order; int8 comes as floats,
    or with `scale`."""
    row_bytes = sum(features[name].row_bytes for name in floats)
    size = max(_PART_BYTES // max(row_bytes, 1), 1)
    # rows that end at a page boundary
    fill = max(PAGE // gcd(features[name].row_bytes, PAGE) for name in floats)
    size -= size % fill if size > fill else 0
    parts = [slice(at, at + size) for at in range(0, len(slots), size)]
    compiled = (
        sum(values.nbytes for values in floats.values() if values.dtype == np.float32)
        >= _COMPILED_BYTES
    )
    return ahead(partial(_part, slots, floats, features, compiled), parts)


def _part(
    slots: Int[np.ndarray, " R"],
    floats: Mapping[str, RowValues],
    features: Mapping[str, Feature],
    compiled: bool,
    part: slice,
) -> StoredRows:
    slots = slots[part]
    floats = {name: values[part] for name, values in sorted(floats.items())}
    arrays: dict[str, np.ndarray] = {}
    reasons: dict[int, str] = {}
    for name, values in floats.items():
        dtype = features[name].dtype
        if dtype == "int8" and "scale" in floats:
            arrays[name], unfit = (
                np.ascontiguousarray(values, np.int8),
                misfits(name, values, floats["scale"]),
            )
        elif dtype == "int8":
            # other parts are prepared at the same time
            arrays[name], scale = quantise(values, threads=1)
            arrays["scale"], unfit = (
                np.ascontiguousarray(scale, "<f2"),
                _unfit(name, values, narrow=True),
            )
        else:
            arrays[name] = aligned_empty(values.shape, np.dtype(dtype).newbyteorder("<"))
            if compiled and (values.dtype, dtype) == (np.float32, "float16"):
                from store.format.kernels import round_float32

                flat = np.ascontiguousarray(values).reshape(len(values), -1)
                round_float32(flat, arrays[name].view(np.uint16).reshape(flat.shape))
            else:
                with np.errstate(over="ignore"):
                    arrays[name][...] = values
            unfit = _unfit(name, values, narrow=dtype == "float16")
        reasons = {int(slots[place]): reason for place, reason in unfit.items()} | reasons
    if reasons:
        good = ~np.isin(slots, list(reasons))
        slots, arrays = slots[good], {name: rows[good] for name, rows in arrays.items()}
    sums = {
        name: np.array([crc32c(row) for row in rows], np.uint32) for name, rows in arrays.items()
    }
    return StoredRows(slots, arrays, sums, reasons)


def _unfit(name: str, values: Float[np.ndarray, "S ..."], narrow: bool) -> dict[int, str]:
    """Return why rows of a feature cannot be stored, as float16 or int8 if `narrow`: place ->
    reason."""
    flat = values.reshape(len(values), -1)
    if values.dtype == np.float16:  # as integers they compare alike, many times as fast
        below_zero = (flat.view(np.uint16).max(1) & 0x7FFF).astype(np.int16)
        peaks = np.maximum(flat.view(np.int16).max(1), below_zero).view(np.float16)
    else:
        peaks = np.maximum(flat.max(1), -flat.min(1))
    with np.errstate(over="ignore"):
        fits = np.isfinite(peaks.astype(np.float16) if narrow else peaks)
    kinds = {
        row: "NaN" if np.isnan(peaks[row]) else "infinity" for row in np.flatnonzero(~fits).tolist()
    }
    past = {
        row: f"{peaks[row]:.4g}, a magnitude past float16"
        for row in kinds
        if np.isfinite(peaks[row])
    }
    return {row: f"{name} holds {kind}" for row, kind in (kinds | past).items()}


Values = Mapping[str, Shaped[np.ndarray, "K ..."]]
"""for every feature of a view, the values of K rows: floats, or for int8 the levels, with the array
`scale`"""


class ViewWriter:
    """Writes a view of a store whose lock is held. `Store.writer` makes it.

    Rows are committed a shard at a time, when enough of them were given and when the writer is
    closed. A row that is ok already keeps its bytes, so that a script that was interrupted can run
    again; `missing` saves the work.
    """

    def __init__(self, view: View, info: dict[str, Any] | None) -> None:
        """Grow the view to its catalog. `info` names the software that computes the features, and
        is recorded with every shard."""
        self.view = view
        self.info = info
        self._waiting: list[tuple[pl.DataFrame, dict[str, np.ndarray], dict[str, str]]] = []
        self._count = 0
        view.resize()

    def missing(self, keys: Sequence[str] | pl.Series) -> list[str]:
        """Return the `keys` that are neither ok nor failed nor forgotten, in their order."""
        rows = self.view.catalog.rows(keys)
        # the last is for unknown keys, whose row is -1
        status = np.append(self.view.status(), np.uint8(ABSENT))
        absent = (status[rows] == ABSENT) & ~are_forgotten(
            self.view.paths.store, self.view.entity, rows
        )
        return [key for key, want in zip(keys, absent.tolist(), strict=True) if want]

    def add(self, frame: pl.DataFrame) -> RowNumbers:
        """Give rows to new keys, with their metadata, and return the row of every key of `frame`.

        Args:
            frame: a text column `key` and any others. The metadata of keys that have rows does not
                change.
        """
        self.view.catalog.append(frame)
        self.view.resize()
        return self.view.catalog.rows(frame["key"])

    def write(
        self,
        keys: str | Sequence[str] | pl.DataFrame,
        features: Mapping[str, Any],
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Write K rows, soon or when the writer is closed.

        Args:
            keys: K keys, or a frame with a text column `key` and metadata for the catalog.
            features: arrays or CPU tensors [K, *shape of a row] of every feature of the view. They
                are copied.
            failures: other keys -> why their features could not be computed.
        """
        if not isinstance(keys, pl.DataFrame):
            keys = pl.DataFrame(
                {"key": [keys] if isinstance(keys, str) else list(keys)}, schema={"key": pl.String}
            )
        check_rows(keys, "the rows to write")
        check_rows(
            pl.DataFrame({"key": list(failures or ())}, schema={"key": pl.String}),
            "the failures to write",
        )
        copies = {name: np.array(np.asarray(values)) for name, values in features.items()}
        shapes = {
            name: (keys.height, *feature.shape) for name, feature in self.view.features.items()
        }
        got = {name: values.shape for name, values in copies.items()}
        if keys.height and got != shapes:
            raise StepDiffError(
                f"view {self.view.name} of {self.view.entity} takes {shapes}, got {got}"
            )
        self._waiting.append((keys, copies, dict(failures or {})))
        self._count += keys.height
        if (
            self._count
            >= self.view.rows_per_shard - len(self.view.catalog) % self.view.rows_per_shard
        ):
            self.flush()

    def flush(self) -> None:
        """Commit the rows that were given so far."""
        waiting, self._waiting, self._count = self._waiting, [], 0
        if not waiting:
            return
        reasons = {key: reason for _, _, failures in waiting for key, reason in failures.items()}
        failed = pl.DataFrame({"key": list(reasons)}, schema={"key": pl.String})
        frame = pl.concat([*(keys for keys, _, _ in waiting), failed], how="diagonal_relaxed")
        self.add(frame.unique("key", keep="first", maintain_order=True))
        rows, first = np.unique(self.view.catalog.rows(frame["key"]), return_index=True)
        count, why = frame.height - failed.height, list(reasons.values())
        arrays = {
            name: np.concatenate([features[name] for keys, features, _ in waiting if keys.height])
            for name in self.view.features
            if count
        }
        waiting.clear()  # their memory is needed for the copies of a shard

        def made(here: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
            # of a key that was given twice the first, and rather ok
            places = first[np.searchsorted(rows, here)]
            pairs = zip(here.tolist(), places.tolist(), strict=True)
            failures = {row: why[place - count] for row, place in pairs if place >= count}
            return {
                name: values[places[places < count]] for name, values in arrays.items()
            }, failures

        self.fill(rows, made)

    def fill(
        self,
        rows: RowNumbers,
        make: Callable[[Int64[np.ndarray, " S"]], tuple[Values, Mapping[int, str]]],
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Make and commit `rows`, shard by shard.

        Args:
            rows: row numbers.
            make: takes rows of one shard, ascending; returns the features of those that could be
                computed, in their order, and for the others row -> reason.
            advance: called with the number of rows of every shard that is committed.
        """
        rows = np.sort(rows)
        for shard, places in by_shard(rows, self.view.rows_per_shard):
            here = rows[places]
            features, failures = make(here)
            good = here[~np.isin(here, list(failures))] if failures else here
            self.view.write_shard(shard, good, features, failures, self.info)
            advance(len(here))


class ShardWriter:
    """Writes rows of one shard of a view."""

    def __init__(self, view: View, shard: int) -> None:
        """Make a writer of shard number `shard`."""
        self.view = view
        self.shard = shard
        self.first = shard * view.rows_per_shard

    def write(
        self,
        rows: RowNumbers,
        features: Values,
        failures: Mapping[int, str],
        info: dict[str, Any] | None,
    ) -> None:
        """See `View.write_shard`."""
        self._check(rows, features, failures)
        with self.locked() as held:
            every = np.concatenate([rows, np.array(list(failures), np.int64)])
            refuse_forgotten(self.view.paths.store, self.view.entity, every, self.view.catalog.name)
            status = self.view.shard_status(self.shard).copy()
            fresh = np.flatnonzero(status[rows - self.first] != OK)
            fresh = fresh[np.argsort(rows[fresh])]
            slots = rows[fresh] - self.first
            if not np.array_equal(fresh, np.arange(len(rows))):  # else no copy
                features = {name: values[fresh] for name, values in features.items()}
            reasons = {row: why for row, why in failures.items() if status[row - self.first] != OK}
            if not len(slots) and not reasons:
                return
            earlier = self._earlier_reasons(status)
            with CommitGroup(held) as files:
                if len(slots):
                    slots, unfit = self._write_rows(files, status == OK, slots, features)
                    reasons |= {slot + self.first: why for slot, why in unfit.items()}
                failed = np.array(sorted(reasons), np.int64)
                # Until status is replaced the earlier failures still count: both lists at first.
                self._write_failures(files, earlier | reasons)
                self._write_info(files, np.concatenate([slots + self.first, failed]), info or {})
            self.view.check_not_dropped()  # or rows would be ok in another view of that name
            status[slots] = OK
            status[failed - self.first] = FAILED
            self.view.paths.status(self.shard).put([encode_chunk(status)], len(status), held)
            still = {r: w for r, w in earlier.items() if status[r - self.first] == FAILED}
            if len(still) < len(earlier):
                with CommitGroup(held) as files:
                    self._write_failures(files, still | reasons)

    def withdraw(self, rows: RowNumbers) -> int:
        """See `View.withdraw`; `rows` are of this shard."""
        with self.locked() as held:
            status = self.view.shard_status(self.shard).copy()
            slots = rows - self.first
            count = int((status[slots] == OK).sum())
            if status[slots].any():
                status[slots] = ABSENT
                self.view.paths.status(self.shard).put([encode_chunk(status)], len(status), held)
        return count

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Hold the shard's lock; yield a function that raises StepDiffError once it is no longer
        held.

        A writer left over from a dead run may still be writing. StepDiffError: the view was
        dropped.
        """
        lock = self.view.paths.lock(self.shard)
        lock.parent.make_folder()
        with locked(lock, wait=True):
            self.view.check_not_dropped()
            yield partial(check_held, lock)

    def _check(self, rows: RowNumbers, features: Values, failures: Mapping[int, str]) -> None:
        view, where = self.view, f"shard {self.shard} of view {self.view.name} ({self.view.entity})"
        every = np.concatenate([rows, np.array(list(failures), np.int64)]).astype(np.int64)
        last = min(self.first + view.rows_per_shard, len(view))
        if len(np.unique(every)) != len(every):
            raise StepDiffError(
                f"{where}: a row is given twice, or both with features and as failed"
            )
        if len(every) and (every.min() < self.first or every.max() >= last):
            got = (
                f"{where} takes rows {self.first} to {last - 1}, got {every.min()} to {every.max()}"
            )
            raise StepDiffError(f"{got}: call resize() after the catalog grew")
        takes = view.stored if "scale" in features else view.features
        if len(rows) and set(features) != set(takes):
            raise StepDiffError(f"{where} takes {sorted(takes)}, got {sorted(features)}")
        for name, values in features.items():
            if values.shape != (len(rows), *takes[name].shape):
                raise StepDiffError(
                    f"{where}: {name} is {values.shape}, needs {(len(rows), *takes[name].shape)}"
                )

    def _write_rows(
        self,
        files: CommitGroup,
        keep: Bool[np.ndarray, " slots"],
        slots: Int[np.ndarray, " K"],
        features: Values,
    ) -> tuple[Int[np.ndarray, " G"], dict[int, str]]:
        """Write the rows of `slots`, ascending; return the slots of good ones, and slot -> reason
        of the others."""
        view = self.view
        names = sorted(view.checksummed, key=lambda name: -view.stored[name].row_bytes)
        sums = np.zeros((view.rows_per_shard, len(names)), "<u4")
        if keep.any():
            sums[keep] = view.checksums(self.first + np.flatnonzero(keep))
        rows, *parts = tee(stored_rows(slots, features, view.stored), 1 + len(names))
        for name, of_name in zip(names, parts, strict=True):  # the largest first
            sums_kept = sums[:, view.checksummed.index(name)]
            self._write_shard_file(files, name, keep, sums_kept, len(slots), of_name)
        good: list[Int[np.ndarray, " some"]] = []
        unfit: dict[int, str] = {}
        for part in rows:
            good.append(part.slots)
            unfit |= part.reasons
            for column, name in enumerate(view.checksummed):
                sums[part.slots, column] = part.sums[name]
        files.put(view.paths.checksum(self.shard), encode_chunk(sums))
        return np.concatenate(good), unfit

    def _write_shard_file(
        self,
        files: CommitGroup,
        name: str,
        keep: Bool[np.ndarray, " slots"],
        sums: UInt32[np.ndarray, " slots"],
        count: int,
        parts: Iterable[StoredRows],
    ) -> None:
        feature, slots = self.view.stored[name], self.view.rows_per_shard
        path = self.view.shard_path(name, self.shard)
        old = open_shard(path, slots) if keep.any() else None
        size = (int(keep.sum()) + count) * feature.row_bytes + slots * 16 + 4
        # frees its memory once written
        new = ((part.slots, part.arrays.pop(name)) for part in parts)

        def check(slot: int, row: bytes | memoryview) -> None:
            if crc32c(row) != sums[slot]:
                raise self.view.damage([name], np.array([self.first + slot]))

        files.replace(path, pieces(old, keep, new, feature.row_bytes, check), size)

    def _earlier_reasons(self, status: UInt8[np.ndarray, " slots"]) -> dict[int, str]:
        if not (failed := (np.flatnonzero(status == FAILED) + self.first).tolist()):
            return {}
        reasons = reasons_by_row(self.view.catalog, failures_of_shard(self.view.paths, self.shard))
        return {row: reasons[row] for row in failed if row in reasons}

    def _write_failures(self, files: CommitGroup, reasons: Mapping[int, str]) -> None:
        path = self.view.paths.failures(self.shard)
        if reasons or path.exists():
            files.put(path, encode_failures(self.view.catalog, reasons))

    def _write_info(self, files: CommitGroup, rows: RowNumbers, info: dict[str, Any]) -> None:
        """Record the writer of `rows`, next to the writers of the others."""
        writes = writes_of_shard(self.view.paths, self.shard, self.view.rows_per_shard)
        new, today = frozenset(rows.tolist()), datetime.now(UTC).date().isoformat()
        if not any((write.info, write.date) == (info, today) for write in writes):
            writes = [*writes, Write(frozenset(), info, today)]
        merged = [
            replace(
                write,
                rows=write.rows | new
                if (write.info, write.date) == (info, today)
                else write.rows - new,
            )
            for write in writes
        ]
        files.put(self.view.paths.info(self.shard), encode_writes(self.shard, merged))
