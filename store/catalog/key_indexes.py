"""The key indexes of a catalog, next to its parts.

Indexes are merged like a log: each has at least RATIO times the rows of the next, so there are few of them, and a
small append rewrites little. Beyond MOST_ROWS they are not merged: a merge writes all their rows again. All can be
rebuilt from the parts: one that is lost, damaged or built from other parts counts as missing. Measured with 1,000,000
keys: look-up of 256 keys 1.2 ms, LMDB 0.4, sqlite3 2.5, sorted Parquet 59 (CPU time); of 100,000 keys 27 ms, LMDB 85,
Parquet 85, a join 98, sqlite3 953. None of the files checks its bytes, and only Parquet is read in an object store.
Loops of numba took less, and a second at a process's first look-up, where this takes 7 ms.

Guarantees
- an index that is lost, damaged or stale is rebuilt, and never returns a wrong row
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Int64

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from stepdiff.common.io.local import Buffer, Identity
from stepdiff.common.io.parquet_sizes import FREE_ROWS, ROWS_PER_BYTE
from stepdiff.common.io.remote import ReplacedError
from store.catalog.block_file import DamagedFile
from store.catalog.key_index import KeyIndex, built, in_memory, merged, open_index, pack
from store.catalog.parts import Parts, check_follows, first_row, read_part

RATIO = 2  # 200 appends of 10,000 keys leave 3 files, and 100,000 keys take 44 ms; unmerged: 200 files, 468 ms
MOST_ROWS = 2**24
"""rows of an index that is merged from others: about 60 bytes of a file each"""
_GROUP = 2**22  # rows of small parts that are indexed together
_DIGITS = 12

Answer = TypeVar("Answer")
_Version = tuple[Place, Identity | None]


class KeyIndexes:
    """The indexes in the folder of a catalog. They work in a forked process."""

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
