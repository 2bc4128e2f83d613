"""The catalog of an entity: key -> row, and what is known of it.

Guarantees
- a row is given out once and never moves
- two appends at once never give a row twice
- opening a catalog reads no part until a row or a key is asked for
- what was asked before a fork can be asked after it
"""

import bisect
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int, Int64

from store import table
from store.commit import create_file
from store.errors import StoreError
from store.remote import Place

_DIGITS = 12


class Catalog:
    """The rows of one entity, as Parquet parts named by their first row."""

    def __init__(self, folder: Place) -> None:
        """The catalog whose parts lie in `folder`, which need not exist yet."""
        self.folder = folder
        self.entity = folder.name
        self._parts: tuple[str, ...] = ()
        self._length = 0
        self._frames: dict[str, pl.DataFrame] = {}  # part name -> the whole part
        self._rows: dict[str, int] = {}  # key -> row, of the first `_indexed` parts
        self._indexed = 0

    def parts(self) -> list[Place]:
        """The part files there are, by first row."""
        if not self.folder.is_dir():
            return []
        return sorted(part for part in self.folder.glob("*.parquet") if part.stem.isdecimal())

    def __len__(self) -> int:
        """Rows given out so far, by whichever process."""
        parts = self.parts()
        names = tuple(part.name for part in parts)
        if names != self._parts:
            self._length = first_row(parts[-1]) + table.read(parts[-1], ["row"]).height
            self._parts = names
        return self._length

    def frame(self) -> pl.DataFrame:
        """All rows in order: key, row, and every column that any part has (null elsewhere).

        Raises StoreError where a part is damaged or missing.
        """
        parts = self.parts()
        frames = [self.part(part) for part in parts]
        for part, row in zip(parts, _starts(frames), strict=False):
            if first_row(part) != row:
                raise StoreError(
                    f"catalog of {self.entity} has no part for rows {row} to {first_row(part) - 1}"
                    f" in {self.folder}: restore the missing file"
                )
        empty = pl.DataFrame(schema={"key": pl.String, "row": pl.Int64})
        return pl.concat([empty, *frames], how="diagonal_relaxed")

    def part(self, part: Place) -> pl.DataFrame:
        """The frame of one part; StoreError where it is damaged."""
        if part.name not in self._frames:
            self._frames[part.name] = table.read(part)
        return self._frames[part.name]

    def append(self, frame: pl.DataFrame) -> int:
        """Give rows to the keys of `frame` that have none, in its order; returns how many.

        Parameters: a frame with column `key` (text, unique) and any others but `row`.
        Raises StoreError on keys that are missing, empty or given twice.
        """
        frame = self._checked(frame)
        while True:
            known = self.frame()["key"]  # one look at the parts: what is known, and where it ends
            new = frame.filter(~pl.col("key").is_in(known.implode()))
            if not new.height:
                return 0
            row = len(known)
            data = table.encode(
                new.select(
                    "key",
                    pl.int_range(row, row + new.height, dtype=pl.Int64).alias("row"),
                    pl.exclude("key"),
                )
            )
            if create_file(self._path(row), [data], len(data)):
                return new.height

    def rows(self, keys: Sequence[str]) -> Int64[np.ndarray, " K"]:
        """The row of each key, -1 where there is none."""
        for part in self.parts()[self._indexed :]:
            self._rows.update(zip(self.part(part)["key"], itertools.count(first_row(part)), strict=False))
            self._indexed += 1
        return np.fromiter((self._rows.get(key, -1) for key in keys), np.int64, len(keys))

    def keys(self, rows: Int[np.ndarray, " K"]) -> list[str]:
        """The key of each row; StoreError where the catalog has no such row."""
        parts = self.parts()
        firsts = [first_row(part) for part in parts]
        keys = []
        for row in rows.tolist():
            at = bisect.bisect_right(firsts, row) - 1
            known = self.part(parts[at])["key"] if at >= 0 else ()
            if at < 0 or row - firsts[at] >= len(known):
                raise StoreError(f"no row {row} in the catalog of {self.entity} in {self.folder}")
            keys.append(known[row - firsts[at]])
        return keys

    def name(self, row: int) -> str:
        """The key of a row, for a message: `row N` where it cannot be told."""
        try:
            return self.keys(np.array([row]))[0]
        except StoreError:
            return f"row {row}"

    def _path(self, row: int) -> Place:
        return self.folder / f"{row:0{_DIGITS}d}.parquet"

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.schema.get("key") != pl.String:
            raise StoreError(f"{self.entity} need a text column `key`, got {list(frame.columns)}")
        if "row" in frame.columns:
            raise StoreError(f"column `row` of {self.entity} is the store's own: rename it")
        if frame["key"].null_count() or (frame["key"] == "").any():
            raise StoreError(f"a key of the {frame.height} {self.entity} to append is missing")
        if not frame["key"].is_unique().all():
            twice = frame.filter(pl.col("key").is_duplicated())["key"][0]
            raise StoreError(f"{self.entity} to append hold {twice!r} twice: keys are unique")
        return frame


def first_row(part: Place) -> int:
    """The first row of a part, from its name."""
    return int(part.stem)


def _starts(frames: Iterable[pl.DataFrame]) -> list[int]:
    """The first row of each frame, were they one after another."""
    return [0, *np.cumsum([frame.height for frame in frames]).tolist()]
