"""The catalog of an entity: key -> row, and metadata of each row.

Guarantees
- a row is assigned once and never moves; its metadata may be updated
- two concurrent appends never assign the same row
- look-ups of keys and rows read indexes, not parts, so that their cost depends on the number of keys
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place, place
from store.catalog.key_index import KeyIndexes, pack
from store.catalog.parts import (
    MOST_ROWS,
    Parts,
    check_follows,
    current_parts,
    first_row,
    is_part,
    part_name,
    read_part,
    with_ends,
)
from store.format.layout import refuse_snapshot

Answer = TypeVar("Answer")
BLOCK = 2**18
"""rows of a block of a catalog"""
MOST_BYTES = 4096
"""of a key or a path in UTF-8: the longest path of Linux"""
MOST_SECONDS = 1e9
"""of a start or end, which are below: 31 years. Times in milliseconds or since 1970 are above"""
MOST_EQUAL = 64
"""keys of one hash in one piece: look-ups compare all of them, and by chance there are not two"""


class Catalog:
    """The rows of one entity, in Parquet parts named by their first row."""

    def __init__(self, folder: Path | Place) -> None:
        """Open the catalog in `folder`, which need not exist yet."""
        self.folder = place(folder)
        self.entity = self.folder.name
        self._indexes = KeyIndexes(self.folder)
        self._counted: tuple[Parts, int] = ((), 0)  # the parts, and their rows
        self._dtypes: dict[str, Any] = {}  # of columns, as far as an append had to know them

    def parts(self) -> Parts:
        """Return the part files that together contain every row once, by first row."""
        return current_parts(part for part in self.folder.glob("*.parquet") if is_part(part))

    def __len__(self) -> int:
        """Return the number of rows, including those that other processes have appended."""
        return self._settled(self._count)

    def _count(self, parts: Parts) -> int:
        if parts != self._counted[0]:
            self._counted = parts, self._indexes.end(parts)
        return self._counted[1]

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return all rows in order: key, row, and every column that any part has (null elsewhere).

        With `columns`, only those. Raises StepDiffError where a part is damaged or missing.
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
        return frame if columns is None else frame.select(name for name in columns if name in frame.columns)

    def schema(self) -> dict[str, Any]:
        """Return the columns that any part has, with dtypes that hold the values of every part."""
        frames = self._settled(lambda parts: [pl.DataFrame(schema=table.schema(part)) for part in parts])
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
                block = _like(read_part(current, ["row", *like.columns]), like).filter(pl.col("row") >= row)
            except StepDiffError:
                if current in self.parts():
                    raise
                continue  # it was merged into another part
            read = current
            if len(block):
                yield from block.iter_slices(BLOCK)
                row = int(block["row"][-1]) + 1

    def select(self, rows: Int[np.ndarray, " K"], like: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return `row` and other columns of K rows in the order of the catalog, reading only the parts that hold them.

        Args:
            rows: row numbers, in any order; -1 and unknown rows are left out.
            like: an empty frame with the wanted columns. A column that no part has is null; a value of another dtype
                is cast, and is null where that is not possible. By default all columns that those parts have.
        """
        return self._settled(lambda parts: self._select(parts, rows, like))

    def _select(self, parts: Parts, rows: Int[np.ndarray, " K"], like: pl.DataFrame | None) -> pl.DataFrame:
        frames = [pl.DataFrame(schema={"row": pl.Int64(), **({"key": pl.String()} if like is None else like.schema)})]
        wanted = np.unique(rows[rows >= 0])
        columns = None if like is None else ["row", *like.columns]
        for part, end in with_ends(parts):
            here = pl.Series(wanted[slice(*np.searchsorted(wanted, (first_row(part), end)))])
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
        """Raise StepDiffError where a column has a type that does not go together with that of the catalog."""
        if set(frame.columns) - self._dtypes.keys():
            self._dtypes |= self.schema()
        for name, dtype in frame.schema.items():
            if not _go_together(known := self._dtypes.get(name, dtype), dtype):
                raise StepDiffError(
                    f"column {name!r} of {self.entity} is {known} in the catalog and {dtype} here: give values "
                    "of its type, or another name"
                )

    def _append(self, frame: pl.DataFrame) -> int:
        while True:
            # one look at the parts: what is known, and where it ends
            known, row = self._settled(lambda parts: (self._indexes.find(parts, frame["key"]) >= 0, self._count(parts)))
            new = frame.filter(pl.Series(~known, dtype=pl.Boolean))
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
        Raises StepDiffError on keys as `append` does, and on values whose type does not fit the column.
        """
        table.check_threads("update a catalog")
        refuse_snapshot(self.folder.parent.parent)
        frame = self._checked(frame)
        names = [name for name in frame.columns if name != "key"]
        rows = self.rows(frame["key"])
        known = frame.with_columns(row=pl.Series(rows)).filter(pl.col("row") >= 0)
        changed = 0
        for part, end in with_ends(self.parts()):
            here = known.filter(pl.col("row").is_between(first_row(part), end, closed="left"))
            if here.height and names:
                changed += self._rewrite(part, here, names)
        if changed:
            self.index()
        return changed

    def _rewrite(self, part: Place, known: pl.DataFrame, names: Sequence[str]) -> int:
        """Update one part; leave it alone where nothing changes."""
        old = read_part(part)
        try:
            new = pl.concat([old, known.select("row", *names).clear()], how="diagonal_relaxed")
            update = pl.concat([new.clear().select("row", *names), known.select("row", *names)], how="vertical_relaxed")
            new = new.update(update, on="row", how="left")
        except pl.exceptions.PolarsError as error:
            raise StepDiffError(f"{part} cannot take the new metadata ({error}): give values of its type") from error
        before = old.with_columns(pl.lit(None).alias(name) for name in names if name not in old.columns)
        same = pl.all_horizontal(pl.Series(new[name].eq_missing(before[name].cast(new[name].dtype))) for name in names)
        changed = new.height - int(new.select(same)[:, 0].sum())
        if changed:
            data = table.encode(new)
            part.put([data], len(data))
        return changed

    def rows(self, keys: Sequence[str] | pl.Series) -> Int64[np.ndarray, " K"]:
        """Return the row of each key, -1 where it has none.

        Raises StepDiffError where a part that no index covers is damaged or missing.
        """
        return self._settled(lambda parts: self._indexes.find(parts, keys))

    def keys(self, rows: Int[np.ndarray, " K"]) -> list[str]:
        """Return the key of each row; StepDiffError where the catalog has no such row, and as `rows`."""
        return self._settled(lambda parts: self._indexes.keys(parts, rows.astype(np.int64, copy=False)))

    def name(self, row: int) -> str:
        """Return the key of a row for a message, `row N` where it is not known."""
        try:
            return self.keys(np.array([row]))[0]
        except StepDiffError:
            return f"row {row}"

    def index(self) -> None:
        """Index the rows that no index has yet."""
        self._settled(self._indexes.make)

    def sweep(self) -> None:
        """Index as `index` does, and delete the indexes of merged parts."""
        self._settled(self._indexes.sweep)

    def _settled(self, read: Callable[[Parts], Answer]) -> Answer:
        """Return `read(parts)`; repeat it where a part was merged into another meanwhile."""
        while True:
            parts = self.parts()
            try:
                return read(parts)
            except StepDiffError:
                if self.parts() == parts:
                    raise

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.schema.get("key") != pl.String:
            raise StepDiffError(f"{self.entity} need a text column `key`; they have {list(frame.columns)}")
        if "row" in frame.columns:
            raise StepDiffError(f"column `row` of {self.entity} is reserved by the store: rename it")
        if frame["key"].null_count() or (frame["key"] == "").any():
            raise StepDiffError(f"a key of the {frame.height} {self.entity} to append is missing")
        if not frame["key"].is_unique().all():
            twice = frame.filter(pl.col("key").is_duplicated())["key"][0]
            raise StepDiffError(f"{self.entity} to append contain {twice!r} twice: keys are unique")
        check_rows(frame, f"the {self.entity} to append")
        return frame


def check_rows(frame: pl.DataFrame, where: str, first: int = 0) -> None:
    """Raise StepDiffError, naming the row, where a key, path or time is none that a catalog takes.

    Every way into a catalog has this check: manifests, imports and appends. Rows that a catalog has are not checked
    again. The first row of the frame is number `first` of `where`.
    """

    def refuse(wrong: pl.Series, column: pl.Series, why: str, remedy: str) -> None:
        if at := wrong.fill_null(False).arg_true()[:1].to_list():
            value = str(column[at[0]])
            shown = repr(value if len(value) <= 40 else f"{value[:40]}...")
            raise StepDiffError(f"row {first + at[0]} of {where} has {column.name} {shown}, {why}: {remedy}")

    for name, dtype in frame.schema.items():
        column = frame[name]
        if name in ("key", "clip", "video") and dtype == pl.String:
            column = column.fill_null("")
            refuse(column.str.len_bytes() > MOST_BYTES, column, f"of more than {MOST_BYTES:,} bytes", "shorten it")
            refuse(column.str.contains("\0", literal=True), column, "with a NUL character", "remove it")
            if name != "video" and _has_equal_hashes(column) and _has_equal_hashes(column.unique()):
                raise StepDiffError(f"{where} has keys that were made to have one hash: give others")
        elif name in ("start", "end") and (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.String):
            seconds = column.cast(pl.Float64, strict=False)
            wrong = seconds.abs() >= MOST_SECONDS  # NaN too, which Polars orders after all numbers
            refuse(wrong, column, "not a time in a video", f"give seconds below {MOST_SECONDS:,.0f}, or null")


def _has_equal_hashes(keys: pl.Series) -> bool:
    """Return whether more than MOST_EQUAL keys, equal ones too, have one hash."""
    hashes = np.sort(pack(keys).hashes())
    return bool((hashes[MOST_EQUAL:] == hashes[:-MOST_EQUAL]).any())


def _like(frame: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """Return `row` and the columns of `like`: null where the frame has none, or a value that cannot be cast."""
    dtypes = {"row": pl.Int64(), **like.schema}
    padded = frame.with_columns(pl.lit(None).alias(name) for name in dtypes if name not in frame.columns)
    return padded.select(pl.col(name).cast(dtype, strict=False) for name, dtype in dtypes.items())


def _go_together(one: Any, other: Any) -> bool:
    """Return whether values of both dtypes can be in one column; numbers and texts are, as text."""
    both = {one.base_type(), other.base_type()}
    plain = all(kind.is_numeric() or kind in (pl.String, pl.Boolean) for kind in both)
    if len(both) > 1 and not (plain or pl.Null in both or both <= {pl.String, pl.Categorical, pl.Enum}):
        return False
    try:
        pl.concat((pl.DataFrame(schema={"x": dtype}) for dtype in (one, other)), how="vertical_relaxed")
    except pl.exceptions.PolarsError:
        return False
    return True


FOLDER = "forgotten"
_COLUMNS = {"row": pl.Int64, "key": pl.String, "reason": pl.String}


def forgotten_path(store: Place, entity: str) -> Place:
    """Return the path of the list of an entity."""
    return store / FOLDER / f"{entity}.parquet"


def read_forgotten(store: Place, entity: str) -> pl.DataFrame:
    """Return row, key and reason of the forgotten rows, by row. StepDiffError where the list is damaged.

    Their status is absent in every view, and no writer fills them until they are recalled. They keep their numbers and
    their places in the catalog, because rows never move.
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
    data = table.encode(frame.select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items()).sort("row"))
    path.put([data], len(data))


def are_forgotten(store: Place, entity: str, rows: Int[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Return which of K rows are forgotten."""
    return np.isin(rows, read_forgotten(store, entity)["row"].to_numpy())


def refuse_forgotten(store: Place, entity: str, rows: Int[np.ndarray, " K"], name: Callable[[int], str]) -> None:
    """Raise StepDiffError that names the first forgotten row, if any of K rows is; `name` returns the key of a row."""
    gone = rows[are_forgotten(store, entity, rows)]
    if len(gone):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise StepDiffError(
            f"{name(int(gone[0]))}{more} of {entity} was forgotten: leave it out, or recall it with python -m store "
            "forget --undo"
        )
