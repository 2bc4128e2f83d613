"""How loops of this room become machine code."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code that holds no lock and divides as numpy does, many numbers at once.

    What checks shapes in tests is left out: numba cannot compile that.
    """
    return njit(cache=True, nogil=True, error_model="numpy")(inspect.unwrap(loop))
