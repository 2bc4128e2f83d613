"""products in bfloat16, which many processors multiply at twice the rate of float32: what may be near, told early

Rows and queries are divided by their lengths and rounded; how far that moves each is measured. Together with the
rounding of the product itself it bounds how far a score is from the cosine.

Guarantees
- never_farther_off_than_slack: no score is farther from the cosine of its row and query
- threads_of_our_own: PyTorch starts none, so that a fork does no harm
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int16, UInt16
from threadpoolctl import ThreadpoolController

from common.threads import each, shares
from retrieval.exact.kernels import round_rows
from retrieval.vectors import reused

ROUNDED = 2.0**-8  # of a number, by which its bfloat16 differs at most
LOADING = 1e12  # multiplications and additions that take longer than PyTorch takes to load, twice over
_FLAGS = ("avx512_bf16", "amx_bf16")  # as Linux names them
_CPU = Path("/proc/cpuinfo")


def worth_it(rows: int, queries: int, dim: int) -> bool:
    """Whether products of so many take less time here in bfloat16, PyTorch's loading counted."""
    return _multiplies_it() and ("torch" in sys.modules or 2.0 * rows * queries * dim > LOADING)


@cache
def _multiplies_it() -> bool:
    """Whether this processor has instructions for it; without, PyTorch is slower than with float32."""
    try:
        flags = next(line for line in _CPU.read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):  # no Linux, or no x86
        return False
    return any(flag in flags for flag in _FLAGS)


class Rough:
    """Normalised queries in bfloat16, and a block of rows."""

    def __init__(self, queries: Float32[np.ndarray, "queries dim"]) -> None:
        """Queries to multiply with."""
        self._dim = queries.shape[1]
        self._queries = np.empty(queries.shape, np.uint16)
        _, self._off_query = _rounded(queries, self._queries)
        self._off_row = 0.0
        self._rows = np.empty(0, np.uint16)
        self._scores = np.empty(0, np.int16)

    @property
    def slack(self) -> float:
        """How far a score of the rows so far may be from the cosine."""
        unit = 2.0**-24  # of float32, in which products are summed
        moved = (self._off_row + 3 * unit) * (1 + self._off_query) + self._off_query
        largest = (1 + self._off_row) * (1 + self._off_query)
        return moved + (ROUNDED + 2 * (self._dim + 8) * unit) * largest

    def take(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
        """Take the next block of rows in place of the last; returns their sums of squares."""
        self._rows, self._block = reused(self._rows, vectors.shape)
        sums, off = _rounded(vectors, self._block)
        self._off_row = max(self._off_row, off)
        return sums

    def scores(self, first: int, last: int) -> Int16[np.ndarray, "rows queries"]:
        """The cosines of the block's rows and of queries `first` to `last` (exclusive), about: bfloat16, bit by bit.

        They stand until the next call.
        """
        self._scores, out = reused(self._scores, (len(self._block), last - first))
        queries = self._queries[first:last]
        each(lambda share: _multiply(self._block[slice(*share)], queries, out[slice(*share)]), shares(len(out)))
        return out


def _rounded(
    vectors: Float32[np.ndarray, "rows dim"], out: UInt16[np.ndarray, "rows dim"]
) -> tuple[Float64[np.ndarray, " rows"], float]:
    """Fill `out` with the vectors of length 1, as bits of bfloat16; their sums of squares before, and how far the one
    farthest off was moved."""
    sums, off = np.empty(len(vectors)), np.empty(len(vectors), np.float32)
    each(lambda share: round_rows(vectors, *share, out, sums, off), shares(len(vectors)))
    return sums, 1.001 * float(off.max(initial=0))  # more than float32 loses in summing it


def _multiply(
    rows: UInt16[np.ndarray, "rows dim"],
    queries: UInt16[np.ndarray, "queries dim"],
    out: Int16[np.ndarray, "rows queries"],
) -> None:
    import torch  # takes seconds: only those that multiply much wait for it

    a, b, c = (torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16) for bits in (rows, queries, out))
    with _openmp().limit(limits=1), torch.inference_mode():  # of this thread alone
        torch.mm(a, b.T, out=c)


@cache
def _openmp() -> ThreadpoolController:
    """The threads of PyTorch, which spin while they wait and take a core from what follows."""
    return ThreadpoolController().select(user_api="openmp")
