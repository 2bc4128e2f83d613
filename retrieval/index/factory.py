"""Choice of a FAISS factory string for a number of rows and a user's budgets.

Exact search below 10,000 rows; an HNSW graph over half floats up to a million; IVF with half floats up to 10 million;
beyond, IVF with product quantisation. A budget of memory may require smaller codes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stepdiff.common.errors import StepDiffError

FLAT = "Flat"  # no FAISS index: the store itself is searched
FLAT_BELOW = 100_000  # rows that are searched exactly if they have no index, or a condition selects them
INDEXED_FROM = 10_000  # rows for which an index that is built is approximate
GRAPH_TO = 1_000_000  # rows; a graph is built by one machine
HALVES_TO = 10_000_000  # rows; beyond, half floats no longer fit the memory of one machine
FLAT_RATE = 4e9  # bytes/s of the store that one query reads, on two cores; the build measures it again
FLAT_MEMORY = 512 * 2**20  # bytes; blocks of the store and scores
LINKS = 32  # of a node of a graph
PIECES = 64  # bytes of a product-quantised row, at most
ID_BYTES = 8
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Budgets:
    """Limits that a user sets."""

    memory: int | None = None  # bytes of the index during a search
    latency: float | None = None  # median seconds of one query
    recall: float = 0.95  # share of the 10 nearest rows that are found


@dataclass(frozen=True)
class Choice:
    """A factory string and the reason for it."""

    factory: str
    why: str


def budgets(memory: int | None, latency: str | None, recall: float) -> Budgets:
    """Return budgets of bytes, a time such as `10ms` and a share. Raises StepDiffError for another text."""
    seconds = None
    if latency is not None:
        parts = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(us|ms|s)", latency.strip())
        if parts is None:
            raise StepDiffError(f"{latency!r} is not a time: write for example 10ms or 0.5s")
        seconds = float(parts[1]) * _TIMES[parts[2]]
    return Budgets(memory, seconds, recall)


def choose(rows: int, dim: int, given: Budgets) -> Choice:
    """Return the factory string for `rows` rows. Raises StepDiffError if none fits the memory."""
    if given.recall == 1:
        return Choice(FLAT, "only an exact search has a recall of 1")
    seconds = rows * dim * 4 / FLAT_RATE
    if rows < INDEXED_FROM and (given.latency is None or seconds <= given.latency):
        return Choice(FLAT, f"{rows:,} rows are fewer than {INDEXED_FROM:,}: the store itself is searched exactly")
    first, why = 3, f"{rows:,} rows are more than {HALVES_TO:,}"
    if rows <= HALVES_TO:
        first, most = (0, GRAPH_TO) if rows <= GRAPH_TO else (1, HALVES_TO)
        why = f"{rows:,} rows are no more than {most:,}"
    if rows < INDEXED_FROM:
        why = f"an exact search would take about {seconds * 1e3:.0f} ms"
    preferred, *smaller = factories(rows, dim)[first:]
    for factory in (preferred, *smaller):
        if given.memory is None or memory_bytes(factory, rows, dim) <= given.memory:
            return Choice(factory, why if factory == preferred else f"{why}, and {preferred} would exceed --max-memory")
    least = memory_bytes(factory, rows, dim)
    raise StepDiffError(
        f"no index of {rows:,} rows fits --max-memory: the smallest takes {least / 1e9:,.2f} GB, so give that or more, "
        f"or --factory {FLAT}, which searches the store"
    )


def factories(rows: int, dim: int) -> list[str]:
    """Return factory strings, those of more memory first: a graph, then IVF with ever smaller codes."""
    # 256 queries of 200,000 rows take 33, 34, 39 ms with 1, 2, 4 sqrt(rows) lists; building takes 5, 13, 38 s.
    lists = max(min(round(2 * math.sqrt(rows)), rows // 39), 1)  # FAISS needs 39 rows per list
    codes = ["SQfp16", "SQ8", *(f"PQ{n}" for n in range(min(PIECES, dim), 0, -1) if dim % n == 0)]
    return [f"HNSW{LINKS},SQfp16", *(f"IVF{lists},{code}" for code in codes)]


def memory_bytes(factory: str, rows: int, dim: int) -> int:
    """Return the bytes that a search uses: codes, row numbers, and centroids or links.

    Those of an exact search are blocks of the store.
    """
    if factory == FLAT:
        return FLAT_MEMORY
    kind, _, code = factory.rpartition(",")
    code_bytes = int(code[2:]) if code.startswith("PQ") else dim * {"SQ8": 1, "SQfp16": 2, FLAT: 4}[code]
    row = code_bytes + ID_BYTES
    if kind.startswith("HNSW"):
        links = int(kind[4:])
        return round(rows * (row + 4 * (2 * links + links / (links - 1)) + 12))  # two of three numbers: level, offset
    codebook = 256 * dim * 4 if code.startswith("PQ") else 0
    return rows * row + int(kind[3:]) * (dim * 4 + ID_BYTES) + codebook
