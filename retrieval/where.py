"""Which clips a filter over the catalog lets through.

A filter is what SQL has behind WHERE: `step = 'whisk' AND split = 'train'`, `duration > 4`, `video LIKE '%.mp4'`.
`duration` is end minus start, in seconds, where the catalog has both and no such column. A name that SQL has as a word
of its own stands in double quotes, e.g. `"end" > 10`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int64

from retrieval.errors import RetrievalError
from store import Store

DURATION = "duration"


def rows_where(store: Store, entity: str, where: str) -> Int64[np.ndarray, " rows"]:
    """The rows of the catalog for which `where` is true, rising.

    RetrievalError: no SQL condition, an unknown column, or nothing is let through.
    """
    catalog = store.catalog(entity)
    try:
        condition = pl.sql_expr(where)
        named = set(condition.meta.root_names())
        frame = catalog.frame(sorted({"key", "row", *named, *(["start", "end"] if DURATION in named else [])}))
        if DURATION in named and DURATION not in frame.columns and {"start", "end"} <= set(frame.columns):
            frame = frame.with_columns((pl.col("end") - pl.col("start")).alias(DURATION))
        rows = frame.filter(condition)["row"].to_numpy()
    except pl.exceptions.ColumnNotFoundError:
        unknown = ", ".join(sorted(named - set(frame.columns)))
        there = ", ".join([*catalog.frame().drop("row").columns, DURATION])
        raise RetrievalError(f"--where names no column of the {entity}: {unknown}; the catalog has {there}") from None
    except pl.exceptions.PolarsError as error:
        why = str(error).strip().splitlines()[0]
        raise RetrievalError(
            f"--where {where!r} is no condition ({why}): write one as behind SQL's WHERE, "
            "for example \"step = 'whisk' AND duration > 4\""
        ) from None
    if not len(rows):
        raise RetrievalError(f"no {entity[:-1]} of {store.path} has {where}: widen --where")
    return rows
