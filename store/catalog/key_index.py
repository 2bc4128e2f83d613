"""Key -> row for consecutive rows of a catalog, in one mapped file.

The file contains the hash of every key, ascending; the row of each hash; and the keys by row, so
that a hit is compared with its key and a row gives its key. Each array is padded to whole blocks;
then come the crc32c of every block, one sealed JSON object that names the parts of the catalog that
were indexed, with their seals, and that object's length. In an object store one request for the end
opens the file, and blocks are fetched when used.

Guarantees
- a row is returned for its own key only: equal hashes, damage and a foreign index never return
  another
- the time to open a file does not depend on its size: a block is checked when it is first used
- a key has the same hash on every machine and in every version: a file of hashes names HASH
"""

import itertools
import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64, UInt8, UInt64

from stepdiff_core.errors import DamageError
from stepdiff_core.io.files import Place
from stepdiff_core.io.local import Buffer
from stepdiff_core.io.sealed import BLANK, crc32c, is_sealed, seal
from store.provenance import RowNumbers

HASH = "splitmix64 of length, then of state xor each little-endian word"
"""the hash function, as files name it"""
SPARE = 8
"""zero bytes after the last key, so that every key can be read by words"""
BLOCK = 2**16
"""bytes that one checksum covers"""
_LENGTH = 8  # bytes of the length at the end
_WORD = 8  # bytes
_RUN = 2**20  # keys joined at a time
_CACHED = 2**13  # keys hashed or compared at a time: their words stay in the processor's cache
_HIGH = np.uint64(48)
"""bits of a hash below its highest 16"""
_HASHES, _ROWS, _OFFSETS, _KEYS = "hashes", "rows", "offsets", "keys"

Spans = Sequence[tuple[int, int]]
"""first byte, and the one after the last"""


class DamagedFile(DamageError):
    """An index in which a byte was changed."""

    def __init__(self, path: Place) -> None:
        super().__init__(f"{path} is not as it was written: run python -m store verify")
        self.path = path


@dataclass(frozen=True)
class PackedKeys:
    """K keys in UTF-8."""

    data: UInt8[np.ndarray, " bytes"]
    """the keys, one after another, and SPARE bytes"""
    offsets: Int64[np.ndarray, " ends"]
    """offset in `data` of each key, and of the end: K + 1 values"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def encoded(self, places: Int64[np.ndarray, " P"]) -> list[bytes]:
        """Return the keys at `places` in UTF-8."""
        data = self.data.data
        spans = zip(self.offsets[places].tolist(), self.offsets[places + 1].tolist(), strict=True)
        return [bytes(data[start:end]) for start, end in spans]

    def take(self, places: Int64[np.ndarray, " P"]) -> list[str]:
        """Return the keys at `places`."""
        return [key.decode() for key in self.encoded(places)]

    def hashes(self) -> UInt64[np.ndarray, " K"]:
        """Return the hash of every key."""
        hashes = np.empty(len(self), np.uint64)
        for at in range(0, len(self), _CACHED):
            ends = self.offsets[at : at + _CACHED + 1]
            lengths = np.diff(ends)
            order = _longest_first(lengths)
            state = _mixed(lengths[order].astype(np.uint64))
            for word in self._words(ends[order], lengths[order]):
                state[: len(word)] = _mixed(state[: len(word)] ^ word)
            hashes[at + order] = state
        return hashes

    def equal(
        self, places: Int64[np.ndarray, " P"], others: "PackedKeys", theirs: Int64[np.ndarray, " P"]
    ) -> Bool[np.ndarray, " P"]:
        """Return whether the key at each of `places` is the one of `others` at `theirs`."""
        starts, begins = self.offsets[places], others.offsets[theirs]
        lengths = self.offsets[places + 1] - starts
        same = lengths == others.offsets[theirs + 1] - begins
        every = np.flatnonzero(same)
        for at in range(0, len(every), _CACHED):
            batch = every[at : at + _CACHED]
            batch = batch[_longest_first(lengths[batch])]
            pairs = (
                self._words(starts[batch], lengths[batch]),
                others._words(begins[batch], lengths[batch]),
            )
            for one, two in zip(*pairs, strict=True):
                same[batch[: len(one)]] &= one == two
        return same

    def _words(
        self, starts: Int64[np.ndarray, " P"], lengths: Int64[np.ndarray, " P"]
    ) -> Iterator[np.ndarray]:
        """Yield the first words of eight bytes of keys, then the second of those that have one, and
        so on.

        The keys begin at `starts`, the longest first. There are zeros after the end of a key.
        """
        words = np.ndarray(len(self.data) - _WORD + 1, f"V{_WORD}", self.data, strides=(1,))
        counts = -(-lengths // _WORD)
        most = int(counts.max(initial=0))
        # keys of more than 0, 1, 2... words
        longer = np.searchsorted(-counts, -np.arange(most + 1))
        for number, (count, more) in enumerate(itertools.pairwise(longer.tolist())):
            word = words[starts[:count] + number * _WORD].view("<u8")
            spare = (number + 1) * _WORD - lengths[more:count]
            word[more:] &= np.uint64(2**64 - 1) >> (8 * spare).astype(np.uint64)
            yield word


def _longest_first(lengths: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
    """Return an order of keys: keys of more words come first."""
    fewer = lengths.max(initial=0) // _WORD + 1 - -(-lengths // _WORD)
    # numbers of 16 bits are sorted six times as fast
    return np.argsort(
        fewer.astype(np.uint16) if fewer.max(initial=0) < 2**16 else fewer, kind="stable"
    )


def _mixed(state: UInt64[np.ndarray, " K"]) -> UInt64[np.ndarray, " K"]:
    """Return the next splitmix64 states: its constant step, then its finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def pack(keys: Sequence[str] | pl.Series) -> PackedKeys:
    """Return `keys`, packed. A lone surrogate, which no key of a catalog has, equals none."""
    if isinstance(keys, pl.Series):
        pieces = [
            keys.slice(at, _RUN).str.join("").item().encode() for at in range(0, len(keys), _RUN)
        ]
        lengths = keys.str.len_bytes().to_numpy().astype(np.int64)
    else:
        pieces = ["".join(keys).encode(errors="surrogatepass")]
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        if lengths.sum() != len(pieces[0]):  # not only ASCII
            lengths = np.array([len(key.encode(errors="surrogatepass")) for key in keys], np.int64)
    data = np.frombuffer(b"".join([*pieces, bytes(SPARE)]), np.uint8)
    return PackedKeys(data, np.concatenate([[0], np.cumsum(lengths)]))


def joined(several: Sequence[PackedKeys]) -> PackedKeys:
    """Return all keys of `several`, one after another."""
    ends = np.cumsum([keys.offsets[-1] for keys in several])
    offsets = [
        keys.offsets[1:] + end - keys.offsets[-1] for keys, end in zip(several, ends, strict=True)
    ]
    data = [keys.data[: keys.offsets[-1]] for keys in several]
    return PackedKeys(
        np.concatenate([*data, np.zeros(SPARE, np.uint8)]), np.concatenate([[0], *offsets])
    )


class KeyIndex:
    """The index of rows `first` to `end` - 1."""

    def __init__(
        self,
        path: Place,
        data: bytes | memoryview | mmap.mmap,
        fetch: Callable[[Spans], None] | None = None,
    ) -> None:
        """Open the file whose bytes are `data`; DamagedFile if its head is damaged, or it uses
        another hash.

        `fetch` fills blocks of `data` that were not checked yet.
        """
        self.path, self._fetch = path, fetch
        end = len(data) - _LENGTH
        size = int.from_bytes(data[end:], "little") if end > 0 else 0
        head = bytes(data[end - size : end]) if 0 < size <= end else b""
        try:
            described = json.loads(head) if is_sealed(head) else {}
            about, arrays = described["about"], described["arrays"]
            self.first, self.end, self.parts = about["first"], about["end"], about["parts"]
            nbytes = arrays[-1][2]
            numbers = all(type(number) is int for number in (self.first, self.end, nbytes))
            if not numbers or arrays != _layout(len(self), nbytes) or about["hash"] != HASH:
                raise ValueError("it is no index of keys")
            blocks = sum(_blocks(dtype, count) for _, dtype, count in arrays)
            whole = len(data) == blocks * (BLOCK + 4) + size + _LENGTH
            if not whole or nbytes < SPARE or not 0 <= self.first < self.end:
                raise ValueError("its arrays do not fit")
            self._sums = np.frombuffer(data, "<u4", blocks, blocks * BLOCK)
            if crc32c(self._sums) != described["sums"] or not isinstance(self.parts, dict):
                raise ValueError("its checksums differ")
        except (ValueError, RecursionError, TypeError, KeyError, IndexError):
            raise DamagedFile(path) from None
        self._data = np.frombuffer(data, np.uint8, blocks * BLOCK)
        self._checked = np.zeros(blocks, bool)
        self._starts: dict[str, int] = {}  # array -> its first block
        values, blocks = {}, 0
        for name, dtype, count in arrays:
            self._starts[name] = blocks
            values[name] = np.frombuffer(data, dtype, count, blocks * BLOCK)
            blocks += _blocks(dtype, count)
        self._hashes, self._rows = values[_HASHES], values[_ROWS]
        self.packed = PackedKeys(values[_KEYS], values[_OFFSETS])
        """the keys by row; valid once `check_all` has accepted them"""

    def __len__(self) -> int:
        return self.end - self.first

    def find(
        self,
        packed: PackedKeys,
        hashes: UInt64[np.ndarray, " all"],
        places: Int64[np.ndarray, " K"],
    ) -> Int64[np.ndarray, " K"]:
        """Return the row of the key at each of `places` of `packed` (hashes: `hashes`), -1 if it
        has none."""
        # a search for nearly
        order = np.argsort((hashes[places] >> _HIGH).astype(np.uint16), kind="stable")
        # rising hashes stays in the processor's cache, and takes a fifth of the time
        places = places[order]
        sought = hashes[places]
        if self._fetch:
            self._check(_HASHES, np.zeros(1, np.int64), np.array([len(self) - 1]))
        at = np.searchsorted(self._hashes, sought)
        before, here = np.maximum(at - 1, 0), np.minimum(at, len(self) - 1)
        self._check(_HASHES, before, here)
        if not np.all(
            ((at == 0) | (self._hashes[before] < sought))
            & ((at == len(self)) | (self._hashes[here] >= sought))
        ):  # a wrong byte misled the search
            raise DamagedFile(self.path)
        by_order = np.full(len(places), -1, np.int64)
        hits = np.flatnonzero((at < len(self)) & (self._hashes[here] == sought))
        rows = self._checked_rows(at[hits])
        same = self.packed.equal(rows, packed, places[hits])
        by_order[hits[same]] = self.first + rows[same]
        if not same.all():
            others = hits[~same]  # by chance there are none
            by_order[others] = self._among_equal(packed, places[others], sought[others])
        by_place = np.empty_like(by_order)
        by_place[order] = by_order
        return by_place

    def _among_equal(
        self, packed: PackedKeys, places: Int64[np.ndarray, " P"], sought: UInt64[np.ndarray, " P"]
    ) -> list[int]:
        """Return the row of each key, -1 if it has none, among all keys of its hash: as many as
        someone made."""
        rows_by_key: dict[tuple[int, bytes], int] = {}
        for number in np.unique(sought):
            low, high = (
                int(np.searchsorted(self._hashes, number, side)) for side in ("left", "right")
            )
            self._check(_HASHES, np.array([low]), np.array([min(high, len(self) - 1)]))
            rows = self._checked_rows(np.arange(low, high))
            keys = [(int(number), key) for key in self.packed.encoded(rows)]
            rows_by_key.update(zip(keys, (self.first + rows).tolist(), strict=True))
        pairs = zip(sought.tolist(), packed.encoded(places), strict=True)
        return [rows_by_key.get(pair, -1) for pair in pairs]

    def keys(self, rows: RowNumbers) -> list[str]:
        """Return the key of each of `rows`, all of this index."""
        places = rows - self.first
        self._check_keys(places)
        try:
            return self.packed.take(places)
        except UnicodeDecodeError:
            raise DamagedFile(self.path) from None

    def check_all(self) -> None:
        """Check every byte of the file, and that its rows and offsets lie in it; DamagedFile."""
        self._check_blocks(np.arange(len(self._sums)))
        for at in range(0, len(self), _RUN):
            self._checked_rows(np.arange(at, min(at + _RUN, len(self))))

    def _checked_rows(self, at: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        """Return the rows, relative to the first, of the hashes at `at`; these and their keys are
        checked."""
        self._check(_ROWS, at, at)
        rows = self._rows[at]
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise DamagedFile(self.path)
        self._check_keys(rows)
        return rows

    def _check_keys(self, places: Int64[np.ndarray, " P"]) -> None:
        """Check the keys at `places`; DamagedFile if one is damaged or not inside the file."""
        self._check(_OFFSETS, places, places + 1)
        starts, ends = self.packed.offsets[places], self.packed.offsets[places + 1]
        if (
            (starts < 0).any()
            or (ends < starts).any()
            or (ends > len(self.packed.data) - SPARE).any()
        ):
            raise DamagedFile(self.path)
        self._check(_KEYS, starts, np.maximum(ends - 1, starts))

    def _check(self, name: str, first: Int[np.ndarray, " P"], last: Int[np.ndarray, " P"]) -> None:
        """Check the elements from each `first` to its `last` of an array; DamagedFile if one
        differs."""
        if self._checked.all():
            return
        size = {_KEYS: 1}.get(name, _WORD)
        low = self._starts[name] + first * size // BLOCK
        high = self._starts[name] + (last * size + size - 1) // BLOCK
        count = len(self._sums)
        begun = np.bincount(low, minlength=count + 1) - np.bincount(high + 1, minlength=count + 1)
        self._check_blocks(np.flatnonzero(np.cumsum(begun)[:count] > 0))

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


def _layout(rows: int, nbytes: int) -> list[list[Any]]:
    """Return name, dtype and length of the arrays of a file of `rows` keys in `nbytes` bytes."""
    return [
        [_HASHES, "<u8", rows],
        [_ROWS, "<i8", rows],
        [_OFFSETS, "<i8", rows + 1],
        [_KEYS, "|u1", nbytes],
    ]


def _blocks(dtype: str, count: int) -> int:
    return -(-count * np.dtype(dtype).itemsize // BLOCK)


def open_index(path: Place) -> KeyIndex:
    """Open the index in `path`. FileNotFoundError; DamagedFile. Later ReplacedError if an object
    was replaced."""
    return KeyIndex(path, *path.pages(_end_bytes))


def _end_bytes(end: bytes, size: int) -> int:
    """Return the bytes after the blocks of a file of `size` bytes that ends with `end`."""
    head = int.from_bytes(end[-_LENGTH:], "little") + _LENGTH
    return min(size - (size - head) // (BLOCK + 4) * BLOCK, size) if head <= size else len(end)


def in_memory(path: Place, pieces: Iterator[Buffer]) -> KeyIndex:
    """Return the index that would be written to `path`, if writing is not possible."""
    return KeyIndex(path, b"".join(bytes(piece) for piece in pieces))


def built(first: int, keys: PackedKeys, parts: Mapping[str, str]) -> Iterator[Buffer]:
    """Yield the file of an index of `keys`, whose rows begin at `first`, read from `parts` (name ->
    seal)."""
    hashes = keys.hashes()
    rows = np.argsort(hashes, kind="stable")  # of equal hashes the first row comes first
    arrays, sums = _layout(len(keys), len(keys.data)), list[int]()
    for (_, dtype, _), values in zip(
        arrays, (hashes[rows], rows, keys.offsets, keys.data), strict=True
    ):
        data = np.ascontiguousarray(values, dtype).view(np.uint8).data
        whole = len(data) // BLOCK * BLOCK
        sums += (crc32c(data[at : at + BLOCK]) for at in range(0, whole, BLOCK))
        yield data[:whole]
        if whole < len(data):
            last = bytes(data[whole:]).ljust(BLOCK, b"\0")
            sums.append(crc32c(last))
            yield last
    table = np.array(sums, "<u4")
    yield table
    about = {"hash": HASH, "first": first, "end": first + len(keys), "parts": dict(parts)}
    head = seal(
        json.dumps(
            {"about": about, "arrays": arrays, "sums": crc32c(table), "seal": BLANK}
        ).encode()
    )
    yield head + len(head).to_bytes(_LENGTH, "little")
