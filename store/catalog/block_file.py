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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from common.errors import DamageError
from common.io.local import Buffer
from common.io.places import Place
from common.io.seal import BLANK, crc32c, is_sealed, seal

BLOCK = 2**16
"""bytes that one checksum covers"""
_LENGTH = 8  # bytes of the length at the end
_DTYPES = ("|u1", "<i8", "<u8", "<u4", "<i4", "<f4", "<f2", "<f8")  # of arrays

Pieces = list[Shaped[np.ndarray, " _"]]
"""an array in pieces that follow one another, all of one dtype"""


Spans = Sequence[tuple[int, int]]
"""first byte, and the one after the last"""


class DamagedFile(DamageError):
    """A file of which some byte differs from what was written."""

    def __init__(self, path: Place) -> None:
        super().__init__(f"{path} is not as it was written: run python -m store verify")
        self.path = path


class BlockFile:
    """An open file."""

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
        self._starts: dict[str, int] = {}  # array -> its first block
        self._arrays: dict[str, np.ndarray] = {}
        blocks = 0
        for name, dtype, count in described["arrays"]:
            after = blocks + _blocks(count * np.dtype(dtype).itemsize)
            if after * BLOCK > len(data):
                raise DamagedFile(path)
            self._starts[name] = blocks
            self._arrays[name] = np.frombuffer(data, dtype, count, blocks * BLOCK) if count else np.empty(0, dtype)
            blocks = after
        if len(data) != blocks * (BLOCK + 4) + size + _LENGTH:
            raise DamagedFile(path)
        self._data = np.frombuffer(data, np.uint8, blocks * BLOCK)
        self._sums = np.frombuffer(data, "<u4", blocks, blocks * BLOCK)
        if crc32c(self._sums) != described["sums"]:
            raise DamagedFile(path)
        self._checked = np.zeros(blocks, bool)

    def array(self, name: str) -> Shaped[np.ndarray, " n"]:
        """Return an array of the file. Its elements are valid once `check` has accepted them."""
        return self._arrays[name]

    @property
    def arrays(self) -> Mapping[str, Shaped[np.ndarray, " n"]]:
        """All arrays of the file, by name."""
        return self._arrays

    def load(self, name: str) -> None:
        """Fetch a whole array for a search; DamagedFile."""
        if self._fetch:
            first = self._starts[name]
            self._check_blocks(np.arange(first, first + _blocks(self._arrays[name].nbytes)))

    def check(self, name: str, first: Int[np.ndarray, " P"], last: Int[np.ndarray, " P"]) -> None:
        """Check the elements from each `first` to its `last` of an array; DamagedFile where one differs."""
        if self.checked:
            return
        size = self._arrays[name].itemsize
        low = self._starts[name] + first * size // BLOCK
        high = self._starts[name] + (last * size + size - 1) // BLOCK
        count = len(self._sums)
        begun = np.bincount(low, minlength=count + 1) - np.bincount(high + 1, minlength=count + 1)
        touched = np.cumsum(begun)[:count] > 0
        self._check_blocks(np.flatnonzero(touched & ~self._checked))

    @property
    def checked(self) -> bool:
        """Whether the whole file has been checked."""
        return bool(self._checked.all())

    def check_all(self) -> None:
        """Check the whole file; DamagedFile."""
        self._check_blocks(np.arange(len(self._sums)))

    def _check_blocks(self, blocks: Int[np.ndarray, " B"]) -> None:
        """Check blocks (ascending)."""
        if self._fetch:
            blocks = blocks[~self._checked[blocks]]
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


def encode(arrays: Mapping[str, Pieces], about: dict[str, Any]) -> Iterator[Buffer]:
    """Yield a file of `arrays`, with the metadata `about`, block by block."""
    sums = []
    for pieces in arrays.values():
        for block in _in_blocks(pieces):
            sums.append(crc32c(block))
            yield block
    table = np.array(sums, "<u4")
    yield table
    described = [
        [name, pieces[0].dtype.newbyteorder("<").str, sum(map(len, pieces))] for name, pieces in arrays.items()
    ]
    head = {"about": about, "arrays": described, "sums": crc32c(table), "seal": BLANK}
    data = seal(json.dumps(head).encode())
    yield data + len(data).to_bytes(_LENGTH, "little")


def _described(path: Place, head: bytes) -> dict[str, Any]:
    """Return the JSON object at the end of a file; DamagedFile where `encode` cannot have written it."""
    try:
        described = json.loads(head)
    except (ValueError, RecursionError):
        raise DamagedFile(path) from None
    if (
        not isinstance(described, dict)
        or not isinstance(described.get("about"), dict)
        or not isinstance(described.get("arrays"), list)
        or not all(
            isinstance(array, list)
            and len(array) == 3
            and isinstance(array[0], str)
            and array[1] in _DTYPES
            and type(array[2]) is int
            and array[2] >= 0
            for array in described["arrays"]
        )
    ):
        raise DamagedFile(path)
    return described


def _in_blocks(pieces: Pieces) -> Iterator[Buffer]:
    """Yield the bytes of `pieces` in whole blocks, zeros after the last."""
    held = b""
    for piece in pieces:
        data = np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).view(np.uint8).data
        at = (BLOCK - len(held)) % BLOCK if held else 0
        held += bytes(data[:at])
        if len(held) == BLOCK:
            yield held
            held = b""
        if not held:
            whole = at + (len(data) - at) // BLOCK * BLOCK
            for start in range(at, whole, BLOCK):
                yield data[start : start + BLOCK]
            held = bytes(data[whole:])
    if held:
        yield held.ljust(BLOCK, b"\0")


def _blocks(nbytes: int) -> int:
    return -(-nbytes // BLOCK)
