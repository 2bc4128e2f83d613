"""Loops compiled to machine code by numba."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from numba import njit


def compiled(loop: Callable[..., Any], liberties: Collection[str] = ()) -> Callable[..., Any]:
    """Compile a loop so that it releases the GIL and divides as numpy does.

    liberties: LLVM's names of the fast-math flags to set. The shape checks of tests are removed: numba cannot compile
    them.
    """
    bare, fast = inspect.unwrap(loop), set(liberties)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(bare)
    except RuntimeError:  # no folder to cache it in: compiled in each process
        return njit(nogil=True, error_model="numpy", fastmath=fast)(bare)
