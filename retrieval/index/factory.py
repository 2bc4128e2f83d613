"""Choice of a FAISS factory string for a number of rows and a user's budgets, and the memory that it takes.

Exact search below 100,000 rows; IVF with half floats up to 10 million; beyond, IVF with product quantisation, whose
hits are compared again by the store's own vectors. A budget may require smaller codes, or an index for fewer rows.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from common.errors import StepDiffError
from retrieval.vectors import bytes_of

FLAT = "Flat"  # no FAISS index: the store itself is searched
FLAT_BELOW = 100_000  # rows; measured: exact search is fast enough, and needs no training
QUANTISED_FROM = 10_000_000  # rows; beyond, half floats no longer fit the memory of one machine
FLAT_RATE = 4e9  # bytes/s of the store that one query reads, on two cores; the build measures it again
FLAT_MEMORY = 512 * 2**20  # bytes; blocks of the store and scores
PIECES = 64  # bytes of a product-quantised row, at most
ID_BYTES = 8
TRAINING_ROWS_A_LIST = 64
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Budgets:
    """Limits that a user sets."""

    memory: int | None = None
    """bytes of the index during a search"""
    latency: float | None = None
    """median seconds of one query"""
    recall: float = 0.95
    """share of the 10 nearest rows that are found"""


@dataclass(frozen=True)
class Choice:
    """A factory string and the reason for it."""

    factory: str
    why: str


def budgets(memory: str | None, latency: str | None, recall: float) -> Budgets:
    """Return budgets from texts such as `20GB` and `10ms`. Raises StepDiffError for other texts."""
    return Budgets(
        None if memory is None else bytes_of(memory), None if latency is None else _seconds_of(latency), recall
    )


def _seconds_of(time: str) -> float:
    """The seconds of e.g. `10ms`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(us|ms|s)", time.strip())
    if found is None:
        raise StepDiffError(f"{time!r} is not a time: write for example 10ms or 0.5s")
    return float(found[1]) * _TIMES[found[2]]


def choose(rows: int, dim: int, given: Budgets) -> Choice:
    """Return the factory string for `rows` rows. Raises StepDiffError if none fits the memory."""
    if given.recall == 1:
        return Choice(FLAT, "only an exact search has a recall of 1")
    seconds = rows * dim * 4 / FLAT_RATE
    if rows < FLAT_BELOW and (given.latency is None or seconds <= given.latency):
        return Choice(FLAT, f"{rows:,} rows are fewer than {FLAT_BELOW:,}: the store itself is searched exactly")
    lists = list_count(rows)
    preferred = "SQfp16" if rows <= QUANTISED_FROM else f"PQ{pieces(dim)}"
    size = "more" if rows > QUANTISED_FROM else "no more"
    why = f"{rows:,} rows are {size} than {QUANTISED_FROM:,}"
    if rows < FLAT_BELOW:
        why = f"an exact search would take about {seconds * 1e3:.0f} ms"
    codes = ["SQfp16", "SQ8", *(f"PQ{n}" for n in range(pieces(dim), 0, -1) if dim % n == 0)]
    for code in codes[codes.index(preferred) :]:
        factory = f"IVF{lists},{code}"
        if given.memory is None or memory_bytes(factory, rows, dim) <= given.memory:
            smaller = "" if code == preferred else f", and IVF{lists},{preferred} would exceed --max-memory"
            return Choice(factory, why + smaller)
    least = memory_bytes(f"IVF{lists},{codes[-1]}", rows, dim)
    raise StepDiffError(
        f"no index of {rows:,} rows fits --max-memory: the smallest takes {least / 1e9:,.2f} GB, so give that or more, "
        f"or --factory {FLAT}, which searches the store"
    )


def list_count(rows: int) -> int:
    """Return the number of lists of an IVF index: 4 sqrt(rows), or fewer if the rows cannot train that many."""
    return max(min(round(4 * math.sqrt(rows)), rows // 39), 1)  # FAISS needs 39 rows per list


def pieces(dim: int) -> int:
    """Return the number of pieces of a product quantiser, one byte each."""
    return max(count for count in range(1, PIECES + 1) if dim % count == 0)


def code_bytes(factory: str, dim: int) -> int:
    """Return the bytes of a row's code in an IVF index."""
    code = factory.rpartition(",")[2]
    if found := re.fullmatch(r"PQ(\d+)", code):
        return int(found[1])
    return dim * {"SQ8": 1, "SQfp16": 2, FLAT: 4}[code]


def memory_bytes(factory: str, rows: int, dim: int) -> int:
    """Return the bytes that a search uses: codes, row numbers and centroids, or blocks of the store if it is exact."""
    if factory == FLAT:
        return FLAT_MEMORY
    lists = int(factory.partition(",")[0].removeprefix("IVF"))
    codebook = 256 * dim * 4 if ",PQ" in factory else 0
    return rows * (code_bytes(factory, dim) + ID_BYTES) + lists * (dim * 4 + ID_BYTES) + codebook
