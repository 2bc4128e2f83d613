"""How much memory a command may use, as people write it, how many rows fit it, and memory that is used again."""

import re
from math import prod

import numpy as np

from common.errors import StepDiffError
from retrieval.vectors import BLOCK

FIXED = 300_000_000  # bytes: Python, the libraries and a product of two blocks
ROW = 200  # bytes of what the catalog says of a row: its key, a column or two
FEWEST = 1024  # rows: with fewer at a time the store would be read too often
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_of(size: str) -> int:
    """The bytes of e.g. `20GB`, `512MiB` or `1e9`. StepDiffError where it is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]I?|)B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise StepDiffError(f"{size!r} is no size: write for example 20GB or 512MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def rows_that_fit(size: str, rows: int, dim: int, more: int = 0) -> int:
    """How many of `rows` vectors of `dim` float32 channels, and `more` bytes each, may be held at once.

    StepDiffError where `size` is too little to work with, and says how much is not.
    """
    fixed = FIXED + rows * ROW + 3 * BLOCK * dim * 8  # a block is read as float64, and copied
    one = dim * 4 + more
    fit = (bytes_of(size) - fixed) // one
    if fit < FEWEST:
        least = -(-(fixed + FEWEST * one) // 10**6)
        raise StepDiffError(
            f"{size} are too little for {rows} rows of {dim} channels: give --max-memory {least}MB or more"
        )
    return fit


def reused(memory: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`memory` (flat), or new memory of its kind where it is too small, and the first of it in that shape."""
    count = prod(shape)
    memory = memory if len(memory) >= count else np.empty(count, memory.dtype)
    return memory, memory[:count].reshape(shape)
