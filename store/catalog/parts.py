"""The part files of a catalog: `FIRST.parquet` when appended, `FIRST-END.parquet` when merged.

A merged part has the rows FIRST to END - 1 of its sources and hides them from the moment it has its name, so that
while they are deleted, and after a kill, every row is in one current part.

Guarantees
- each row is in exactly one current part, whichever files of a merge exist
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place

MOST_ROWS = 2**20
"""rows of a part, which is written and read in one piece"""
_DIGITS = 12
_NAME = re.compile(rf"[0-9]{{{_DIGITS}}}(-[0-9]{{{_DIGITS}}})?\.parquet")
Parts = tuple[Place, ...]


def part_name(first: int, end: int | None = None) -> str:
    """Return the name of a part that begins with row `first`; with `end`, of a merged one that ends before it."""
    return f"{first:0{_DIGITS}d}.parquet" if end is None else f"{first:0{_DIGITS}d}-{end:0{_DIGITS}d}.parquet"


def is_part(path: Place) -> bool:
    """Return whether a file has the name of a part."""
    return _NAME.fullmatch(path.name) is not None


def first_row(part: Place) -> int:
    """Return the first row of a part, from its name."""
    return int(part.stem.split("-")[0])


def check_follows(part: Place, row: int) -> None:
    """Raise StepDiffError where a part does not begin with `row`."""
    if first_row(part) != row:
        raise StepDiffError(
            f"catalog of {part.parent.name} has no part for rows {row} to {first_row(part) - 1} in {part.parent}: "
            "restore the missing file"
        )


def with_ends(parts: Parts) -> Iterator[tuple[Place, int]]:
    """Yield each part and the first row after it."""
    return zip(parts, [*(first_row(part) for part in parts[1:]), 2**63 - 1], strict=False)


def rows_of_merged(part: Place) -> int:
    """Return the number of rows of a merged part, from its name; 0 for another part."""
    return _end(part) - first_row(part)


def current_parts(parts: Iterable[Place]) -> Parts:
    """Return the parts that were not merged into another, by first row."""
    current: list[Place] = []
    end = 0  # of the rows in merged parts so far
    for part in sorted(parts, key=lambda part: (first_row(part), -_end(part))):
        if first_row(part) >= end:
            current.append(part)
            end = max(end, _end(part))
    return tuple(current)


def _end(part: Place) -> int:
    """Return the row after the last of a merged part; the first row of another part."""
    return int(part.stem.split("-")[-1])


def read_part(part: Place, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the part's rows: `key`, `row` and the other columns; of `columns`, if given, those that it has.

    Raises:
        StepDiffError: the file is damaged, or no part of a catalog with that name.
    """
    wanted = None if columns is None else ["row", *(name for name in columns if name != "row")]
    frame = table.read(part, wanted, strict=False)
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
    return frame if columns is None else frame.select([n for n in dict.fromkeys(columns) if n in frame.columns])
