"""The clips of a map: which are chosen, by a condition, by words or by a lasso, and the colour of
each.

A colour is a code for the value in a column; the conditions of the legend select the clips that it
counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int32

from retrieval.queries.condition import DURATION, parts_of, places_where, read_condition
from stepdiff.app.explore.maps import Shown
from stepdiff.app.site import RefusedError, UnknownError
from stepdiff_core.errors import StepDiffError

MOST_CORNERS = 200  # of a lasso
MOST_WORDS = 20
_NOT_SEARCHED = ("video_digest",)
Mask = Bool[np.ndarray, " clips"]
CATEGORIES = 8  # values with a colour of their own; code CATEGORIES is that of all others
SHADES = 256  # steps of the ramp for numbers
MISSING = -1  # code of a clip without a value
_HIDDEN = ("key", "row", "video_digest")
Kind = Literal["text", "numbers"]


def passing(shown: Shown, where: str, words: str) -> tuple[Mask, str | None]:
    """Return the clips of a map that have `where` and `words`, and if there are none, the part that
    excluded all.

    Args:
        where: A condition as `retrieval query --where` takes it, or nothing.
        words: Each must be in a text column as it is written, in upper or lower case.
    """
    parts: list[tuple[str, Mask]] = []
    if where.strip():
        whole = _where(shown, where)
        parts = [
            (part, whole if part == where.strip() else _where(shown, part))
            for part in parts_of(where)
        ]
    parts += [(f"the word {word!r}", _containing(shown, word)) for word in _words(words)]
    mask = np.logical_and.reduce([np.ones(len(shown.map.rows), bool), *(mask for _, mask in parts)])
    return mask, None if mask.any() or not parts else excluded(parts)


def excluded(parts: Sequence[tuple[str, Mask]]) -> str:
    """Return which part of a filter excluded everything, in one line; together they select
    nothing."""
    alone = [name for name, mask in parts if not mask.any()]
    if alone:
        return f"no clip has {' and none has '.join(alone)}"
    passing_all = np.ones_like(parts[0][1])
    for at, (name, mask) in enumerate(parts):
        if not (passing_all & mask).any():
            before = " AND ".join(other for other, _ in parts[:at])
            return (
                f"{before} selects {_count(passing_all)}, {name} selects {_count(mask)}, and no "
                "clip has both"
            )
        passing_all &= mask
    raise AssertionError("the parts select clips")


def inside(xy: Float32[np.ndarray, "clips 2"], corners: Sequence[tuple[float, float]]) -> Mask:
    """Return which points are inside a polygon, by the even-odd rule."""
    from matplotlib.path import Path

    return Path(np.reshape(np.array(corners, np.float64), (-1, 2))).contains_points(xy)


def read_lasso(text: str) -> list[tuple[float, float]]:
    """Return the corners of `x,y,x,y,...`. StepDiffError if it is not such a list."""
    try:
        numbers = [float(number) for number in text.split(",")] if text else []
    except ValueError:
        numbers = [float("nan")]
    if len(numbers) % 2 or len(numbers) > 2 * MOST_CORNERS or not np.isfinite(numbers).all():
        raise StepDiffError(
            f"the lasso is not a list x,y,x,y,... of at most {MOST_CORNERS} corners: draw it again"
        )
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _where(shown: Shown, where: str) -> Mask:
    try:
        condition = read_condition(where, "the filter")
        places_where(shown.like, condition)  # refuses unknown columns, and values of another type
    except StepDiffError as error:
        text, columns = str(error), ", ".join([*shown.like.drop("row").columns, DURATION])
        text = text if columns in text else f"{text}; the catalog has {columns}"
        raise RefusedError(text, 400, field="where") from None
    needed = {"row", *condition.columns} | (
        {"start", "end"} if DURATION in condition.columns else set()
    )
    mask = np.zeros(len(shown.map.rows), bool)
    mask[
        places_where(
            shown.read(*(name for name in shown.like.columns if name in needed)), condition
        )
    ] = True
    return mask


def _words(text: str) -> list[str]:
    words = list(dict.fromkeys(text.split()))
    if len(words) > MOST_WORDS:
        raise RefusedError(
            f"the search has {len(words)} words: give at most {MOST_WORDS}", 400, field="words"
        )
    return words


def _containing(shown: Shown, word: str) -> Mask:
    texts = [
        name
        for name, dtype in shown.like.schema.items()
        if dtype == pl.String and name not in _NOT_SEARCHED
    ]
    pattern = f"(?i){pl.escape_regex(word)}"
    has = [pl.col(name).str.contains(pattern).fill_null(False) for name in texts]
    matches = shown.scan().select(pl.any_horizontal(has).alias("has")).collect(engine="streaming")
    return matches["has"].to_numpy().copy()


def _count(mask: Mask) -> str:
    count = int(np.count_nonzero(mask))
    return "1 clip" if count == 1 else f"{count:,} clips"


@dataclass(frozen=True)
class LegendEntry:
    """A value of the legend."""

    label: str
    count: int
    where: str  # the condition that selects it


@dataclass(frozen=True)
class Legend:
    """The meaning of the codes of a map."""

    column: str | None
    kind: Kind | None
    entries: tuple[LegendEntry, ...] = ()  # code n is entry n
    others: int = 0
    missing: int = 0
    low: float | None = None  # value of shade 0, and of all below it
    high: float | None = None  # value of the last shade, and of all above it


def columns_of(like: pl.DataFrame) -> dict[str, Kind]:
    """Return the columns of a frame that can be a colour and be sorted, with the duration if it can
    be computed."""
    columns: dict[str, Kind] = {}
    for name, dtype in like.schema.items():
        if name not in _HIDDEN and (
            dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Categorical)
        ):
            columns[name] = "numbers" if dtype.is_numeric() else "text"
    if {"start", "end"} <= set(like.columns) and DURATION not in like.columns:
        columns[DURATION] = "numbers"
    return columns


def values_of(shown: Shown, column: str) -> pl.Series:
    """Return a column of a map's clips. UnknownError lists those that exist."""
    if column not in ("key", *(names := columns_of(shown.like))):
        raise UnknownError(f"no column {column[:100]!r}: the columns are {', '.join(names)}")
    if column == DURATION and DURATION not in shown.like.columns:
        return shown.read("start", "end").select((pl.col("end") - pl.col("start")).alias(DURATION))[
            DURATION
        ]
    return shown.read(column)[column]


def colours(shown: Shown, column: str | None) -> tuple[Legend, Int32[np.ndarray, " clips"]]:
    """Return the legend of a column and the code of each clip. Raises UnknownError as `values_of`.

    column: empty for one colour; None for the step, or another text with few values.
    """
    column = _default(shown) if column is None else column
    if not column:
        return Legend(None, None), np.zeros(len(shown.map.rows), np.int32)
    values = values_of(shown, column)
    return _shades(column, values) if values.dtype.is_numeric() else _categories(column, values)


def _default(shown: Shown) -> str:
    for name in (
        "step",
        *(column for column, kind in columns_of(shown.like).items() if kind == "text"),
    ):
        most = max(50, len(shown.map.rows) // 20)
        if name in shown.like.columns and 1 < shown.read(name)[name].n_unique() <= most:
            return name
    return ""


def _categories(column: str, values: pl.Series) -> tuple[Legend, Int32[np.ndarray, " clips"]]:
    values = values.alias("value")
    counts = values.drop_nulls().value_counts().sort(["count", "value"], descending=[True, False])
    best = counts.head(CATEGORIES)
    entries = tuple(
        LegendEntry(str(value), count, _condition(column, value))
        for value, count in best.iter_rows()
    )
    coded = pl.DataFrame(
        {"value": best["value"], "code": pl.Series(range(best.height), dtype=pl.Int32)}
    )
    joined = values.to_frame().join(coded, on="value", how="left", maintain_order="left")
    code = (
        pl.when(pl.col("value").is_null())
        .then(MISSING)
        .otherwise(pl.col("code").fill_null(CATEGORIES))
    )
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
    """Return a column's name as a condition writes it: in quotes if it would be read as something
    else."""
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
