"""The catalog of an entity: key -> row, and what is known of it.

Guarantees
- a row is given out once and never moves
- two appends at once never give a row twice
- opening a catalog reads no part until a row or a key is asked for
- what is asked about keys and rows reads indexes, not parts, so that it costs what is asked
- what was asked before a fork can be asked after it
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int, Int64

from store import table
from store.commit import create_file
from store.errors import StoreError
from store.key_indexes import KeyIndexes
from store.layout import first_row

_DIGITS = 12


class Catalog:
    """The rows of one entity, as Parquet parts named by their first row."""

    def __init__(self, folder: Path) -> None:
        """The catalog whose parts lie in `folder`, which need not exist yet."""
        self.folder = folder
        self.entity = folder.name
        self._indexes = KeyIndexes(folder)
        self._counted: tuple[tuple[Path, ...], int] = ((), 0)  # the parts there were, and their rows

    def parts(self) -> tuple[Path, ...]:
        """The part files there are, by first row."""
        return tuple(sorted(part for part in self.folder.glob("*.parquet") if part.stem.isdecimal()))

    def __len__(self) -> int:
        """Rows given out so far, by whichever process."""
        parts = self.parts()
        if parts != self._counted[0]:
            self._counted = parts, self._indexes.end(parts)
        return self._counted[1]

    def scan(self) -> pl.LazyFrame:
        """All rows in order, lazily: key, row, and every column that any part has (null elsewhere).

        Raises StoreError where a part is damaged or missing.
        """
        parts = self.parts()
        frames = [table.scan(part) for part in parts]
        row = 0
        for part, frame in zip(parts, frames, strict=True):
            if first_row(part) != row:
                raise StoreError(
                    f"catalog of {self.entity} has no part for rows {row} to {first_row(part) - 1}"
                    f" in {self.folder}: restore the missing file"
                )
            row += frame.select(pl.len()).collect().item()
        empty = pl.LazyFrame(schema={"key": pl.String, "row": pl.Int64})
        return pl.concat([empty, *frames], how="diagonal_relaxed")

    def frame(self) -> pl.DataFrame:
        """`scan`, all of it in memory; raises as it does."""
        return self.scan().collect()

    def append(self, frame: pl.DataFrame) -> int:
        """Give rows to the keys of `frame` that have none, in its order; returns how many.

        Parameters: a frame with column `key` (text, unique) and any others but `row`.
        Raises StoreError on keys that are missing, empty or given twice.
        """
        frame = self._checked(frame)
        while True:
            parts = self.parts()  # one look at them: what is known, and where it ends
            known = self._indexes.find(parts, frame["key"]) >= 0
            new = frame.filter(pl.Series(~known, dtype=pl.Boolean))
            if not new.height:
                return 0
            row = self._indexes.end(parts)
            data = table.encode(
                new.select(
                    "key",
                    pl.int_range(row, row + new.height, dtype=pl.Int64).alias("row"),
                    pl.exclude("key"),
                )
            )
            if create_file(self._path(row), [data], len(data)):
                self._indexes.make(self.parts())
                return new.height

    def rows(self, keys: Sequence[str] | pl.Series) -> Int64[np.ndarray, " K"]:
        """The row of each key, -1 where there is none.

        Raises StoreError where a part is damaged or missing that no index covers.
        """
        return self._indexes.find(self.parts(), keys)

    def keys(self, rows: Int[np.ndarray, " K"]) -> list[str]:
        """The key of each row; StoreError where the catalog has no such row, and as `rows`."""
        return self._indexes.keys(self.parts(), rows.astype(np.int64, copy=False))

    def name(self, row: int) -> str:
        """The key of a row, for a message: `row N` where it cannot be told."""
        try:
            return self.keys(np.array([row]))[0]
        except StoreError:
            return f"row {row}"

    def _path(self, row: int) -> Path:
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
