"""How many rows fit the memory that a command may use."""

from retrieval.errors import RetrievalError
from retrieval.factory import BYTES, amount
from retrieval.vectors import BLOCK

FIXED = 300_000_000  # bytes: Python, the libraries and a product of two blocks
ROW = 200  # bytes of what the catalog says of a row: its key, a column or two
FEWEST = 1024  # rows: with fewer at a time the store would be read too often


def rows_that_fit(size: str, rows: int, dim: int, more: int = 0) -> int:
    """How many of `rows` vectors of `dim` float32 channels, and `more` bytes each, may be held at once.

    `size` is written as people do, e.g. `20GB`. RetrievalError where it is none, or too little to work with.
    """
    fixed = FIXED + rows * ROW + 3 * BLOCK * dim * 8  # a block is read as float64, and copied
    one = dim * 4 + more
    fit = int(amount(size, BYTES, "--max-memory", "20GB") - fixed) // one
    if fit < FEWEST:
        least = -(-(fixed + FEWEST * one) // 10**6)
        raise RetrievalError(
            f"{size} are too little for {rows} rows of {dim} channels: give --max-memory {least}MB or more"
        )
    return fit
