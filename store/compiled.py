"""How loops become machine code."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from numba import njit


def compiled(loop: Callable[..., Any], liberties: Collection[str] = ()) -> Callable[..., Any]:
    """The loop as machine code that holds no lock and divides as numpy does, many numbers at once.

    liberties: LLVM's names of those that it may take with floating point. What checks shapes in tests is left out:
    numba cannot compile that.
    """
    return njit(cache=True, nogil=True, error_model="numpy", fastmath=set(liberties))(inspect.unwrap(loop))
