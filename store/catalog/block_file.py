"""Arrays in one file, mapped or in an object store, of which each block is checked when it is first used.

A file is its arrays, each padded to whole blocks; then the crc32c of every block; then one sealed JSON object that
describes them; then that object's length. In an object store one request for its end opens it, and blocks are fetched
when used.

Guarantees
- what `check` accepted is, to the byte, what was written
- the time to open a file does not depend on the size of its arrays
"""

import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from stepdiff.common.errors import DamageError
from stepdiff.common.io.files import Place
from stepdiff.common.io.local import Buffer
from stepdiff.common.io.sealed import BLANK, crc32c, is_sealed, seal

BLOCK = 2**16
"""bytes that one checksum covers"""
_LENGTH = 8  # bytes of the length at the end
_DTYPES = ("|u1", "<i8", "<u8", "<u4", "<i4", "<f4", "<f2", "<f8")  # of arrays

Spans = Sequence[tuple[int, int]]
"""first byte, and the one after the last"""


class DamagedFile(DamageError):
    """A file of which some byte differs from what was written."""

    def __init__(self, path: Place) -> None:
        super().__init__(f"{path} is not as it was written: run python -m store verify")
        self.path = path


class BlockFile:
    """An open file. Elements of its `arrays` are valid once `check` has accepted them."""

    def __init__(
        self, path: Place, data: bytes | memoryview | mmap.mmap, fetch: Callable[[Spans], None] | None = None
    ) -> None:
        """Open the file whose bytes are `data`; DamagedFile where its head is damaged. Use `open_file`.

        `fetch` fills blocks of `data` that were not checked yet.
        """
        self.path = path
        self._fetch = fetch
        end = len(data) - _LENGTH
        size = int.from_bytes(data[end:], "little") if end > 0 else 0
        head = bytes(data[end - size : end]) if 0 < size <= end else b""
        if not is_sealed(head):
            raise DamagedFile(path)
        described = _described(path, head)
        self.about: dict[str, Any] = described["about"]
        self.arrays: dict[str, Shaped[np.ndarray, " n"]] = {}
        self._starts: dict[str, int] = {}  # array -> its first block
        blocks = 0
        for name, dtype, count in described["arrays"]:
            after = blocks + _blocks(count * np.dtype(dtype).itemsize)
            if after * BLOCK > len(data):
                raise DamagedFile(path)
            self._starts[name] = blocks
            self.arrays[name] = np.frombuffer(data, dtype, count, blocks * BLOCK) if count else np.empty(0, dtype)
            blocks = after
        if len(data) != blocks * (BLOCK + 4) + size + _LENGTH:
            raise DamagedFile(path)
        self._data = np.frombuffer(data, np.uint8, blocks * BLOCK)
        self._sums = np.frombuffer(data, "<u4", blocks, blocks * BLOCK)
        if crc32c(self._sums) != described["sums"]:
            raise DamagedFile(path)
        self._checked = np.zeros(blocks, bool)

    def load(self, name: str) -> None:
        """Fetch a whole array for a search; DamagedFile."""
        if self._fetch:
            first = self._starts[name]
            self._check_blocks(np.arange(first, first + _blocks(self.arrays[name].nbytes)))

    def check(self, name: str, first: Int[np.ndarray, " P"], last: Int[np.ndarray, " P"]) -> None:
        """Check the elements from each `first` to its `last` of an array; DamagedFile where one differs."""
        if self._checked.all():
            return
        size = self.arrays[name].itemsize
        low = self._starts[name] + first * size // BLOCK
        high = self._starts[name] + (last * size + size - 1) // BLOCK
        count = len(self._sums)
        begun = np.bincount(low, minlength=count + 1) - np.bincount(high + 1, minlength=count + 1)
        self._check_blocks(np.flatnonzero(np.cumsum(begun)[:count] > 0))

    def check_all(self) -> None:
        """Check the whole file; DamagedFile."""
        self._check_blocks(np.arange(len(self._sums)))

    def _check_blocks(self, blocks: Int[np.ndarray, " B"]) -> None:
        """Fetch and check those blocks (ascending) that were not checked yet."""
        blocks = blocks[~self._checked[blocks]]
        if self._fetch:
            runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1) if len(blocks) else []
            self._fetch([(int(run[0]) * BLOCK, (int(run[-1]) + 1) * BLOCK) for run in runs])
        for block in blocks.tolist():
            if crc32c(self._data[block * BLOCK : (block + 1) * BLOCK]) != self._sums[block]:
                raise DamagedFile(self.path)
        self._checked[blocks] = True


def open_file(path: Place) -> BlockFile:
    """Open the file `path`: mapped, or in an object store its end read, and blocks fetched when touched.

    FileNotFoundError where it does not exist; DamagedFile where its head is damaged. Later ReplacedError where the
    object was replaced.
    """
    return BlockFile(path, *path.pages(_end_bytes))


def _end_bytes(end: bytes, size: int) -> int:
    """Return bytes after the blocks of a file of `size` bytes, of which `end` are the last."""
    head = int.from_bytes(end[-_LENGTH:], "little") + _LENGTH
    return min(size - (size - head) // (BLOCK + 4) * BLOCK, size) if head <= size else len(end)


def encode(arrays: Mapping[str, Iterable[Shaped[np.ndarray, " _"]]], about: dict[str, Any]) -> Iterator[Buffer]:
    """Yield a file of arrays, each given in parts of one dtype, with the metadata `about`, in pieces."""
    sums: list[int] = []
    described: list[list[Any]] = []
    for name, parts in arrays.items():
        rest, count, dtype = b"", 0, ""
        for part in parts:
            part = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
            count, dtype = count + len(part), part.dtype.str
            data = memoryview(rest + part.tobytes()) if rest else part.view(np.uint8).data
            whole = len(data) // BLOCK * BLOCK
            yield data[:whole]
            sums += (crc32c(data[at : at + BLOCK]) for at in range(0, whole, BLOCK))
            rest = bytes(data[whole:])
        if rest:
            last = rest.ljust(BLOCK, b"\0")
            yield last
            sums.append(crc32c(last))
        if not dtype:
            raise ValueError(f"array {name} has no part, so its dtype is not known")
        described.append([name, dtype, count])
    table = np.array(sums, "<u4")
    yield table
    head = seal(json.dumps({"about": about, "arrays": described, "sums": crc32c(table), "seal": BLANK}).encode())
    yield head + len(head).to_bytes(_LENGTH, "little")


def _described(path: Place, head: bytes) -> dict[str, Any]:
    """Return the JSON object at the end of a file; DamagedFile where `encode` cannot have written it."""
    try:
        described = json.loads(head)
        about, arrays = described["about"], described["arrays"]
        fits = type(about) is dict and type(arrays) is list and type(described["sums"]) is int
        for name, dtype, count in arrays if fits else ():
            fits &= type(name) is str and dtype in _DTYPES and type(count) is int and count >= 0
    except (ValueError, RecursionError, TypeError, KeyError):
        fits = False
    if not fits:
        raise DamagedFile(path)
    return described


def _blocks(nbytes: int) -> int:
    return -(-nbytes // BLOCK)
