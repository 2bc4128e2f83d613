"""Rows of the catalog that a filter selects.

A filter is what SQL allows after WHERE: `step = 'whisk' AND split = 'train'`, `duration > 4`, `video LIKE '%.mp4'`
(condition.py lists what is allowed). `duration` is end minus start, in seconds, if the catalog has both columns and no
column of that name.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from store import Store

DURATION = "duration"


def rows_where(store: Store, entity: str, where: str) -> Int64[np.ndarray, " rows"]:
    """Return the rows of the catalog for which `where` is true, in rising order.

    Raises:
        StepDiffError: `where` is no condition, uses something that is not allowed, names an unknown column, or
            selects nothing.
    """
    from retrieval.queries.condition import (  # loads sqlglot, 0.3 s that other queries save
        not_a_condition,
        read_condition,
    )

    condition = read_condition(where)
    catalog = store.catalog(entity)
    named = set(condition.columns)
    frame = catalog.frame(sorted({"key", "row", *named, *(["start", "end"] if DURATION in named else [])}))
    if made := DURATION in named and DURATION not in frame.columns and {"start", "end"} <= set(frame.columns):
        named.remove(DURATION)
    if unknown := ", ".join(sorted(named - set(frame.columns))):
        there = ", ".join([*catalog.frame().drop("row").columns, DURATION])
        raise StepDiffError(f"--where names no column of the {entity}: {unknown}; the catalog has {there}")
    try:
        if made:
            frame = frame.with_columns((pl.col("end") - pl.col("start")).alias(DURATION))
        rows = frame.filter(condition.expr)["row"].to_numpy()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # the latter: arithmetic out of range
        raise not_a_condition("--where", where, error) from None
    if not len(rows):
        raise StepDiffError(f"no {entity[:-1]} of {store.path} has {where}: widen --where")
    return rows
