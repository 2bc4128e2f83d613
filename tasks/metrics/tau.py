"""Kendall's tau-b of many short rankings at once.

Guarantees
- equal_to_scipy_row_by_row: NaN where all values of one side tie
"""

import numpy as np
from jaxtyping import Bool, Float64

PAIRS_AT_ONCE = 1 << 20


def kendall_tau(
    first: Float64[np.ndarray, "rows targets"],
    second: Float64[np.ndarray, "rows targets"],
    counted: Bool[np.ndarray, "rows targets"] | None = None,
) -> Float64[np.ndarray, " rows"]:
    """Return tau-b of each row over the targets that `counted` marks (default: all). Values are finite."""
    rows, targets = first.shape
    if counted is None:
        counted = np.ones(first.shape, bool)
    left, right = np.triu_indices(targets, 1)
    step = max(1, PAIRS_AT_ONCE // max(len(left), 1))
    tau = np.empty(rows)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        both = counted[part, left] & counted[part, right]
        signs = [
            (values[part, left] > values[part, right]).astype(np.int8) - (values[part, left] < values[part, right])
            for values in (first, second)
        ]
        agreement = (signs[0] * signs[1] * both).sum(axis=1, dtype=np.int64)
        untied = [((sign != 0) & both).sum(axis=1) for sign in signs]
        with np.errstate(invalid="ignore"):
            tau[part] = agreement / np.sqrt(untied[0]) / np.sqrt(untied[1])
    return tau.clip(-1, 1)
