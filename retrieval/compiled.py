"""Loops of this room as machine code."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from numba import njit

REORDER = {"reassoc", "nsz"}  # lets a sum run in several lanes at once; each value is still a float64


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop without what checks shapes in tests, which numba cannot compile. It holds no lock."""
    return njit(cache=True, nogil=True, fastmath=REORDER)(inspect.unwrap(loop))


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
