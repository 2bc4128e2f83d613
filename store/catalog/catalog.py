"""The catalog of an entity: key -> row, and metadata of each row.

Its parts are Parquet files: `FIRST.parquet` when appended, `FIRST-END.parquet` when merged. A
merged part has the rows FIRST to END - 1 of its sources and hides them from the moment it has its
name, so that while they are deleted, and after a kill, every row is in one current part.

Key indexes lie next to the parts. All can be rebuilt from them. They work in a forked process.

Guarantees
- a row is assigned once and never moves; its metadata may be updated
- two concurrent appends never assign the same row
- look-ups of keys and rows read indexes, not parts, so that their cost depends on the number of
  keys
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt64

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import Place, place
from stepdiff_core.io.local import Identity
from stepdiff_core.io.remote import ReplacedError
from store.catalog.key_index import (
    DamagedFile,
    KeyIndex,
    PackedKeys,
    built,
    in_memory,
    joined,
    open_index,
    pack,
)
from store.format.layout import refuse_snapshot
from store.provenance import RowNumbers

Answer = TypeVar("Answer")
BLOCK = 2**18
"""rows of a block of a catalog"""
MOST_BYTES = 4096
"""of a key or a path in UTF-8: the longest path of Linux"""
MOST_SECONDS = 1e9
"""of a start or end, which are below: 31 years. Times in milliseconds or since 1970 are above"""


MOST_ROWS = 2**20
"""rows of a part, which is written and read in one piece"""
RATIO = 2
"""200 appends of 10,000 keys leave 3 indexes, and 100,000 keys take 44 ms; an index each: 468 ms"""
MOST_INDEXED = 2**23
"""rows of an index, which is sorted in memory: about 60 bytes of a file each"""
_DIGITS = 12
_ROWS_PER_BYTE = 8  # of parts: keys differ from row to row, and take a bit at least
_NAME = re.compile(rf"([0-9]{{{_DIGITS}}})(?:-([0-9]{{{_DIGITS}}}))?\.parquet")
Parts = tuple[Place, ...]
_Version = tuple[Place, Identity | None]


def part_name(first: int, end: int | None = None) -> str:
    """Return the name of a part that begins with row `first`; with `end`, of a merged one that ends
    before it."""
    return (
        f"{first:0{_DIGITS}d}.parquet"
        if end is None
        else f"{first:0{_DIGITS}d}-{end:0{_DIGITS}d}.parquet"
    )


def span_of(path: Place) -> tuple[int, int] | None:
    """Return the first row of a part and the row after a merged part, else the first again; None
    for other files."""
    name = _NAME.fullmatch(path.name)
    return (int(name[1]), int(name[2] or name[1])) if name else None


def first_row(part: Place) -> int:
    """Return the first row of a part, from its name."""
    return int(part.stem.split("-")[0])


def check_follows(part: Place, row: int) -> None:
    """Raise StepDiffError if a part does not begin with `row`."""
    if first_row(part) != row:
        raise StepDiffError(
            f"catalog of {part.parent.name} has no part for rows {row} to {first_row(part) - 1} in "
            f"{part.parent}: restore the missing file"
        )


def with_ends(parts: Parts) -> Iterator[tuple[Place, int]]:
    """Yield each part and the first row after it."""
    return zip(parts, [*(first_row(part) for part in parts[1:]), 2**63 - 1], strict=False)


def rows_of_merged(part: Place) -> int:
    """Return the number of rows of a merged part, from its name; 0 for another part."""
    first, end = span_of(part) or (0, 0)
    return end - first


def read_part(part: Place, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the part's rows: `key`, `row` and the other columns; of `columns`, if given, those
    that it has.

    Raises:
        StepDiffError: the file is damaged, or no part of a catalog with that name.
    """
    names = None if columns is None else ["row", *(name for name in columns if name != "row")]
    frame = table.read(part, names, strict=False)
    first, count = first_row(part), frame.height
    rows = pl.int_range(first, first + count, dtype=pl.Int64, eager=True)
    why = None
    if frame.schema.get("row") != pl.Int64 or not count:
        why = f"column `row` is {frame.schema.get('row')}, {count} rows"
    elif (columns is None or "key" in columns) and "key" not in frame.columns:
        why = "it has no column `key`"
    elif "key" in frame.columns and (frame.schema["key"] != pl.String or frame["key"].null_count()):
        why = "column `key` is not all text"
    elif not frame["row"].eq_missing(rows).all() or rows_of_merged(part) not in (0, count):
        why = f"its rows do not begin at {first} and follow one another"
    if why is not None:
        raise StepDiffError(f"{part} is not a part of a catalog ({why}): restore the file")
    return (
        frame
        if columns is None
        else frame.select([n for n in dict.fromkeys(columns) if n in frame.columns])
    )


def _unindexed(parts: Parts, end: int) -> Iterator[tuple[pl.Series, int, list[str]]]:
    """Yield the keys from row `end` on, their first row and the names of their parts; many small
    parts at a time."""
    held: list[pl.Series] = []
    names: list[str] = []
    first = end
    for part in parts:
        if first_row(part) < end:
            continue
        check_follows(part, end)
        held.append(read_part(part, ["key"])["key"])
        names.append(part.name)
        end += len(held[-1])
        if end - first >= MOST_ROWS:
            yield pl.concat(held), first, names
            held, names, first = [], [], end
    if end > first:
        yield pl.concat(held), first, names


class Catalog:
    """The rows of one entity, in Parquet parts named by their first row."""

    def __init__(self, folder: Path | Place) -> None:
        """Open the catalog in `folder`, which need not exist yet."""
        self.folder = place(folder)
        self.entity = self.folder.name
        self._counted: tuple[Parts, int] = ((), 0)  # the parts, and their rows
        # the parts, and the indexes of their rows, consecutive
        self._indexed: tuple[Parts, list[KeyIndex]] = ((), [])
        self._opened: dict[_Version, KeyIndex | None] = {}  # None: unusable
        self._seals: dict[_Version, str] = {}
        self._dtypes: dict[str, Any] = {}  # of columns, as far as an append had to know them

    def parts(self) -> Parts:
        """Return the part files that together contain every row once, by first row."""
        current: list[Place] = []
        rows = 0  # in merged parts so far
        spans = [(*span, part) for part in self.folder.glob("*.parquet") if (span := span_of(part))]
        for first, end, part in sorted(spans, key=lambda span: (span[0], -span[1])):
            if first >= rows:
                current.append(part)
                rows = max(rows, end)
        return tuple(current)

    def __len__(self) -> int:
        """Return the number of rows, including those that other processes have appended."""
        return self._settled(self._count)

    def _count(self, parts: Parts) -> int:
        """Return the number of rows of `parts`, from the indexes or the last part; build no
        index."""
        if parts != self._counted[0]:
            end = max((index.end for index in self._existing(parts)[0]), default=0)
            if parts and first_row(parts[-1]) >= end:
                end = first_row(parts[-1]) + read_part(parts[-1], ["row"]).height
            if end > MOST_ROWS:
                sizes: Mapping[Any, int] = self.folder.files()
                nbytes = sum(sizes.get(part, 0) for part in parts)
                if end > _ROWS_PER_BYTE * nbytes:
                    raise StepDiffError(
                        f"{self.folder} has {end:,} rows by the names of its parts, in {nbytes:,} "
                        "bytes"
                    )
            self._counted = parts, end
        return self._counted[1]

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return all rows in order: key, row, and every column that any part has (null elsewhere).

        With `columns`, only those. Raises StepDiffError if a part is damaged or missing.
        """
        return self._settled(lambda parts: self._frame(parts, columns))

    def _frame(self, parts: Parts, columns: Sequence[str] | None) -> pl.DataFrame:
        frames = [pl.DataFrame(schema={"key": pl.String, "row": pl.Int64})]
        row = 0
        for part in parts:
            check_follows(part, row)
            frames.append(read_part(part, None if columns is None else ["row", *columns]))
            row += len(frames[-1])
        frame = pl.concat(frames, how="diagonal_relaxed")
        return (
            frame
            if columns is None
            else frame.select(name for name in columns if name in frame.columns)
        )

    def schema(self) -> dict[str, Any]:
        """Return the columns that any part has, with dtypes that hold the values of every part."""
        frames = self._settled(
            lambda parts: [pl.DataFrame(schema=table.schema(part)) for part in parts]
        )
        return dict(pl.concat(frames, how="diagonal_relaxed").schema) if frames else {}

    def blocks(self, like: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield `row` and other columns of all rows in order, at most BLOCK at a time.

        Args:
            like: an empty frame with the wanted columns, as in `select`.
        """
        row, read = 0, None
        while True:
            parts = self.parts()
            current = next((part for part in reversed(parts) if first_row(part) <= row), None)
            if current in (None, read):  # nothing is left in it
                if parts and first_row(parts[-1]) > row:
                    check_follows(next(part for part in parts if first_row(part) > row), row)
                return
            try:
                block = _like(read_part(current, ["row", *like.columns]), like).filter(
                    pl.col("row") >= row
                )
            except StepDiffError:
                if current in self.parts():
                    raise
                continue  # it was merged into another part
            read = current
            if len(block):
                yield from block.iter_slices(BLOCK)
                row = int(block["row"][-1]) + 1

    def select(self, rows: RowNumbers, like: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return `row` and other columns of R rows in the order of the catalog, reading only the
        parts that hold them.

        Args:
            rows: row numbers, in any order; -1 and unknown rows are left out.
            like: an empty frame with the wanted columns. A column that no part has is null; a value
                of another dtype is cast, and is null if that is not possible. By default all
                columns that those parts have.
        """
        return self._settled(lambda parts: self._select(parts, rows, like))

    def _select(self, parts: Parts, rows: RowNumbers, like: pl.DataFrame | None) -> pl.DataFrame:
        frames = [
            pl.DataFrame(
                schema={
                    "row": pl.Int64(),
                    **({"key": pl.String()} if like is None else like.schema),
                }
            )
        ]
        numbers = np.unique(rows[rows >= 0])
        columns = None if like is None else ["row", *like.columns]
        for part, end in with_ends(parts):
            here = pl.Series(numbers[slice(*np.searchsorted(numbers, (first_row(part), end)))])
            if len(here):
                where = pl.col("row").is_in(here.implode())
                frame = table.copied(table.read(part, columns, strict=False, where=where))
                frames.append(frame if like is None else _like(frame, like))
        return pl.concat(frames, how="diagonal_relaxed")

    def append(self, frame: pl.DataFrame) -> int:
        """Assign rows to the new keys of `frame`, in its order; return how many.

        `frame` has a column `key` (text, unique) and any others except `row`.
        Raises StepDiffError on keys that are missing, empty or duplicated.
        """
        table.check_threads("append to a catalog")
        refuse_snapshot(self.folder.parent.parent)
        self._check_dtypes(frame)
        return sum(map(self._append, self._checked(frame).iter_slices(MOST_ROWS)))

    def _check_dtypes(self, frame: pl.DataFrame) -> None:
        """Raise StepDiffError if the type of a column does not fit the catalog's."""
        if set(frame.columns) - self._dtypes.keys():
            self._dtypes |= self.schema()
        for name, dtype in frame.schema.items():
            if not _go_together(before := self._dtypes.get(name, dtype), dtype):
                raise StepDiffError(
                    f"column {name!r} of {self.entity} is {before} in the catalog and {dtype} "
                    "here: give values of its type, or another name"
                )

    def _append(self, frame: pl.DataFrame) -> int:
        keys = pack(frame["key"])
        hashes = keys.hashes()
        while True:
            # one look at the parts: what is known, and where it ends
            existing, row = self._settled(
                lambda parts: (self._find(parts, keys, hashes) >= 0, self._count(parts))
            )
            new = frame.filter(pl.Series(~existing, dtype=pl.Boolean))
            if not new.height:
                return 0
            data = table.encode(
                new.select(
                    "key",
                    pl.int_range(row, row + new.height, dtype=pl.Int64).alias("row"),
                    pl.exclude("key"),
                )
            )
            part = self.folder / part_name(row)
            # a merged part with the same rows hides the new one: then try again
            if part.create([data], len(data)) and part in self.parts():
                self.index()
                return new.height

    def update(self, frame: pl.DataFrame) -> int:
        """Update the metadata of existing keys; return the number of rows that changed.

        Nulls and missing columns change nothing. The caller holds the store's lock.
        Raises StepDiffError on keys as `append` does, and on values whose type does not fit the
        column.
        """
        table.check_threads("update a catalog")
        refuse_snapshot(self.folder.parent.parent)
        frame = self._checked(frame)
        names = [name for name in frame.columns if name != "key"]
        rows = self.rows(frame["key"])
        updates = frame.with_columns(row=pl.Series(rows)).filter(pl.col("row") >= 0)
        changed = 0
        for part, end in with_ends(self.parts()):
            here = updates.filter(pl.col("row").is_between(first_row(part), end, closed="left"))
            if here.height and names:
                changed += self._rewrite(part, here, names)
        if changed:
            self.index()
        return changed

    def _rewrite(self, part: Place, updates: pl.DataFrame, names: Sequence[str]) -> int:
        """Update one part; leave it alone if nothing changes."""
        old = read_part(part)
        try:
            new = pl.concat([old, updates.select("row", *names).clear()], how="diagonal_relaxed")
            update = pl.concat(
                [new.clear().select("row", *names), updates.select("row", *names)],
                how="vertical_relaxed",
            )
            new = new.update(update, on="row", how="left")
        except pl.exceptions.PolarsError as error:
            raise StepDiffError(
                f"{part} cannot take the new metadata ({error}): give values of its type"
            ) from error
        before = old.with_columns(
            pl.lit(None).alias(name) for name in names if name not in old.columns
        )
        same = pl.all_horizontal(
            pl.Series(new[name].eq_missing(before[name].cast(new[name].dtype))) for name in names
        )
        changed = new.height - int(new.select(same)[:, 0].sum())
        if changed:
            data = table.encode(new)
            part.put([data], len(data))
        return changed

    def rows(self, keys: Sequence[str] | pl.Series) -> RowNumbers:
        """Return the row of each key, -1 if it has none.

        Raises StepDiffError if a part that no index covers is damaged or missing.
        """
        packed = pack(keys)
        hashes = packed.hashes()
        return self._settled(lambda parts: self._find(parts, packed, hashes))

    def keys(self, rows: RowNumbers) -> list[str]:
        """Return the key of each row; StepDiffError if the catalog has no such row, and as
        `rows`."""
        return self._settled(lambda parts: self._keys(parts, rows.astype(np.int64, copy=False)))

    def name(self, row: int) -> str:
        """Return the key of a row for a message, `row N` if it is not known."""
        try:
            return self.keys(np.array([row]))[0]
        except StepDiffError:
            return f"row {row}"

    def index(self) -> None:
        """Index the rows that no index has yet."""
        self._settled(self._indexes)

    def sweep(self) -> None:
        """Index as `index` does, and delete the indexes of merged parts."""
        used = {index.path for index in self._settled(self._indexes)}
        for path in self.folder.glob("*.keys"):
            if path not in used:
                path.unlink(missing_ok=True)

    def _settled(self, read: Callable[[Parts], Answer]) -> Answer:
        """Return `read(parts)`; repeat it if a part or an index was replaced meanwhile, or an index
        is damaged."""
        while True:
            parts = self.parts()
            try:
                return read(parts)
            except DamagedFile as error:  # it is refused once, and rebuilt
                self._opened[error.path, error.path.identity()] = None
                self._indexed = (), []
            except ReplacedError:  # before all of the index was read
                self._indexed = (), []
            except StepDiffError:
                if self.parts() == parts:
                    raise

    def _find(
        self, parts: Parts, packed: PackedKeys, hashes: UInt64[np.ndarray, " K"]
    ) -> Int64[np.ndarray, " K"]:
        rows = np.full(len(packed), -1, np.int64)
        for index in self._indexes(parts):
            places = np.flatnonzero(rows < 0)
            rows[places] = index.find(packed, hashes, places)
        return rows

    def _keys(self, parts: Parts, rows: RowNumbers) -> list[str]:
        indexes = self._indexes(parts)
        ends = [index.end for index in indexes]
        beyond = (rows < 0) | (rows >= max(ends, default=0))
        if beyond.any():
            raise StepDiffError(
                f"no row {rows[beyond][0]} in the catalog of {self.entity} in {self.folder}"
            )
        which = np.searchsorted(ends, rows, side="right")
        keys = np.empty(len(rows), object)
        for number in np.unique(which).tolist():
            here = which == number
            keys[here] = indexes[number].keys(rows[here])
        return keys.tolist()

    def _indexes(self, parts: Parts) -> list[KeyIndex]:
        """Return consecutive indexes of all rows of `parts`; build those that are missing, damaged
        or of other parts.

        An index is of new keys and of those indexes before them that have less than RATIO times as
        many, so that there are few indexes and a small append rewrites little.
        """
        if parts == self._indexed[0]:
            return self._indexed[1]
        indexes, seals = self._existing(parts)
        for keys, first, names in _unindexed(parts, indexes[-1].end if indexes else 0):
            part_seals, packed, rows = (
                {name: seals[name] for name in names},
                [pack(keys)],
                len(keys),
            )
            while (
                indexes
                and len(indexes[-1]) < RATIO * rows
                and len(indexes[-1]) + rows <= MOST_INDEXED
            ):
                last = indexes.pop()
                last.check_all()
                packed.insert(0, last.packed)
                first, rows, part_seals = last.first, rows + len(last), last.parts | part_seals
            indexes.append(self._write_index(first, joined(packed), part_seals))
        self._indexed = parts, indexes
        return indexes

    def _existing(self, parts: Parts) -> tuple[list[KeyIndex], dict[str, str]]:
        """Return the consecutive existing indexes of `parts`, from the first row on, and the seal
        of each part."""
        there = self.folder.identities()
        versions = [(part, there.get(part.name)) for part in parts]
        new = [version for version in versions if version not in self._seals]
        self._seals |= zip(
            new, self.folder.map(table.written_seal, [part for part, _ in new]), strict=True
        )
        seals = {version[0].name: self._seals[version] for version in versions}
        opened: dict[_Version, KeyIndex | None] = {}
        for version in [
            (self.folder / name, now)
            for name, now in sorted(there.items())
            if name.endswith(".keys")
        ]:
            try:
                opened[version] = (
                    self._opened[version] if version in self._opened else open_index(version[0])
                )
            except DamagedFile:
                opened[version] = None
            except FileNotFoundError:  # another process replaced it since it was listed
                return self._existing(parts)
        self._opened = opened
        # the second: also those that could not be written
        every = (*opened.values(), *self._indexed[1])
        usable = [index for index in every if index and index.parts.items() <= seals.items()]
        indexes, end = list[KeyIndex](), 0
        while following := [index for index in usable if index.first == end]:
            indexes.append(max(following, key=len))
            end = indexes[-1].end
        return indexes, seals

    def _write_index(self, first: int, keys: PackedKeys, seals: dict[str, str]) -> KeyIndex:
        """Write the index of rows from `first` on, or keep it in memory if it cannot be written."""
        end = first + len(keys)
        path = self.folder / f"{first:0{_DIGITS}d}-{end:0{_DIGITS}d}.keys"
        try:
            path.put(built(first, keys, seals))
        except StepDiffError:  # a read-only folder, or a full disk
            return in_memory(path, built(first, keys, seals))
        try:
            index = open_index(path)
        except FileNotFoundError:
            raise ReplacedError(f"{path} was merged into another at once") from None
        for other in self.folder.glob("*.keys"):
            low, _, high = other.stem.partition("-")
            if (
                low.isdecimal()
                and high.isdecimal()
                and first <= int(low)
                and int(high) <= end
                and other != path
            ):
                other.unlink(missing_ok=True)  # this one contains its rows
        return index

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.schema.get("key") != pl.String:
            raise StepDiffError(
                f"{self.entity} need a text column `key`; they have {list(frame.columns)}"
            )
        if "row" in frame.columns:
            raise StepDiffError(
                f"column `row` of {self.entity} is reserved by the store: rename it"
            )
        if frame["key"].null_count() or (frame["key"] == "").any():
            raise StepDiffError(f"a key of the {frame.height} {self.entity} to append is missing")
        if not frame["key"].is_unique().all():
            twice = frame.filter(pl.col("key").is_duplicated())["key"][0]
            raise StepDiffError(f"{self.entity} to append contain {twice!r} twice: keys are unique")
        check_rows(frame, f"the {self.entity} to append")
        return frame


def check_rows(frame: pl.DataFrame, where: str, first: int = 0) -> None:
    """Raise StepDiffError, naming the row, if a catalog cannot take its key, path or time.

    Every way into a catalog has this check: manifests, imports and appends. Rows that a catalog has
    are not checked again. The first row of the frame is number `first` of `where`.
    """

    def refuse(wrong: pl.Series, column: pl.Series, why: str, remedy: str) -> None:
        if at := wrong.fill_null(False).arg_true()[:1].to_list():
            value = str(column[at[0]])
            shown = repr(value if len(value) <= 40 else f"{value[:40]}...")
            raise StepDiffError(
                f"row {first + at[0]} of {where} has {column.name} {shown}, {why}: {remedy}"
            )

    for name, dtype in frame.schema.items():
        column = frame[name]
        if name in ("key", "clip", "video") and dtype == pl.String:
            column = column.fill_null("")
            refuse(
                column.str.len_bytes() > MOST_BYTES,
                column,
                f"of more than {MOST_BYTES:,} bytes",
                "shorten it",
            )
            refuse(
                column.str.contains("\0", literal=True), column, "with a NUL character", "remove it"
            )
        elif name in ("start", "end") and (
            dtype.is_numeric() or dtype.is_temporal() or dtype == pl.String
        ):
            seconds = column.cast(pl.Float64, strict=False)
            wrong = seconds.abs() >= MOST_SECONDS  # NaN too, which Polars orders after all numbers
            refuse(
                wrong,
                column,
                "not a time in a video",
                f"give seconds below {MOST_SECONDS:,.0f}, or null",
            )


def _like(frame: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """Return `row` and the columns of `like`: null if the frame has none, or a value that cannot be
    cast."""
    dtypes = {"row": pl.Int64(), **like.schema}
    padded = frame.with_columns(
        pl.lit(None).alias(name) for name in dtypes if name not in frame.columns
    )
    return padded.select(pl.col(name).cast(dtype, strict=False) for name, dtype in dtypes.items())


def _go_together(one: Any, other: Any) -> bool:
    """Return whether values of both dtypes can be in one column; numbers and texts are, as text."""
    both = {one.base_type(), other.base_type()}
    plain = all(kind.is_numeric() or kind in (pl.String, pl.Boolean) for kind in both)
    if len(both) > 1 and not (
        plain or pl.Null in both or both <= {pl.String, pl.Categorical, pl.Enum}
    ):
        return False
    try:
        pl.concat(
            (pl.DataFrame(schema={"x": dtype}) for dtype in (one, other)), how="vertical_relaxed"
        )
    except pl.exceptions.PolarsError:
        return False
    return True


FOLDER = "forgotten"
_COLUMNS = {"row": pl.Int64, "key": pl.String, "reason": pl.String}


def forgotten_path(store: Place, entity: str) -> Place:
    """Return the path of the list of an entity."""
    return store / FOLDER / f"{entity}.parquet"


def read_forgotten(store: Place, entity: str) -> pl.DataFrame:
    """Return row, key and reason of the forgotten rows, by row. StepDiffError if the list is
    damaged.

    Their status is absent in every view, and no writer fills them until they are recalled. They
    keep their numbers and their places in the catalog, because rows never move.
    """
    path = forgotten_path(store, entity)
    if not path.exists():
        return pl.DataFrame(schema=_COLUMNS)
    frame = table.read(path)
    if dict(frame.schema) != _COLUMNS or frame["row"].null_count():
        raise StepDiffError(f"{path} is no list of forgotten rows: restore the file")
    return frame.sort("row")


def write_forgotten(store: Place, entity: str, frame: pl.DataFrame) -> None:
    """Replace the list of an entity. The caller holds the store's lock."""
    path = forgotten_path(store, entity)
    path.parent.make_folder()
    data = table.encode(
        frame.select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items()).sort("row")
    )
    path.put([data], len(data))


def are_forgotten(store: Place, entity: str, rows: RowNumbers) -> Bool[np.ndarray, " R"]:
    """Return which of R rows are forgotten."""
    return np.isin(rows, read_forgotten(store, entity)["row"].to_numpy())


def refuse_forgotten(
    store: Place, entity: str, rows: RowNumbers, name: Callable[[int], str]
) -> None:
    """Raise StepDiffError that names the first forgotten row, if any of R rows is; `name` returns
    the key of a row."""
    gone = rows[are_forgotten(store, entity, rows)]
    if len(gone):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise StepDiffError(
            f"{name(int(gone[0]))}{more} of {entity} was forgotten: leave it out, or recall it "
            "with python -m store forget --undo"
        )
