"""Key -> row for consecutive rows of a catalog, in one mapped file; and the files of a whole catalog.

The file contains the hash of every key, ascending; the row of each hash; and the keys by row, so that a hit is compared
with its key and a row gives its key. It names the parts of the catalog that it was built from, with their seals.

Guarantees
- a row is returned for its own key only: equal hashes, damage and a foreign index never return another
- an index that is lost, damaged or stale is rebuilt
- a key has the same hash on every machine and in every version: a file of hashes names HASH
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt8, UInt64

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from stepdiff.common.io.local import Buffer, Identity
from stepdiff.common.io.parquet_sizes import FREE_ROWS, ROWS_PER_BYTE
from stepdiff.common.io.remote import ReplacedError
from store.catalog.block_file import BlockFile, DamagedFile, encode, open_file
from store.catalog.parts import Parts, check_follows, first_row, read_part

HASH = "splitmix64 of length, then of state xor each little-endian word"
"""the hash function, as files name it"""
SPARE = 8
"""zero bytes after the last key, so that every key can be read by words"""
_WORD = 8  # bytes
_RUN = 2**20  # keys joined at a time
_CACHED = 2**13  # keys hashed or compared at a time: their words stay in the processor's cache
_HIGH = np.uint64(48)
"""bits of a hash below its highest 16"""
_HASHES, _ROWS, _OFFSETS, _KEYS = "hashes", "rows", "offsets", "keys"


@dataclass(frozen=True)
class PackedKeys:
    """K keys in UTF-8."""

    data: UInt8[np.ndarray, " bytes"]
    """the keys, one after another, and SPARE bytes"""
    offsets: Int64[np.ndarray, " ends"]
    """offset in `data` of each key, and of the end: K + 1 values"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, places: Int64[np.ndarray, " P"]) -> list[str]:
        """Return the keys at `places`."""
        data = self.data.data
        spans = zip(self.offsets[places].tolist(), self.offsets[places + 1].tolist(), strict=True)
        return [str(data[start:end], "utf-8") for start, end in spans]

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
            left, right = self._words(starts[batch], lengths[batch]), others._words(begins[batch], lengths[batch])
            for one, two in zip(left, right, strict=True):
                same[batch[: len(one)]] &= one == two
        return same

    def _words(self, starts: Int64[np.ndarray, " P"], lengths: Int64[np.ndarray, " P"]) -> Iterator[np.ndarray]:
        """Yield the first words of eight bytes of keys, then the second of those that have one, and so on.

        The keys begin at `starts`, the longest first. There are zeros after the end of a key.
        """
        words = np.ndarray(len(self.data) - _WORD + 1, f"V{_WORD}", self.data, strides=(1,))
        counts = -(-lengths // _WORD)
        most = int(counts.max(initial=0))
        longer = np.searchsorted(-counts, -np.arange(most + 1))  # keys of more than 0, 1, 2... words
        for number, (count, more) in enumerate(itertools.pairwise(longer.tolist())):
            word = words[starts[:count] + number * _WORD].view("<u8")
            spare = (number + 1) * _WORD - lengths[more:count]
            word[more:] &= np.uint64(2**64 - 1) >> (8 * spare).astype(np.uint64)
            yield word


def _longest_first(lengths: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
    """Return an order of keys in which those of more words come first."""
    fewer = lengths.max(initial=0) // _WORD + 1 - -(-lengths // _WORD)
    # numbers of 16 bits are sorted six times as fast
    return np.argsort(fewer.astype(np.uint16) if fewer.max(initial=0) < 2**16 else fewer, kind="stable")


def _mixed(state: UInt64[np.ndarray, " K"]) -> UInt64[np.ndarray, " K"]:
    """Return the next splitmix64 states: its constant step, then its finaliser."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def pack(keys: Sequence[str] | pl.Series) -> PackedKeys:
    """Return `keys`, packed. A lone surrogate, which no key of a catalog has, equals none."""
    if isinstance(keys, pl.Series):
        pieces = [keys.slice(at, _RUN).str.join("").item().encode() for at in range(0, len(keys), _RUN)]
        lengths = keys.str.len_bytes().to_numpy().astype(np.int64)
    else:
        pieces = ["".join(keys).encode(errors="surrogatepass")]
        lengths = np.fromiter(map(len, keys), np.int64, len(keys))
        if lengths.sum() != len(pieces[0]):  # not only ASCII
            lengths = np.array([len(key.encode(errors="surrogatepass")) for key in keys], np.int64)
    data = np.frombuffer(b"".join([*pieces, bytes(SPARE)]), np.uint8)
    return PackedKeys(data, np.concatenate([[0], np.cumsum(lengths)]))


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
        self._hashes, self._rows = file.arrays[_HASHES], file.arrays[_ROWS]
        self._keys = PackedKeys(file.arrays[_KEYS], file.arrays[_OFFSETS])

    def __len__(self) -> int:
        return self.end - self.first

    def find(
        self, wanted: PackedKeys, hashes: UInt64[np.ndarray, " all"], places: Int64[np.ndarray, " K"]
    ) -> Int64[np.ndarray, " K"]:
        """Return the row of the key at each of `places` of `wanted` (hashes: `hashes`), -1 where it has none."""
        order = np.argsort((hashes[places] >> _HIGH).astype(np.uint16), kind="stable")  # a search for nearly
        # rising hashes stays in the processor's cache, and takes a fifth of the time
        places = places[order]
        sought = hashes[places]
        self._file.load(_HASHES)
        at = np.searchsorted(self._hashes, sought)
        before, here = np.maximum(at - 1, 0), np.minimum(at, len(self) - 1)
        self._file.check(_HASHES, before, here)
        hits = (at < len(self)) & (self._hashes[here] == sought)
        if not np.all(
            ((at == 0) | (self._hashes[before] < sought)) & ((at == len(self)) | (self._hashes[here] >= sought))
        ):  # a wrong byte misled the search
            raise DamagedFile(self.path)
        rows_found = np.full(len(places), -1, np.int64)
        left = np.flatnonzero(hits)
        while len(left):  # more than once only where hashes are equal
            rows = self._row(at[left])
            same = self._keys.equal(rows, wanted, places[left])
            rows_found[left[same]] = self.first + rows[same]
            left = left[~same]
            at[left] += 1
            left = left[at[left] < len(self)]
            self._file.check(_HASHES, at[left], at[left])
            left = left[self._hashes[at[left]] == sought[left]]
        by_place = np.empty_like(rows_found)
        by_place[order] = rows_found
        return by_place

    def keys(self, rows: Int64[np.ndarray, " rows"]) -> list[str]:
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
        for at in range(0, len(self), _RUN):
            offsets = self._keys.offsets[at : at + _RUN + 1]
            self._check_offsets(offsets[:-1], offsets[1:])

    def _row(self, at: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
        """Return the rows, relative to the first, of the hashes at `at`; these and their keys are checked."""
        self._file.check(_ROWS, at, at)
        rows = self._rows[at]
        self._check_rows(rows)
        self._check_keys(rows)
        return rows

    def _check_keys(self, places: Int64[np.ndarray, " P"]) -> None:
        self._file.check(_OFFSETS, places, places + 1)
        starts, ends = self._keys.offsets[places], self._keys.offsets[places + 1]
        self._check_offsets(starts, ends)
        self._file.check(_KEYS, starts, np.maximum(ends - 1, starts))

    def _check_rows(self, rows: Int64[np.ndarray, " P"]) -> None:
        """Raise DamagedFile where a relative row is not of this index."""
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise DamagedFile(self.path)

    def _check_offsets(self, starts: Int64[np.ndarray, " P"], ends: Int64[np.ndarray, " P"]) -> None:
        """Raise DamagedFile where a key is not inside the file."""
        if (starts < 0).any() or (ends < starts).any() or (ends > len(self._keys.data) - SPARE).any():
            raise DamagedFile(self.path)


def _check_about(file: BlockFile) -> None:
    """Raise DamagedFile where `file` is not an index of keys, or its arrays have other lengths than it states."""
    first, end, parts = (file.about.get(name) for name in ("first", "end", "parts"))
    if type(first) is not int or type(end) is not int or not 0 <= first < end or not isinstance(parts, dict):
        raise DamagedFile(file.path)
    forms = {name: (array.dtype.str, len(array)) for name, array in file.arrays.items()}
    rows = end - first
    size = len(file.arrays.get(_KEYS, ()))
    expected = {_HASHES: ("<u8", rows), _ROWS: ("<i8", rows), _OFFSETS: ("<i8", rows + 1), _KEYS: ("|u1", size)}
    if forms != expected or size < SPARE:
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
    """Yield the file of one index of the rows of `indexes`, which are consecutive; DamagedFile where one is damaged.

    Memory for some runs of rows of mapped indexes, whatever they have; what is fetched from an object store stays.
    """
    for index in indexes:
        index.check_all()
    first, end = indexes[0].first, indexes[-1].end

    def hashes() -> Iterator[np.ndarray]:
        for pieces in _ranges(indexes):
            yield np.sort(np.concatenate([index._hashes[part] for index, part in pieces]))

    def rows() -> Iterator[np.ndarray]:
        for pieces in _ranges(indexes):
            order = np.argsort(np.concatenate([index._hashes[part] for index, part in pieces]), kind="stable")
            yield np.concatenate([index._rows[part] + (index.first - first) for index, part in pieces])[order]

    def offsets() -> Iterator[np.ndarray]:
        yield np.zeros(1, np.int64)
        start = 0
        for index in indexes:
            ends = index._keys.offsets
            yield from (ends[at : at + _RUN] + start for at in range(1, len(ends), _RUN))
            start += ends[-1]

    def keys() -> Iterator[np.ndarray]:
        for index in indexes:
            data = index._keys.data[: index._keys.offsets[-1]]
            yield from (data[at : at + _RUN] for at in range(0, len(data), _RUN))
        yield np.zeros(SPARE, np.uint8)

    parts = {name: seal for index in indexes for name, seal in index.parts.items()}
    return _encoded({_HASHES: hashes(), _ROWS: rows(), _OFFSETS: offsets(), _KEYS: keys()}, first, end, parts)


def _ranges(indexes: Sequence[KeyIndex]) -> Iterator[list[tuple[KeyIndex, slice]]]:
    """Yield the part of every index that has the hashes of a range, about _RUN in all, range by range."""
    count = -(-sum(map(len, indexes)) // _RUN)
    bounds = np.array([2**64 * place // count for place in range(1, count)], np.uint64)
    cuts = [[0, *np.searchsorted(index._hashes, bounds), len(index)] for index in indexes]
    for place in range(count):
        yield [(index, slice(own[place], own[place + 1])) for index, own in zip(indexes, cuts, strict=True)]


def _encoded(
    arrays: Mapping[str, Iterable[np.ndarray]], first: int, end: int, parts: Mapping[str, str]
) -> Iterator[Buffer]:
    return encode(arrays, {"hash": HASH, "first": first, "end": end, "parts": dict(parts)})


RATIO = 2  # 200 appends of 10,000 keys leave 3 files, and 100,000 keys take 44 ms; unmerged: 200 files, 468 ms
MOST_ROWS = 2**24
"""rows of an index that is merged from others: about 60 bytes of a file each"""
_GROUP = 2**22  # rows of small parts that are indexed together
_DIGITS = 12

Answer = TypeVar("Answer")
_Version = tuple[Place, Identity | None]


class KeyIndexes:
    """The indexes in the folder of a catalog, next to its parts. They work in a forked process.

    Indexes are merged like a log: each has at least RATIO times the rows of the next, so there are few of them, and a
    small append rewrites little. All can be rebuilt from the parts: one that is lost, damaged or built from other parts
    counts as missing. With 1,000,000 keys a look-up of 256 takes 1.2 ms (LMDB 0.4, sqlite3 2.5, sorted Parquet 59), of
    100,000 keys 27 ms (LMDB 85, Parquet 85, a join 98, sqlite3 953).
    """

    def __init__(self, folder: Place) -> None:
        """Open the indexes in `folder`, which need not exist yet."""
        self.folder = folder
        self._opened: dict[_Version, KeyIndex | None] = {}  # None: unusable
        self._kept: list[KeyIndex] = []  # in memory
        self._seals: dict[_Version, str] = {}
        self._parts: Parts = ()  # of the last look-up
        self._chain: list[KeyIndex] = []  # and the indexes of their rows, consecutive

    def find(self, parts: Parts, keys: Sequence[str] | pl.Series) -> Int64[np.ndarray, " K"]:
        """Return the row of each key, -1 where it has none. StepDiffError where parts to index are damaged or lost."""
        wanted = pack(keys)
        hashes = wanted.hashes()

        def look(chain: list[KeyIndex]) -> Int64[np.ndarray, " K"]:
            rows = np.full(len(wanted), -1, np.int64)
            for index in chain:
                left = np.flatnonzero(rows < 0)
                rows[left] = index.find(wanted, hashes, left)
            return rows

        return self._answered(parts, look)

    def keys(self, parts: Parts, rows: Int64[np.ndarray, " K"]) -> list[str]:
        """Return the key of each row. StepDiffError where a row does not exist, or as `find`."""

        def look(chain: list[KeyIndex]) -> list[str]:
            beyond = (rows < 0) | (rows >= _end(chain))
            if beyond.any():
                raise StepDiffError(f"no row {rows[beyond][0]} in the catalog of {self.folder.name} in {self.folder}")
            which = np.searchsorted([index.end for index in chain], rows, side="right")
            keys = np.empty(len(rows), object)
            for number in np.unique(which).tolist():
                here = which == number
                keys[here] = chain[number].keys(rows[here])
            return keys.tolist()

        return self._answered(parts, look)

    def end(self, parts: Parts) -> int:
        """Return the number of rows of `parts`, from the indexes or the last part; build no index."""
        end = _end(self._existing(self._seals_of(parts)))
        if parts and first_row(parts[-1]) >= end:
            end = first_row(parts[-1]) + read_part(parts[-1], ["row"]).height
        if end > FREE_ROWS:
            sizes: Mapping[Any, int] = self.folder.files()
            nbytes = sum(sizes.get(part, 0) for part in parts)
            if end > ROWS_PER_BYTE * nbytes:
                raise StepDiffError(f"{self.folder} has {end:,} rows by the names of its parts, in {nbytes:,} bytes")
        return end

    def make(self, parts: Parts) -> None:
        """Build the missing indexes of `parts`."""
        self._answered(parts, lambda chain: None)

    def sweep(self, parts: Parts) -> None:
        """Build the missing indexes of `parts`, and delete every other index."""
        self.make(parts)
        used = {index.path for index in self._chain}
        for path, _, _ in self._named():
            if path not in used:
                path.unlink(missing_ok=True)

    def _answered(self, parts: Parts, look: Callable[[list[KeyIndex]], Answer]) -> Answer:
        while True:  # ends: a damaged file is refused once and rebuilt
            try:
                if parts != self._parts:
                    self._chain, self._parts = self._covering(parts), parts
                return look(self._chain)
            except DamagedFile as error:
                self._opened[error.path, error.path.identity()] = None
                self._parts = ()
            except ReplacedError:  # another process merged it before all of it was read
                self._parts = ()

    def _covering(self, parts: Parts) -> list[KeyIndex]:
        """Return consecutive indexes of all rows of `parts`; build what is missing."""
        seals = self._seals_of(parts)
        chain = self._existing(seals)
        for keys, first, names in _read(parts, _end(chain)):
            self._add(chain, keys, first, {part.name: seals[part.name] for part in names})
        return chain

    def _add(self, chain: list[KeyIndex], keys: pl.Series, first: int, seals: dict[str, str]) -> None:
        """Append the index of `keys`, whose rows begin at `first`, to `chain`; merge small ones at its end into it."""
        end, rows = first + len(keys), len(keys)
        small: list[KeyIndex] = []
        while chain and len(chain[-1]) < RATIO * rows and len(chain[-1]) + rows <= MOST_ROWS:
            small.insert(0, chain.pop())
            rows += len(small[0])
        pieces = partial(built, first, pack(keys), seals)
        if small:
            small.append(in_memory(self._path(first, end), pieces()))
            first, pieces = small[0].first, partial(merged, small)
        chain.append(self._written(first, end, pieces))

    def _existing(self, seals: dict[str, str]) -> list[KeyIndex]:
        """Return the consecutive existing indexes of parts with those seals, from the first row on."""
        there = [index for index in (*self._files(), *self._kept) if index.parts.items() <= seals.items()]
        chain: list[KeyIndex] = []
        while following := [index for index in there if index.first == _end(chain)]:
            chain.append(max(following, key=len))
        return chain

    def _files(self) -> list[KeyIndex]:
        opened: dict[_Version, KeyIndex | None] = {}
        for name, now in sorted(self.folder.identities().items()):
            if not name.endswith(".keys"):
                continue
            version = self.folder / name, now
            try:
                opened[version] = self._opened[version] if version in self._opened else open_index(version[0])
            except DamagedFile:
                opened[version] = None
            except FileNotFoundError:  # another process merged it since it was listed
                return self._files()
        self._opened = opened
        return [index for index in opened.values() if index]

    def _seals_of(self, parts: Parts) -> dict[str, str]:
        there = self.folder.identities()
        versions = [(part, there.get(part.name)) for part in parts]
        new = [version for version in versions if version not in self._seals]
        self._seals |= zip(new, self.folder.map(table.written_seal, [part for part, _ in new]), strict=True)
        return {version[0].name: self._seals[version] for version in versions}

    def _written(self, first: int, end: int, pieces: Callable[[], Iterator[Buffer]]) -> KeyIndex:
        """Write the index of rows `first` to `end` - 1, or keep it in memory where it cannot be written."""
        path = self._path(first, end)
        try:
            path.put(pieces())
        except (DamagedFile, ReplacedError):
            raise
        except StepDiffError:  # a read-only folder, or a full disk
            self._kept = [kept for kept in self._kept if kept.first < first] + [in_memory(path, pieces())]
            return self._kept[-1]
        try:
            index = open_index(path)
        except FileNotFoundError:
            raise ReplacedError(f"{path} was merged into another at once") from None
        assert index is not None
        for other, low, high in self._named():
            if first <= low and high <= end and other != path:
                other.unlink(missing_ok=True)  # this one contains its rows
        return index

    def _named(self) -> Iterator[tuple[Place, int, int]]:
        """Yield the files with the name of an index: path, first row, end."""
        for path in self.folder.glob("*.keys"):
            first, _, end = path.stem.partition("-")
            if first.isdecimal() and end.isdecimal():
                yield path, int(first), int(end)

    def _path(self, first: int, end: int) -> Place:
        return self.folder / f"{first:0{_DIGITS}d}-{end:0{_DIGITS}d}.keys"


def _end(chain: Sequence[KeyIndex]) -> int:
    return chain[-1].end if chain else 0


def _read(parts: Parts, end: int) -> Iterator[tuple[pl.Series, int, list[Place]]]:
    """Yield the keys from row `end` on, their first row and their parts; many small parts at a time."""
    held: list[pl.Series] = []
    names: list[Place] = []
    first = end
    for part in parts:
        if first_row(part) < end:
            continue
        check_follows(part, end)
        held.append(read_part(part, ["key"])["key"])
        names.append(part)
        end += len(held[-1])
        if end - first >= _GROUP:
            yield pl.concat(held), first, names
            held, names, first = [], [], end
    if end > first:
        yield pl.concat(held), first, names
