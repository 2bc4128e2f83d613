"""One shard file of the Zarr v3 sharding codec, and one chunk that ends in its crc32c.

A shard file is the present rows, one inner chunk each, then the index: uint64 offset and length
for every row slot (2**64 - 1 twice where the row is missing), then the index's crc32c.

Guarantees
- other Zarr v3 readers read the arrays
"""

import math
import mmap
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8, UInt64

from stepdiff_core.errors import DamageError
from stepdiff_core.io.direct_io import reopened
from stepdiff_core.io.files import Place, RemotePath
from stepdiff_core.io.sealed import crc32c
from store.provenance import RowNumbers, RowValues

MISSING = np.uint64(2**64 - 1)


class ShardFile:
    """An open shard file: the index and the rows come through one descriptor.

    A file that is replaced stays readable here, as it was, until this object is dropped.
    """

    def __init__(self, path: Path, slots: int) -> None:
        """Open `path`, a shard of `slots` rows.

        Raises FileNotFoundError if there is none, DamageError if its index is damaged.
        """
        self.path = path
        # which a FIFO would wait for
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        about = os.fstat(self.fd)
        if not stat.S_ISREG(about.st_mode):
            raise DamageError(f"{path} is no regular file: run python -m store verify")
        self.identity = about.st_ino, about.st_mtime_ns, about.st_size
        size = min(index_size(slots), about.st_size)
        tail = os.pread(self.fd, size, max(about.st_size - size, 0))
        self.offsets, self.lengths, self.present = parse_index(tail, slots, about.st_size, path)

    # at the end of a process `os` may be gone
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """Close the descriptors, once no reader is left that uses them."""
        for name in ("fd", "direct_fd"):
            if self.__dict__.get(name) is not None:
                close(self.__dict__[name])

    @cached_property
    def mapped(self) -> UInt8[np.ndarray, " bytes"]:
        """The file, mapped: for rows that are in memory anyway."""
        return np.frombuffer(mmap.mmap(self.fd, self.identity[2], prot=mmap.PROT_READ), np.uint8)

    @cached_property
    def direct_fd(self) -> int | None:
        """A descriptor of the same file that reads past the page cache; None if the system has
        none."""
        return reopened(self.fd)

    def row(self, slot: int) -> bytes | None:
        """Return the bytes of a row, None if it is missing."""
        if not self.present[slot]:
            return None
        return os.pread(self.fd, int(self.lengths[slot]), int(self.offsets[slot]))


class RemoteShard:
    """The index of a shard object as it was when it was opened."""

    def __init__(self, path: RemotePath, slots: int) -> None:
        """Open `path`, a shard of `slots` rows.

        Raises FileNotFoundError if it does not exist, DamageError if its index is damaged.
        """
        self.path = path
        tail, self.identity, self.nbytes = path.read_tail(index_size(slots))
        self.offsets, self.lengths, self.present = parse_index(
            bytes(tail), slots, self.nbytes, path
        )

    @cached_property
    def _data(self) -> memoryview:
        return self.path.read_range(0, self.nbytes, self.identity)

    def row(self, slot: int) -> memoryview | None:
        """Return the bytes of a row, None if it is missing. Reads the whole object once."""
        if not self.present[slot]:
            return None
        return self._data[int(self.offsets[slot]) :][: int(self.lengths[slot])]


def open_shard(path: Place, slots: int) -> ShardFile | RemoteShard | None:
    """Return the shard of `slots` rows at `path`; DamageError if its index is damaged.

    None if it does not exist: every row is the fill value.
    """
    try:
        return RemoteShard(path, slots) if isinstance(path, RemotePath) else ShardFile(path, slots)
    except FileNotFoundError:
        return None


def pieces(
    old: ShardFile | RemoteShard | None,
    keep: Bool[np.ndarray, " slots"],
    new: Iterable[tuple[Int[np.ndarray, " R"], RowValues]],
    row_bytes: int,
    check: Callable[[int, bytes | memoryview], None],
) -> Iterator[bytes | memoryview | np.ndarray]:
    """Yield a new shard file in pieces, ordered by slot: kept rows of `old`, and new rows, given in
    that order.

    A kept row that `old` leaves out is the fill value, and written as such. `check` is called with
    the slot and the bytes of every kept row before it is written, and raises if they are not as
    they were written.
    """
    present = keep.copy()
    slots_kept = deque(np.flatnonzero(keep).tolist())
    for slots, rows in new:
        present[slots] = True
        start = 0
        while slots_kept and len(slots) and slots_kept[0] < slots[-1]:
            end = int(np.searchsorted(slots, slots_kept[0]))
            yield rows[start:end]
            yield _kept(old, slots_kept.popleft(), row_bytes, check)
            start = end
        yield rows[start:]
    for slot in slots_kept:
        yield _kept(old, slot, row_bytes, check)
    yield index_bytes(present, row_bytes)


def _kept(
    old: ShardFile | RemoteShard | None,
    slot: int,
    row_bytes: int,
    check: Callable[[int, bytes | memoryview], None],
) -> bytes | memoryview:
    row = old.row(slot) if old else None
    if old and row is not None and len(row) != row_bytes:
        raise DamageError(
            f"a row of {old.path} has {len(row)} bytes, not {row_bytes}: run python -m store verify"
        )
    row = row or bytes(row_bytes)
    check(slot, row)
    return row


def index_size(slots: int) -> int:
    """Return bytes of the index of a shard file."""
    return slots * 16 + 4


def parse_index(
    tail: bytes | memoryview, slots: int, nbytes: int, path: Path | Place
) -> tuple[UInt64[np.ndarray, " slots"], UInt64[np.ndarray, " slots"], Bool[np.ndarray, " slots"]]:
    """Return offsets and lengths of the rows, and which are there, from the end of a file of
    `nbytes` bytes.

    DamageError if `tail` is not an index, or has rows that are not in the file or overlap.
    """
    if len(tail) != index_size(slots) or crc32c(tail[:-4]).to_bytes(4, "little") != tail[-4:]:
        raise DamageError(f"index of {path} is damaged: run python -m store verify")
    index = np.frombuffer(tail, "<u8", slots * 2).reshape(slots, 2)
    present = index[:, 0] != MISSING
    offsets, lengths = index[present, 0], index[present, 1]
    room = np.uint64(nbytes - index_size(slots))  # what lies before the index
    if (lengths > room).any() or (offsets > room - lengths).any():
        raise DamageError(
            f"index of {path} has rows that are not in it: run python -m store verify"
        )
    ends = offsets + lengths
    if (offsets[1:] < ends[:-1]).any():  # not in the order of the slots, or overlapping
        order = np.argsort(offsets, kind="stable")
        if (offsets[order][1:] < ends[order][:-1]).any():
            raise DamageError(f"index of {path} has rows that overlap: run python -m store verify")
    return index[:, 0], index[:, 1], present


def index_bytes(present: Bool[np.ndarray, " slots"], row_bytes: int) -> bytes:
    """Return the index of a shard file whose present rows lie one after another."""
    index = np.full((len(present), 2), MISSING, "<u8")
    index[present, 0] = np.arange(np.count_nonzero(present)) * row_bytes
    index[present, 1] = row_bytes
    data = index.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def by_shard(rows: RowNumbers, shard_rows: int) -> list[tuple[int, Int[np.ndarray, " _"]]]:
    """Return each shard that has some of R rows, ascending, with their places in `rows`, in
    order."""
    shards = rows // shard_rows
    order = np.argsort(shards, kind="stable")
    numbers, starts = np.unique(shards[order], return_index=True)
    # of no rows, split gives one part
    return list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=False))


def encode_chunk(values: Shaped[np.ndarray, "..."]) -> bytes:
    """Return a chunk of an unsharded array: little-endian bytes, then their crc32c."""
    data = values.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def read_chunk(path: Place, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    """Return the chunk in `path`, None if there is none; DamageError if it is damaged."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        data = path.read_whole(size + 4)
    except FileNotFoundError:
        return None
    except DamageError:  # of another size
        data = b""
    except OSError as error:
        raise DamageError(
            f"{path} cannot be read ({error.strerror}): run python -m store verify"
        ) from error
    if len(data) != size + 4 or crc32c(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise DamageError(f"{path} is damaged: run python -m store verify")
    return np.frombuffer(data[:-4], np.dtype(dtype).newbyteorder("<")).reshape(shape)
