"""Row numbers as callers give them.

Guarantees
- a mask, or numbers that are not integers, are refused, never cast to row numbers
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int, Int64

from stepdiff.common.errors import StepDiffError

Rows = Sequence[int] | Int[np.ndarray, " B"] | pl.Series


def row_numbers(rows: Rows) -> Int64[np.ndarray, " B"]:
    """Return row numbers as an array. StepDiffError where they are not a list of integers, or one is negative."""
    found = np.asarray(rows)
    if not found.size:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise StepDiffError(
            f"rows are {found.dtype} of shape {list(found.shape)}: give a list of row numbers, "
            "np.flatnonzero(mask) for a mask"
        )
    if len(found) and found.min() < 0:
        raise StepDiffError(f"no row {found.min()} in a view: rows are numbered from 0, leave it out")
    return found.astype(np.int64, copy=False)
