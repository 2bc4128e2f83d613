"""Loops of this room as machine code."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from common import compiled as store_compiled

REORDER = ("reassoc", "nsz")  # lets a sum run in several lanes at once; each value is still a float64


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code, its sums in any order."""
    return store_compiled.compiled(loop, REORDER)


@compiled
def dot(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """The inner product."""
    total = 0.0
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@compiled
def distance(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """The L2 distance."""
    total = 0.0
    for d in range(len(a)):
        total += (a[d] - b[d]) * (a[d] - b[d])
    return np.sqrt(total)


@compiled
def insert(score: float, row: int, falling: Float32[np.ndarray, " kept"], rows: Int64[np.ndarray, " kept"]) -> None:
    """Put a score that is better than the last of a falling list, and its row, into their places; of equals the first
    stays first, and the last one drops out."""
    at = len(falling) - 1
    while at > 0 and falling[at - 1] < score:
        falling[at], rows[at] = falling[at - 1], rows[at - 1]
        at -= 1
    falling[at], rows[at] = score, row
