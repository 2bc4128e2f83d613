"""Catalog rows for queries and mining: named columns, numbers of videos, and rows that a condition selects.

A condition is what SQL allows after WHERE: `step = 'whisk' AND split = 'train'`, `duration > 4`, `video LIKE '%.mp4'`
(condition.py lists what is allowed). `duration` is end minus start, in seconds, if the catalog has both columns and no
column of that name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from store import Store

DURATION = "duration"


def columns(store: Store, entity: str, names: Sequence[str]) -> pl.DataFrame:
    """Return columns of the catalog in row order. Raises StepDiffError that lists the existing ones."""
    frame = store.catalog(entity).frame(names)
    for name in names:
        if name not in frame.columns:
            existing = ", ".join(store.catalog(entity).frame().columns)
            raise StepDiffError(f"{entity} have no column {name!r}: the catalog has {existing}")
    return frame


def video_numbers(videos: pl.Series) -> Int64[np.ndarray, " clips"]:
    """Return a number for the video of each clip; a clip with unknown video has a number of its own."""
    itself = -1 - pl.int_range(len(videos), eager=True)
    return videos.rank("dense").cast(pl.Int64).fill_null(itself).to_numpy()


def rows_where(store: Store, entity: str, where: str) -> Int64[np.ndarray, " rows"]:
    """Return the catalog rows for which `where` is true, rising.

    Raises:
        StepDiffError: `where` is not a condition, uses something that is not allowed, names an unknown column, or
            selects no row.
    """
    from retrieval.queries.condition import not_a_condition, read_condition  # loads sqlglot: 0.3 s

    condition = read_condition(where)
    catalog = store.catalog(entity)
    named = set(condition.columns)
    frame = catalog.frame(sorted({"key", "row", *named, *(["start", "end"] if DURATION in named else [])}))
    if made := DURATION in named and DURATION not in frame.columns and {"start", "end"} <= set(frame.columns):
        named.remove(DURATION)
    if unknown := ", ".join(sorted(named - set(frame.columns))):
        existing = ", ".join([*catalog.frame().drop("row").columns, DURATION])
        raise StepDiffError(f"--where names no column of the {entity}: {unknown}; the catalog has {existing}")
    try:
        if made:
            frame = frame.with_columns((pl.col("end") - pl.col("start")).alias(DURATION))
        rows = frame.filter(condition.expr)["row"].to_numpy()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # the latter: arithmetic out of range
        raise not_a_condition("--where", where, error) from None
    if not len(rows):
        raise StepDiffError(f"no {entity[:-1]} of {store.path} has {where}: widen --where")
    return rows
