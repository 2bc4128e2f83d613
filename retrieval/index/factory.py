"""a FAISS factory string: which one suits so many rows within what a user can afford, and what it takes

Exact below 100,000 rows; IVF with half floats to 10 million; beyond, IVF with product quantisation, compared again by
the store's own vectors. A budget that such an index breaks asks for smaller codes, or for an index at all.
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
FLAT_RATE = 4e9  # bytes/s of the store that one query passes, on two cores; the build measures it again
FLAT_MEMORY = 512 * 2**20  # bytes; blocks of the store and scores
PIECES = 64  # bytes of a product-quantised row, at most
ID_BYTES = 8
TRAINING_ROWS_A_LIST = 64

_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Budgets:
    """What a user can afford."""

    memory: int | None = None
    """bytes that the index may take while it is searched"""
    latency: float | None = None
    """seconds of one query, the median"""
    recall: float = 0.95
    """of the 10 nearest rows, how many are found"""


@dataclass(frozen=True)
class Choice:
    """A factory string, and why it was chosen."""

    factory: str
    why: str


def budgets(memory: str | None, latency: str | None, recall: float) -> Budgets:
    """Budgets as they are written: `20GB`, `10ms`. StepDiffError on what is no amount."""
    return Budgets(
        None if memory is None else bytes_of(memory), None if latency is None else seconds_of(latency), recall
    )


def seconds_of(time: str) -> float:
    """The seconds of e.g. `10ms`. StepDiffError where it is no time."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(us|ms|s)", time.strip())
    if found is None:
        raise StepDiffError(f"{time!r} is no time: write for example 10ms or 0.5s")
    return float(found[1]) * _TIMES[found[2]]


def choose(rows: int, dim: int, given: Budgets) -> Choice:
    """The factory string for so many rows. StepDiffError where none fits the memory."""
    if given.recall == 1:
        return Choice(FLAT, "nothing but an exact search has a recall of 1")
    seconds = rows * dim * 4 / FLAT_RATE
    if rows < FLAT_BELOW and (given.latency is None or seconds <= given.latency):
        return Choice(FLAT, f"{rows:,} rows are fewer than {FLAT_BELOW:,}: the store itself is searched, exactly")
    lists = list_count(rows)
    wished = "SQfp16" if rows <= QUANTISED_FROM else f"PQ{pieces(dim)}"
    size = "more" if rows > QUANTISED_FROM else "no more"
    why = f"{rows:,} rows are {size} than {QUANTISED_FROM:,}"
    if rows < FLAT_BELOW:
        why = f"an exact search would take about {seconds * 1e3:.0f} ms"
    codes = ["SQfp16", "SQ8", *(f"PQ{n}" for n in range(pieces(dim), 0, -1) if dim % n == 0)]
    for code in codes[codes.index(wished) :]:
        factory = f"IVF{lists},{code}"
        if given.memory is None or memory_bytes(factory, rows, dim) <= given.memory:
            return Choice(
                factory, why if code == wished else f"{why}, and IVF{lists},{wished} would break --max-memory"
            )
    least = memory_bytes(f"IVF{lists},{codes[-1]}", rows, dim)
    raise StepDiffError(
        f"no index of {rows:,} rows fits --max-memory: the smallest takes {least / 1e9:,.2f} GB, so give that or more, "
        f"or --factory {FLAT}, which searches the store"
    )


def list_count(rows: int) -> int:
    """Lists of an IVF index: 4 sqrt(rows), and few enough to be trained from these rows."""
    return max(min(round(4 * math.sqrt(rows)), rows // 39), 1)  # FAISS asks for 39 rows a list


def pieces(dim: int) -> int:
    """Pieces of a product quantiser, of one byte each."""
    return max(count for count in range(1, PIECES + 1) if dim % count == 0)


def code_bytes(factory: str, dim: int) -> int:
    """Bytes of one row's code in an IVF index of this factory string."""
    code = factory.rpartition(",")[2]
    if found := re.fullmatch(r"PQ(\d+)", code):
        return int(found[1])
    return dim * {"SQ8": 1, "SQfp16": 2, FLAT: 4}[code]


def memory_bytes(factory: str, rows: int, dim: int) -> int:
    """Bytes that a search keeps busy: codes, row numbers and centroids; of an exact one, blocks of the store."""
    if factory == FLAT:
        return FLAT_MEMORY
    lists = int(factory.partition(",")[0].removeprefix("IVF"))
    codebook = 256 * dim * 4 if ",PQ" in factory else 0
    return rows * (code_bytes(factory, dim) + ID_BYTES) + lists * (dim * 4 + ID_BYTES) + codebook
