"""One part of a catalog: a Parquet file whose columns `key` and `row` are checked whenever they are read.

Guarantees
- a part of the catalog has the rows of its name, and keys that are all text, or is refused
"""

from collections.abc import Sequence

import polars as pl

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.remote import Place
from store.catalog.parts import first_row, rows_of_merged


def read_part(part: Place, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the part's rows: `key`, `row` and the other columns; of `columns`, if given, those that it has.

    Raises:
        StepDiffError: the file is damaged, or no part of a catalog with that name.
    """
    wanted = None if columns is None else ["row", *(name for name in columns if name != "row")]
    frame = table.read(part, wanted, strict=False)
    refuse = f"{part} is no part of a catalog"
    if frame.schema.get("row") != pl.Int64 or not frame.height:
        raise StepDiffError(
            f"{refuse} (column `row` is {frame.schema.get('row')}, {frame.height} rows): restore the file"
        )
    if "key" in frame.columns and (frame.schema["key"] != pl.String or frame["key"].null_count()):
        raise StepDiffError(f"column `key` of {part} is not all text: restore the file")
    if (columns is None or "key" in columns) and "key" not in frame.columns:
        raise StepDiffError(f"{refuse} (it has no column `key`): restore the file")
    first, merged = first_row(part), rows_of_merged(part)
    rows = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
    if not frame["row"].eq_missing(rows).all() or merged not in (0, frame.height):
        raise StepDiffError(f"{refuse} (its rows are not {first} and following, as its name says): restore the file")
    return frame if columns is None else frame.select([n for n in dict.fromkeys(columns) if n in frame.columns])
