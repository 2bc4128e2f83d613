"""Key -> row for consecutive rows of a catalog, in one mapped file.

The file contains the hash of every key, ascending; the row of each hash; and the keys by row, so that a hit is compared
with its key and a row gives its key. It names the parts of the catalog that it was built from, with their seals.

Guarantees
- a row is returned for its own key only: equal hashes, damage and a foreign index never return another
- no key is missed: the hashes around its place are checked
- a forged index is rebuilt: none of its offsets makes a compiled loop read outside the file
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64, UInt64

from common.io.local import Buffer
from common.io.places import Place
from store.catalog.block_file import BlockFile, DamagedFile, Pieces, encode, open_file
from store.catalog.keys import HASH, SPARE, PackedKeys

_HASHES, _ROWS, _OFFSETS, _KEYS = "hashes", "rows", "offsets", "keys"


class KeyIndex:
    """The index of rows `first` to `end` - 1."""

    def __init__(self, file: BlockFile) -> None:
        """Open the index in `file`; DamagedFile where its arrays do not fit together."""
        _check_about(file)
        self.path = file.path
        self.first: int = file.about["first"]
        self.end: int = file.about["end"]
        self.parts: dict[str, str] = file.about["parts"]
        """part of the catalog -> its seal when it was read"""
        self._file = file
        self._hashes, self._rows = file.array(_HASHES), file.array(_ROWS)
        self._keys = PackedKeys(file.array(_KEYS), file.array(_OFFSETS))

    def __len__(self) -> int:
        """Return rows of the index."""
        return self.end - self.first

    def find(
        self, wanted: PackedKeys, hashes: UInt64[np.ndarray, " all"], places: Int64[np.ndarray, " K"]
    ) -> Int64[np.ndarray, " K"]:
        """Return the row of the key at each of `places` of `wanted` (hashes: `hashes`), -1 where it has none."""
        from store.catalog import key_kernels  # imports numba: as slow as all other imports

        sought = hashes[places]
        self._file.load(_HASHES)
        at, hits = np.empty(len(places), np.int64), np.empty(len(places), bool)
        ascending = key_kernels.lower_bounds(self._hashes, sought, at, hits)
        self._file.check(_HASHES, np.maximum(at - 1, 0), np.minimum(at, len(self) - 1))
        if not ascending:  # a wrong byte misled the search
            raise DamagedFile(self.path)
        found = np.full(len(places), -1, np.int64)
        left = np.flatnonzero(hits)
        while len(left):  # more than once only where hashes are equal
            rows = self._row(at[left])
            same = self._keys.equal(rows, wanted, places[left])
            found[left[same]] = self.first + rows[same]
            left = left[~same]
            at[left] += 1
            left = left[(at[left] < len(self)) & (self._hash(at[left]) == sought[left])]
        return found

    def keys(self, rows: Int64[np.ndarray, " K"]) -> list[str]:
        """Return the key of each of `rows`, all of this index."""
        places = rows - self.first
        self._check_keys(places)
        try:
            return self._keys.take(places)
        except UnicodeDecodeError:
            raise DamagedFile(self.path) from None

    def check_all(self) -> None:
        """Check every byte of the file, and that its rows and offsets lie in it; DamagedFile."""
        self._file.check_all()
        self._check_rows(self._rows)
        self._check_offsets(self._keys.offsets[:-1], self._keys.offsets[1:])

    def _hash(self, at: Int64[np.ndarray, " P"]) -> UInt64[np.ndarray, " P"]:
        """Return the checked hashes at `at`, clipped to the array."""
        at = np.clip(at, 0, len(self) - 1)
        self._file.check(_HASHES, at, at)
        return self._hashes[at]

    def _row(self, at: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        """Return the rows, relative to the first, of the hashes at `at`; these and their keys are checked."""
        self._file.check(_ROWS, at, at)
        rows = self._rows[at]
        self._check_rows(rows)
        self._check_keys(rows)
        return rows

    def _check_keys(self, places: Int64[np.ndarray, " P"]) -> None:
        if not self._file.checked:  # faster than checking again
            self._file.check(_OFFSETS, places, places + 1)
        offsets = self._keys.offsets
        starts, ends = offsets[places], offsets[places + 1]
        self._check_offsets(starts, ends)
        if not self._file.checked:
            self._file.check(_KEYS, starts, np.maximum(ends - 1, starts))

    def _check_rows(self, rows: Int64[np.ndarray, " P"]) -> None:
        """Raise DamagedFile where a relative row is not of this index: a compiled loop would read there."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise DamagedFile(self.path)

    def _check_offsets(self, starts: Int64[np.ndarray, " P"], ends: Int64[np.ndarray, " P"]) -> None:
        """Raise DamagedFile where a key is not inside the file."""
        if (starts < 0).any() or (ends < starts).any() or (ends > len(self._keys.data) - SPARE).any():
            raise DamagedFile(self.path)


def _check_about(file: BlockFile) -> None:
    """Raise DamagedFile where `file` is not an index of keys, or its arrays have other lengths than it states."""
    first, end, parts = (file.about.get(name) for name in ("first", "end", "parts"))
    arrays = [file.arrays.get(name) for name in (_HASHES, _ROWS, _OFFSETS, _KEYS)]
    if (
        type(first) is not int
        or type(end) is not int
        or not 0 <= first < end
        or not isinstance(parts, dict)
        or any(array is None for array in arrays)
        or [array.dtype.str for array in arrays if array is not None] != ["<u8", "<i8", "<i8", "|u1"]
        or [len(array) for array in arrays[:3] if array is not None] != [end - first, end - first, end - first + 1]
        or len(file.arrays[_KEYS]) < SPARE
    ):
        raise DamagedFile(file.path)


def open_index(path: Place) -> KeyIndex | None:
    """Open the index in `path`; None where it uses another hash. FileNotFoundError; DamagedFile."""
    file = open_file(path)
    return KeyIndex(file) if file.about.get("hash") == HASH else None


def in_memory(path: Place, pieces: Iterator[Buffer]) -> KeyIndex:
    """Return the index that would be written to `path`, where that is not possible."""
    return KeyIndex(BlockFile(path, b"".join(bytes(piece) for piece in pieces)))


def built(first: int, keys: PackedKeys, parts: Mapping[str, str]) -> Iterator[Buffer]:
    """Yield the file of an index of `keys`, whose rows begin at `first`, read from `parts` (name -> seal)."""
    hashes = keys.hashes()
    rows = np.argsort(hashes, kind="stable")  # of equal hashes the first row comes first
    arrays = {_HASHES: [hashes[rows]], _ROWS: [rows], _OFFSETS: [keys.offsets], _KEYS: [keys.data]}
    return _encoded(arrays, first, first + len(keys), parts)


def merged(indexes: Sequence[KeyIndex]) -> Iterator[Buffer]:
    """Yield the file of one index of the rows of `indexes`, which are consecutive; DamagedFile where one is damaged."""
    for index in indexes:
        index.check_all()
    first = indexes[0].first
    last = indexes[-1]
    hashes, rows = last._hashes, last._rows + (last.first - first)
    for index in reversed(indexes[:-1]):
        places = np.searchsorted(index._hashes, hashes, side="right")
        hashes = np.insert(index._hashes, places, hashes)
        rows = np.insert(index._rows + (index.first - first), places, rows)
    offsets, keys, size = [np.zeros(1, np.int64)], [], 0
    for index in indexes:
        offsets.append(index._keys.offsets[1:] + size)
        keys.append(index._keys.data[: index._keys.offsets[-1]])
        size += len(keys[-1])
    keys.append(np.zeros(SPARE, np.uint8))
    parts = {name: seal for index in indexes for name, seal in index.parts.items()}
    return _encoded({_HASHES: [hashes], _ROWS: [rows], _OFFSETS: offsets, _KEYS: keys}, first, last.end, parts)


def _encoded(arrays: Mapping[str, Pieces], first: int, end: int, parts: Mapping[str, str]) -> Iterator[Buffer]:
    return encode(arrays, {"hash": HASH, "first": first, "end": end, "parts": dict(parts)})
