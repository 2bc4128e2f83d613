"""Random rows of one feature, straight into the batch.

Rows whose pages are in memory are copied from mapped files by all cores. More threads take the
others: each announces its next rows to the kernel, so that a cold disk has a long queue, and copies
them as they arrive. Rows of a view that memory cannot hold may bypass the page cache. The thread
that copies a row compares it with its checksum while it is in the processor's cache.

Guarantees
- rows are returned in the order of the request, whatever the order on disk, duplicates included
- reads are correct while a writer replaces the shard
- a row that differs from its checksum is reported when it is checked, a missing one too
"""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32
from numpy.lib.stride_tricks import as_strided

from stepdiff_core.errors import DamageError, StepDiffError
from stepdiff_core.io.direct_io import LEAST, read_direct
from stepdiff_core.io.files import Place
from stepdiff_core.io.local import Identity
from stepdiff_core.io.remote import ReplacedError, pool
from stepdiff_core.io.sealed import crc32c
from stepdiff_core.threads import cores, each, shares
from store.format.layout import ViewPaths, shard_number, snapshot_of
from store.format.shard import RemoteShard, ShardFile, by_shard, read_chunk
from store.provenance import RowNumbers, RowValues

Check = Literal["always", "first", "never"]
"""when a row is compared with its checksum: at every read, at the first one through an open view,
or never"""
Versions = Mapping[int, Identity | None]
"""shard -> the identity of the shard file that was opened, None if it does not exist"""
MOST_BYTES = 64 * 2**20
_CHUNK_BYTES = 200  # of a chunk in memory besides its values, about
_guard = threading.RLock()  # of every reader's open files, bits and checksums
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
"""errors of a process or machine at its limit of open files"""


def known_check(check: str) -> Check:
    """Return `check`, or StepDiffError if it is not a `Check`."""
    if check not in get_args(Check):
        raise StepDiffError(
            f"check={check!r} is not known: give one of {', '.join(get_args(Check))}"
        )
    return cast(Check, check)


ABSENT, OK, FAILED = 0, 1, 2
"""the values of the array `status`"""


class Statuses:
    """The status chunks of a view. A chunk is read when it is first needed, and again once its file
    changed."""

    def __init__(self, paths: ViewPaths, rows_per_shard: int) -> None:
        self._paths = paths
        self._slots = rows_per_shard
        self._chunks: dict[int, tuple[Identity | None, np.ndarray]] = {}

    def of_shard(self, shard: int) -> UInt8[np.ndarray, " slots"]:
        """Return the current status of every slot of a shard."""
        return self._chunk(shard, self._paths.status(shard).identity())

    def of_rows(self, rows: RowNumbers) -> UInt8[np.ndarray, " R"]:
        """Return the status of R rows. An object store gets all its requests at once."""
        status = np.zeros(len(rows), np.uint8)
        parts = by_shard(rows, self._slots)
        chunks = self._paths.store.map(self._read, [shard for shard, _ in parts])
        for (_, here), chunk in zip(parts, chunks, strict=True):
            if chunk is not None:
                status[here] = chunk[rows[here] % self._slots]
        return status

    def existing(self) -> Iterator[tuple[int, UInt8[np.ndarray, " slots"]]]:
        """Yield every shard that has a status, with it. An object store gets all its requests at
        once."""
        folder = self._paths.status(0).parent
        if folder.remote:
            now = folder.identities()
            shards = [shard for name in now if (shard := shard_number(name)) is not None]
            yield from zip(
                shards, folder.map(lambda n: self._chunk(n, now[str(n)]), shards), strict=True
            )
            return
        # there may be millions: none is kept
        for name in os.listdir(str(folder)) if folder.is_dir() else ():
            if (shard := shard_number(name)) is not None and (
                chunk := self._read(shard)
            ) is not None:
                yield shard, chunk

    def first_not_ok(self, rows: RowNumbers) -> tuple[int, int] | None:
        """Return a row that is not ok and its status; None if all are ok.

        A row that was ok is taken to be ok still: if it was withdrawn, its checksum differs when it
        is read.
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
        cached = self._chunks.get(shard)
        if cached is None or cached[0] != now:
            chunk = None if now is None else self._read(shard)
            if chunk is None:
                chunk = np.zeros(self._slots, np.uint8)
            self._chunks[shard] = cached = (now, chunk)
        return cached[1]

    def _read(self, shard: int) -> UInt8[np.ndarray, " slots"] | None:
        return read_chunk(self._paths.status(shard), (self._slots,), "uint8")


class Checksums:
    """The array `checksum` of a view, one chunk per shard. Safe to share between threads, and
    across a fork."""

    def __init__(self, paths: ViewPaths, rows_per_shard: int, arrays: int) -> None:
        """Open the checksums of a view of `arrays` arrays."""
        self._paths = paths
        self._shape = (rows_per_shard, arrays)
        self._chunks: OrderedDict[int, UInt32[np.ndarray, "slots arrays"]] = OrderedDict()

    def of_rows(self, rows: RowNumbers) -> UInt32[np.ndarray, "R arrays"]:
        """Return the checksums of rows of status 1. DamageError if a chunk is damaged or
        missing."""
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
                f"the checksums of shard {shard} of view {self._paths.view} ({self._paths.entity}) "
                f"are {state}: {remedy(self._paths.store)}"
            )
        with _guard:
            self._chunks[shard] = chunk
            while len(self._chunks) > max(MOST_BYTES // (chunk.nbytes + _CHUNK_BYTES), 1):
                self._chunks.popitem(last=False)
        return chunk


class RowChecks:
    """Which rows of one array were compared with their checksums: one bit a row, cleared when the
    shard is replaced.

    Safe to share between threads, and across a fork.
    """

    def __init__(
        self, checksums: Checksums, column: int, rows_per_shard: int, row_bytes: int
    ) -> None:
        """Remember rows of the array whose checksums are column `column` of `checksums`."""
        self._checksums = checksums
        self._column = column
        self._shard_rows = rows_per_shard
        self._row_bytes = row_bytes
        self._bits: UInt8[np.ndarray, " bytes"] = np.zeros(0, np.uint8)
        self._versions: dict[int, Identity | None] = {}

    def wrong_zeros(
        self, missing: Bool[np.ndarray, " B"], sums: UInt32[np.ndarray, " B"]
    ) -> list[int]:
        """Return the places of rows that the shard file leaves out, although they are not zeros by
        their checksums."""
        if not missing.any():
            return []
        return np.flatnonzero(missing & (sums != crc32c(bytes(self._row_bytes)))).tolist()

    def to_check(
        self, rows: RowNumbers, versions: Versions, check: Check
    ) -> tuple[Bool[np.ndarray, " R"], UInt32[np.ndarray, " R"]]:
        """Return which rows, about to be read from shard files of these versions, to check now, and
        their checksums.

        Checksums of other rows are 0. DamageError if they cannot be read.
        """
        now, sums = np.full(len(rows), check == "always"), np.zeros(len(rows), np.uint32)
        if check == "never":
            return now, sums
        replaced = []
        with _guard:
            needed, room = (
                -(-(max(versions, default=-1) + 1) * self._shard_rows // 8),
                len(self._bits),
            )
            if needed > room:
                self._bits = np.append(
                    self._bits, np.zeros(max(needed, room * 5 // 4) - room, np.uint8)
                )
            for shard, version in versions.items():
                if self._versions.setdefault(shard, version) != version:
                    every = np.arange(shard * self._shard_rows, (shard + 1) * self._shard_rows)
                    np.bitwise_and.at(self._bits, every >> 3, ~_mask(every))
                    replaced.append(shard)
                    self._versions[shard] = version
            now |= (self._bits[rows >> 3] & _mask(rows)) == 0
        if replaced:
            self._checksums.forget(replaced)
        if now.any():
            sums[now] = self._checksums.of_rows(rows[now])[:, self._column]
        return now, sums

    def passed(self, rows: RowNumbers, versions: Versions) -> None:
        """Remember that rows of shard files of these versions were right."""
        if not len(rows):
            return
        with _guard:
            same = [
                shard for shard, version in versions.items() if self._versions[shard] == version
            ]
            # another version was opened since: its rows are not known
            if len(same) < len(versions):
                rows = rows[np.isin(rows // self._shard_rows, same)]
            np.bitwise_or.at(self._bits, rows >> 3, _mask(rows))


def wrong_rows(
    data: UInt8[np.ndarray, "B bytes"],
    sums: UInt32[np.ndarray, " B"],
    places: Int[np.ndarray, " R"],
) -> list[int]:
    """Return the `places` of rows of `data` that differ from their checksums."""
    pairs = zip(places.tolist(), sums[places].tolist(), strict=True)
    return [place for place, total in pairs if crc32c(data[place]) != total]


def remedy(store: Place) -> str:
    """Return what to do about damaged rows of a view in the folder of a store or snapshot."""
    if (name := snapshot_of(store)) is not None:
        whole = store.parent.parent
        return (
            f"restore it from a copy, or delete the snapshot with python -m store tag {whole} "
            f"{name} --delete"
        )
    return f"run python -m store verify {store} --withdraw, then {FILL_AGAIN}"


FILL_AGAIN = "repeat the command that filled the view: it computes what is absent"


def _mask(rows: RowNumbers) -> UInt8[np.ndarray, " R"]:
    """Return the bit of each row in its byte."""
    return np.left_shift(1, rows & 7).astype(np.uint8)


OPEN_FILES = 128
_RUN_BYTES = 4 * 2**20  # neighbours are read together from the disk up to this size
_PROBE_BYTES = 2 * 2**20  # residency of a large row is probed once per this many bytes
_PROBES = 32  # rows of a batch whose residency is probed first
_SMALL_BYTES = 16 * 2**10  # rows of this size are copied together, twice
_TASK_BYTES = 2 * 2**20  # given to a waiting thread at a time, about
_PIECE_BYTES = 512 * 2**10  # checked, then copied while they are in the cache
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_BYTE = memoryview(bytearray(1))  # whatever a probe reads
Answer = TypeVar("Answer")


class _Checked(NamedTuple):
    """The rows of a batch that are checked, of one array."""

    now: np.ndarray  # bool [B]
    versions: Versions
    data: np.ndarray  # uint8 [B, row bytes], where rows are copied to
    sums: list[int]  # [B]
    wrong: list[int]  # places of rows that differ


class _Reads(NamedTuple):
    """Rows of a batch that files of one array have, in the order of the files."""

    checked: _Checked
    files: dict[int, ShardFile]
    mapped: bool
    """whether all files are"""
    shards: Int[np.ndarray, " W"]
    offsets: Int[np.ndarray, " W"]
    places: Int[np.ndarray, " W"]
    """in the batch"""

    def at(self, part: Any) -> "_Reads":
        """Return some of the reads, chosen as numpy indexes an array."""
        return self._replace(
            shards=self.shards[part], offsets=self.offsets[part], places=self.places[part]
        )

    def rows(self) -> Iterator[tuple[ShardFile, int, int]]:
        """Yield the file, the offset, and the place of each row."""
        files = map(self.files.__getitem__, self.shards.tolist())
        return zip(files, self.offsets.tolist(), self.places.tolist(), strict=True)

    def resident(self) -> Bool[np.ndarray, " W"]:
        """Return which rows can be copied from memory: all if a sample of them can. A row that is
        not there is read when its pages are touched."""
        size = self.checked.data.shape[1]
        if not self.mapped:
            return np.zeros(len(self.places), bool)
        for step in (-(-len(self.places) // _PROBES), 1):
            part = self.at(slice(None, None, step or 1))
            resident = [_is_resident(file, offset, size) for file, offset, _ in part.rows()]
            if all(resident):
                return np.ones(len(self.places), bool)
        return np.array(resident)

    @property
    def nbytes(self) -> int:
        return len(self.places) * self.checked.data.shape[1]

    def shares(self, size: int) -> "list[_Reads]":
        """Return the reads in order, divided into parts of `size` bytes, or of one row."""
        rows = max(size // self.checked.data.shape[1], 1)
        return [self.at(slice(n, n + rows)) for n in range(0, len(self.places), rows)]

    def runs(self) -> "list[_Run]":
        """Return the reads of neighbours in the file and in the batch that are all checked or
        none."""
        target, now = self.checked.data.reshape(-1), self.checked.now[self.places]
        size = self.checked.data.shape[1]
        joined = (
            (np.diff(self.places) == 1)
            & (np.diff(self.shards) == 0)
            & (np.diff(self.offsets) == size)
            & (np.diff(now) == 0)
        )
        longest = max(_RUN_BYTES // size, 1)
        rows = list(self.rows())
        ends = [*(np.flatnonzero(~joined) + 1).tolist(), len(rows)]
        runs = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            for first in range(start, end, longest):
                file, offset, place = rows[first]
                count = min(longest, end - first)
                part = target[place * size : (place + count) * size]
                checked = self.checked if now[first] else None
                runs.append(_Run(file, offset, part, place, count, checked))
        return runs


class _Run(NamedTuple):
    file: ShardFile
    offset: int
    target: np.ndarray  # uint8
    place: int  # in the batch, of the first row
    rows: int
    checked: _Checked | None  # None if these rows are not checked

    def after(self, count: int) -> "_Run":
        """Return the rest of the run after `count` bytes; its rows are the same."""
        return self._replace(offset=self.offset + count, target=self.target[count:])

    def compare(self) -> None:
        """Compare the rows, which are all in the batch now, with their checksums."""
        if self.checked:
            _, _, data, sums, wrong = self.checked
            for place in range(self.place, self.place + self.rows):
                if crc32c(data[place]) != sums[place]:
                    wrong.append(place)


class _FeatureReader:
    def __init__(
        self, path: Callable[[int], Any], shard_rows: int, row_bytes: int, checks: RowChecks
    ) -> None:
        """`path` returns the file of a shard of `shard_rows` rows, each of `row_bytes` bytes with
        `checks`."""
        self._path = path
        self.checks = checks
        self._shard_rows = shard_rows
        self._row_bytes = row_bytes
        # shard -> its file, or the index of its object
        self._open: OrderedDict[int, Any] = OrderedDict()


class RowReader(_FeatureReader):
    """Reads rows of one feature from local files. Safe to share between threads, and across a
    fork."""

    def shard(self, shard: int) -> ShardFile | None:
        """Return the shard's file as it is now, None if it does not exist."""
        path = self._path(shard)
        now = path.identity()
        with _guard:
            file: ShardFile | None = self._open.get(shard)
            if file is None or file.identity != now:
                self._open.pop(shard, None)
                try:
                    file = self._with_files(lambda: ShardFile(path, self._shard_rows), path)
                except FileNotFoundError:
                    return None
                self._open[shard] = file
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(shard)
            return file

    def _with_files(self, do: Callable[[], Answer], what: object, again: bool = True) -> Answer:
        """Return `do()`; close the files of this reader and repeat it if the process may open no
        more."""
        try:
            return do()
        except OSError as error:
            if error.errno not in NO_MORE_FILES:
                raise
            reason = (
                f"cannot open {what} ({error.strerror}): raise ulimit -n, the limit of open files"
            )
        if not again:
            raise StepDiffError(reason)
        with _guard:
            self._open.clear()
        return self._with_files(do, what, again=False)

    def reads(self, rows: RowNumbers, out: RowValues, check: Check) -> _Reads:
        """Return the rows that are in files. A row that its shard omits is filled in `out`, and
        checked, at once."""
        shards, slots = np.divmod(rows, self._shard_rows)
        offsets = np.empty(len(rows), np.uint64)
        missing = np.zeros(len(rows), bool)
        files: dict[int, ShardFile] = {}
        versions: dict[int, Identity | None] = {}
        for shard in np.unique(shards).tolist():
            here = shards == shard
            file = self.shard(shard)
            versions[shard] = file.identity if file else None
            if file is None:
                missing |= here
                continue
            files[shard] = file
            offsets[here] = file.offsets[slots[here]]
            missing[here] = ~file.present[slots[here]]
            there = here & ~missing
            if (file.lengths[slots[there]] != self._row_bytes).any():
                raise StepDiffError(
                    f"the index of {file.path} does not fit: run python -m store verify"
                )
        out[missing] = 0
        mapped = self._map(files.values())  # before checksums: a file of theirs is opened at last
        now, sums = self._with_files(
            lambda: self.checks.to_check(rows, versions, check), "the checksums"
        )
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        checked = _Checked(
            now, versions, target, sums.tolist(), self.checks.wrong_zeros(missing & now, sums)
        )
        present = np.flatnonzero(~missing)
        order = present[np.lexsort((offsets[present], shards[present]))]
        return _Reads(checked, files, mapped, shards[order], offsets[order].astype(np.int64), order)

    def _map(self, files: Iterable[ShardFile]) -> bool:
        """Map files; returns whether the process may. If it may not, files of this reader are
        closed: a mapping has a descriptor too."""
        try:
            for file in files:
                file.mapped  # noqa: B018
        except OSError as error:
            if error.errno not in (*NO_MORE_FILES, errno.ENOMEM):
                raise
            with _guard:
                self._open.clear()
            return False
        return True

    def in_place(self, rows: RowNumbers, check: Check) -> UInt8[np.ndarray, " bytes"] | None:
        """Return a read-only part of the mapped file, if the rows are neighbours in one shard and
        in memory.

        None otherwise, or if one differs from its checksum.
        """
        shards, slots = np.divmod(rows, self._shard_rows)
        if not len(rows) or (shards != shards[0]).any():
            return None
        file = self.shard(int(shards[0]))
        if file is None or not file.present[slots].all():
            return None
        offsets = file.offsets[slots].astype(np.int64)
        if (np.diff(offsets) != self._row_bytes).any() or (
            file.lengths[slots] != self._row_bytes
        ).any():
            return None
        first, size = int(offsets[0]), len(rows) * self._row_bytes
        if not _is_resident(file, first, size):
            return None
        mapped = file.mapped[first : first + size]
        versions = {int(shards[0]): file.identity}
        now, sums = self._with_files(
            lambda: self.checks.to_check(rows, versions, check), "the checksums"
        )
        places, data = np.flatnonzero(now), mapped.reshape(len(rows), self._row_bytes)
        parts = shares(len(places), max(min(cores(), len(mapped) // _TASK_BYTES), 1))
        if any(each(lambda part: wrong_rows(data, sums, places[slice(*part)]), parts)):
            return None
        self.checks.passed(rows[places], versions)
        return mapped


def read_together(
    rows: RowNumbers,
    readers: Sequence[tuple[RowReader, RowValues]],
    direct: bool = False,
    check: Check = "first",
) -> list[list[int]]:
    """Fill the array next to each reader, C-contiguous, with its rows, all of status 1: no file
    waits for another.

    With `direct` large runs that are not in memory come past the page cache. Returns for each array
    the places of rows that were checked and differ from their checksums.
    """
    reads = [reader.reads(rows, out, check) for reader, out in readers]
    warm: list[_Reads] = []
    cold: list[_Run] = []
    for of_array in reads:
        resident = of_array.resident()
        warm.append(of_array.at(resident))
        cold += of_array.at(~resident).runs()
    a_core = max(sum(of_array.nbytes for of_array in warm) // cores(), _TASK_BYTES)
    take = _take_direct if direct else _take
    tasks = [partial(_copy_rows, share) for of_array in warm for share in of_array.shares(a_core)]
    tasks += [partial(take, runs) for runs in _shares(cold, _TASK_BYTES)]
    each(lambda task: task(), tasks)
    for (reader, _), (checked, *_) in zip(readers, reads, strict=True):
        checked.now[checked.wrong] = False
        reader.checks.passed(rows[checked.now], checked.versions)
    return [checked.wrong for checked, *_ in reads]


def _copy_rows(reads: _Reads) -> None:
    """Copy rows that are in memory from the mapped files."""
    (now, _, data, sums, wrong), places = reads.checked, reads.places
    checked, size = now[places], data.shape[1]
    if size <= _SMALL_BYTES and not checked.any():
        starts = np.flatnonzero(np.diff(reads.shards, prepend=-1))
        for part in map(slice, starts, [*starts[1:], None]):
            mapped = reads.files[int(reads.shards[part][0])].mapped
            rows = as_strided(mapped, (len(mapped) - size + 1, size), (1, 1), writeable=False)
            data[places[part]] = rows[reads.offsets[part]]
        return
    for is_checked, (file, offset, place) in zip(checked.tolist(), reads.rows(), strict=True):
        source = file.mapped[offset : offset + size]
        if not is_checked:
            data[place] = source
        elif _copy(source, data[place]) != sums[place]:
            wrong.append(place)


def _copy(source: UInt8[np.ndarray, " bytes"], target: UInt8[np.ndarray, " bytes"]) -> int:
    """Copy a row; returns its checksum. A piece is summed where it lies, which brings it into the
    cache."""
    total = 0
    for start in range(0, len(source), _PIECE_BYTES):
        piece = slice(start, start + _PIECE_BYTES)
        total = crc32c(source[piece], total)
        target[piece] = source[piece]
    return total


def _is_resident(file: ShardFile, offset: int, size: int) -> bool:
    """Return whether pages of a file are in memory, by the look of samples; False if the system
    does not tell."""
    if not _NOWAIT:
        return False
    for start in range(offset, offset + size, _PROBE_BYTES):
        try:
            os.preadv(file.fd, [_BYTE], start, _NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise _failed(file, error.strerror) from error
    return True


def _announce(runs: list[_Run]) -> None:
    """Let the kernel begin to read them."""
    if hasattr(os, "posix_fadvise"):
        for run in runs:
            os.posix_fadvise(run.file.fd, run.offset, len(run.target), os.POSIX_FADV_WILLNEED)


def _shares(runs: list[_Run], size: int) -> list[list[_Run]]:
    """Return the runs in order, a new list begun as soon as one holds `size` bytes."""
    shares: list[list[_Run]] = []
    filled = size
    for run in runs:
        if filled >= size:
            shares.append([])
            filled = 0
        shares[-1].append(run)
        filled += len(run.target)
    return shares


def _take(runs: list[_Run]) -> None:
    """Read the runs whole, one after the other."""
    _announce(runs)
    for run in runs:
        target, offset = run.target.data, run.offset
        while len(target):
            try:
                count = os.preadv(run.file.fd, [target], offset)
            except OSError as error:
                raise _failed(run.file, error.strerror) from error
            if not count:
                raise _failed(run.file, "it ends too early")
            target, offset = target[count:], offset + count
        run.compare()


def _take_direct(runs: list[_Run]) -> None:
    """Read large runs past the page cache, and through it what is small or could not be read so."""
    small = []
    for run in runs:
        count, fd = 0, run.file.direct_fd if len(run.target) >= LEAST else None
        if fd is not None:
            try:
                count = read_direct(fd, run.target, run.offset)
            except OSError as error:
                raise _failed(run.file, error.strerror) from error
        if count < len(run.target):
            small.append(run.after(count))
        else:
            run.compare()
    _take(small)


def _failed(file: ShardFile, reason: str | None) -> StepDiffError:
    return StepDiffError(f"cannot read {file.path} ({reason}): run python -m store verify")


def _after_fork() -> None:
    """Replace the lock: another thread may have held it at the fork."""
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


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


class RemoteReader(_FeatureReader):
    """Reads rows of one feature from an object store: index and rows are of one ETag, or read
    again.

    Safe to share between threads.
    """

    def read(self, rows: RowNumbers, out: RowValues, check: Check = "first") -> list[int]:
        """Fill `out`, C-contiguous, with the rows, all of status 1.

        Returns the places of rows that were checked and differ from their checksums.
        """
        if not len(rows):
            return []
        slots = rows % self._shard_rows
        shards, parts = zip(*by_shard(rows, self._shard_rows), strict=True)
        target = out.reshape(-1).view(np.uint8).reshape(len(rows), self._row_bytes)
        tries = 0
        while True:
            try:
                opened = list(pool().map(self._shard, shards))
                versions = {
                    n: shard.identity if shard else None
                    for n, shard in zip(shards, opened, strict=True)
                }
                now, sums = self.checks.to_check(rows, versions, check)
                pairs = zip(opened, parts, strict=True)
                requests = [
                    r
                    for shard, places in pairs
                    for r in self._requests(shard, places, slots, target)
                ]
                wrong = list(
                    pool().map(partial(self._fetch, target=target, now=now, sums=sums), requests)
                )
                requested = np.concatenate(
                    [np.empty(0, np.int64), *(request.places for request in requests)]
                )
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
                with _guard:
                    for n in shards:
                        self._open.pop(n, None)

    def _shard(self, shard: int) -> RemoteShard | None:
        """Return the shard's index, as far as is known; None if it does not exist."""
        with _guard:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        try:
            opened = RemoteShard(self._path(shard), self._shard_rows)
        except FileNotFoundError:
            return None
        with _guard:
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
        """Yield the requests for the rows of one shard; rows that are missing are filled at
        once."""
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
                    shard,
                    start,
                    int(offsets[end - 1]) + size,
                    offsets[first:end] - start,
                    places[first:end],
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
