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
    bare, fast = inspect.unwrap(loop), set(liberties)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(bare)
    except RuntimeError:  # neither the code's folder nor a home to keep it in: compiled anew in each process
        return njit(nogil=True, error_model="numpy", fastmath=fast)(bare)
