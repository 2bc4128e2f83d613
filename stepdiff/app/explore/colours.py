"""The colour of each clip of a map: a code for its value in a column, and the legend of the codes.

The conditions of the legend select the clips that it counts.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int32

from retrieval.queries.condition import DURATION, read_condition
from stepdiff.app.explore.maps import Shown
from stepdiff.app.site import UnknownError
from stepdiff.common.errors import StepDiffError

CATEGORIES = 8  # values with a colour of their own; code CATEGORIES is that of all others
SHADES = 256  # steps of the ramp for numbers
MISSING = -1  # code of a clip without a value
_HIDDEN = ("key", "row", "video_digest")
Kind = Literal["text", "numbers"]


@dataclass(frozen=True)
class Entry:
    """A value of the legend."""

    label: str
    count: int
    where: str  # the condition that selects it


@dataclass(frozen=True)
class Legend:
    """What the codes of a map mean."""

    column: str | None
    kind: Kind | None
    entries: tuple[Entry, ...] = ()  # code n is entry n
    others: int = 0
    missing: int = 0
    low: float | None = None  # value of shade 0, and of all below it
    high: float | None = None  # value of the last shade, and of all above it


def columns_of(like: pl.DataFrame) -> dict[str, Kind]:
    """Return the columns of a frame that can be a colour and be sorted, with the duration where it can be computed."""
    columns: dict[str, Kind] = {}
    for name, dtype in like.schema.items():
        if name not in _HIDDEN and (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Categorical)):
            columns[name] = "numbers" if dtype.is_numeric() else "text"
    if {"start", "end"} <= set(like.columns) and DURATION not in like.columns:
        columns[DURATION] = "numbers"
    return columns


def values_of(shown: Shown, column: str) -> pl.Series:
    """Return a column of a map's clips. UnknownError lists those that exist."""
    if column not in ("key", *(names := columns_of(shown.like))):
        raise UnknownError(f"no column {column[:100]!r}: the columns are {', '.join(names)}")
    if column == DURATION and DURATION not in shown.like.columns:
        return shown.read("start", "end").select((pl.col("end") - pl.col("start")).alias(DURATION))[DURATION]
    return shown.read(column)[column]


def default_colour(shown: Shown) -> str | None:
    """Return the column that colours a map at first: the step, or another text with few values."""
    for name in ("step", *(column for column, kind in columns_of(shown.like).items() if kind == "text")):
        most = max(50, len(shown.map.rows) // 20)
        if name in shown.like.columns and 1 < shown.read(name)[name].n_unique() <= most:
            return name
    return None


def colours(shown: Shown, column: str | None) -> tuple[Legend, Int32[np.ndarray, " clips"]]:
    """Return the legend of a column and the code of each clip. Raises UnknownError as `values_of`."""
    if column is None:
        return Legend(None, None), np.zeros(len(shown.map.rows), np.int32)
    values = values_of(shown, column)
    return _shades(column, values) if values.dtype.is_numeric() else _categories(column, values)


def _categories(column: str, values: pl.Series) -> tuple[Legend, Int32[np.ndarray, " clips"]]:
    values = values.alias("value")
    counts = values.drop_nulls().value_counts().sort(["count", "value"], descending=[True, False])
    best = counts.head(CATEGORIES)
    entries = tuple(Entry(str(value), count, _condition(column, value)) for value, count in best.iter_rows())
    known = pl.DataFrame({"value": best["value"], "code": pl.Series(range(best.height), dtype=pl.Int32)})
    joined = values.to_frame().join(known, on="value", how="left", maintain_order="left")
    code = pl.when(pl.col("value").is_null()).then(MISSING).otherwise(pl.col("code").fill_null(CATEGORIES))
    codes = joined.select(code.cast(pl.Int32).alias("code"))["code"].to_numpy()
    others = int(counts["count"].sum()) - sum(entry.count for entry in entries)
    return Legend(column, "text", entries, others, values.null_count()), codes


def _condition(column: str, value: object) -> str:
    name = _written(column)
    if isinstance(value, bool):
        return f"{name} = {str(value).upper()}"
    text = str(value).replace("'", "''")
    return f"{name} = '{text}'"


def _written(column: str) -> str:
    """Return a column's name as a condition writes it: in quotes where it would be read as something else."""
    try:
        if column.isidentifier() and read_condition(f"{column} = 1").columns == {column}:
            return column
    except StepDiffError:  # a word of SQL
        pass
    return '"' + column.replace('"', '""') + '"'


def _shades(column: str, values: pl.Series) -> tuple[Legend, Int32[np.ndarray, " clips"]]:
    numbers = values.cast(pl.Float64).to_numpy()
    good = np.isfinite(numbers)
    codes = np.full(len(numbers), MISSING, np.int32)
    if not good.any():
        return Legend(column, "numbers", missing=len(numbers)), codes
    low, high = (float(value) for value in np.quantile(numbers[good], [0.01, 0.99]))
    if low == high:
        low, high = float(numbers[good].min()), float(numbers[good].max())
    scaled = np.clip((numbers[good] - low) / ((high - low) or 1), 0, 1)
    codes[good] = np.round(scaled * (SHADES - 1))
    return Legend(column, "numbers", missing=int((~good).sum()), low=low, high=high), codes
