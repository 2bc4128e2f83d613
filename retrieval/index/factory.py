"""Choice of a FAISS factory string for a number of rows and a user's budgets; its bytes, memory and hours.

Exact search below 10,000 rows; IVF with half floats up to 10 million; beyond, IVF with product quantisation. Hits are
compared again by the store's own vectors. A budget may require smaller codes, or an index for fewer rows.
The hours to build an index are estimated from rates of this machine, measured with a few seconds of each kind of work.

Guarantees
- planned_sizes_equal_those_of_a_built_index: to within one percent
- planned_times_are_work_divided_by_measured_rates: each is a number of operations or bytes, divided by a measured rate
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import StepDiffError
from common.streams import generator
from retrieval.vectors import BLOCK_BYTES, FIXED, bytes_of

FLAT = "Flat"  # no FAISS index: the store itself is searched
FLAT_BELOW = 100_000  # rows that are searched exactly if they have no index, or a condition selects them
INDEXED_FROM = 10_000  # rows for which an index that is built is approximate
QUANTISED_FROM = 10_000_000  # rows; beyond, half floats no longer fit the memory of one machine
FLAT_RATE = 4e9  # bytes/s of the store that one query reads, on two cores; the build measures it again
FLAT_MEMORY = 512 * 2**20  # bytes; blocks of the store and scores
PIECES = 64  # bytes of a product-quantised row, at most
ID_BYTES = 8
TRAINING_ROWS_A_LIST = 64
PART_ROWS = 2**18  # of a part, about
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
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(us|ms|s)", time.strip())
    if found is None:
        raise StepDiffError(f"{time!r} is not a time: write for example 10ms or 0.5s")
    return float(found[1]) * _TIMES[found[2]]


def choose(rows: int, dim: int, given: Budgets) -> Choice:
    """Return the factory string for `rows` rows. Raises StepDiffError if none fits the memory."""
    if given.recall == 1:
        return Choice(FLAT, "only an exact search has a recall of 1")
    seconds = rows * dim * 4 / FLAT_RATE
    if rows < INDEXED_FROM and (given.latency is None or seconds <= given.latency):
        return Choice(FLAT, f"{rows:,} rows are fewer than {INDEXED_FROM:,}: the store itself is searched exactly")
    lists = list_count(rows)
    preferred = "SQfp16" if rows <= QUANTISED_FROM else f"PQ{pieces(dim)}"
    size = "more" if rows > QUANTISED_FROM else "no more"
    why = f"{rows:,} rows are {size} than {QUANTISED_FROM:,}"
    if rows < INDEXED_FROM:
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
    """Return the number of lists of an IVF index: 2 sqrt(rows), or fewer if the rows cannot train that many.

    Twice as many search as fast, and take four times as long to train.
    """
    return max(min(round(2 * math.sqrt(rows)), rows // 39), 1)  # FAISS needs 39 rows per list


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


ROWS = 8192  # multiplied and encoded
LISTS = 512
WRITTEN = 64 * 2**20  # bytes
ROUNDS = 3
ITERATIONS = 10  # of FAISS over the training rows of an IVF index
CODEBOOK_WORK = 25 * 65_536 * 256  # iterations, rows and centres of FAISS for each channel of a product quantiser


@dataclass(frozen=True)
class Rates:
    """Rates of all cores of this machine together."""

    products: float
    """floating point operations/s of comparing rows with centroids"""
    encoded: dict[str, float]
    """rows/s encoded, by code"""
    passed: float
    """bytes/s of float32 rows that one exact query reads"""
    written: float
    """bytes/s written to the disk of the temporary folder, fsync included"""
    cores: int


def measure(dim: int, codes: list[str]) -> Rates:
    """Measure the rates for rows of `dim` channels and `codes`: SQfp16, SQ8 or PQ<pieces>."""
    import faiss

    vectors = generator(0, "rates: vectors").standard_normal((ROWS, dim), dtype=np.float32)
    centroids = faiss.IndexFlatIP(dim)
    centroids.add(vectors[:LISTS])
    seconds = _fastest(lambda: centroids.search(vectors, 1))
    encoded = {}
    for code in codes:
        index = faiss.index_factory(dim, code, faiss.METRIC_INNER_PRODUCT)
        if code.startswith("PQ"):  # an untrained codebook takes the same time
            centres = generator(0, "rates: codebook").standard_normal(256 * dim, dtype=np.float32)
            faiss.copy_array_to_vector(centres, index.pq.centroids)
            index.is_trained = True
        else:
            index.train(vectors)
        encoded[code] = ROWS / _fastest(partial(index.sa_encode, vectors))
    passed = vectors.nbytes / _fastest(lambda: vectors @ vectors[0])
    return Rates(2 * ROWS * LISTS * dim / seconds, encoded, passed, _written(), faiss.omp_get_max_threads())


def _written() -> float:
    content = os.urandom(2**20)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "bytes"), "wb") as file:
        start = time.perf_counter()
        for _ in range(WRITTEN // len(content)):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return WRITTEN / (time.perf_counter() - start)


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of ROUNDS rounds."""
    return min(timeit.repeat(work, number=1, repeat=ROUNDS))


@dataclass(frozen=True)
class Cost:
    """The cost of one factory."""

    factory: str
    bytes: int
    """of the index file; 0 for an exact index, which searches the store"""
    search_memory: int
    """bytes that must stay in memory for a fast search"""
    build_memory: int
    """bytes of training, or of one worker that fills parts, whichever is larger"""
    training_hours: float
    adding_hours: float
    """with all machines together"""
    merging_hours: float
    hours: float
    exact_query_seconds: float | None
    """of one query of an exact index; for the others the build measures it"""


def costs(rows: int, dim: int, rates: Rates, machines: int) -> list[Cost]:
    """Return the cost of an exact index and of an IVF index with each code in `rates`."""
    lists = list_count(rows)
    passing = rows * dim * 4 / rates.passed / 3600
    read = rows * dim * 4 / rates.written / 3600 / machines  # disks read at least as fast as they write
    blocks = FIXED + 5 * BLOCK_BYTES
    found = [Cost(FLAT, 0, memory_bytes(FLAT, rows, dim), blocks, 0.0, read, 0.0, read, round(passing * 3600, 3))]
    for code, encoded in rates.encoded.items():
        factory = f"IVF{lists},{code}"
        size = memory_bytes(factory, rows, dim)
        trained = min(TRAINING_ROWS_A_LIST * lists, rows)
        work = 2 * ITERATIONS * trained * lists * dim + (2 * CODEBOOK_WORK * dim if code.startswith("PQ") else 0)
        training = work / rates.products / 3600
        assigning = 2 * rows * lists * dim / rates.products + rows / encoded
        adding = assigning / 3600 / machines + read + size / rates.written / 3600 / machines
        merging = 2 * size / rates.written / 3600  # the parts are read, the index is written
        part = blocks + 2 * min(PART_ROWS, rows) * (code_bytes(factory, dim) + 8) + lists * dim * 4
        memory = max(part, FIXED + trained * dim * 4)
        hours = training + adding + merging
        found.append(Cost(factory, size, size, memory, training, adding, merging, hours, None))
    return found


def show(title: str, chosen: str, planned: list[Cost], rates: Rates) -> None:
    """Print a table of costs, the chosen factory in bold, and the rates."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0)
    heads = ("disk GB", "search GB", "build GB", "train h", "add h", "merge h", "hours", "exact query")
    table.add_column("factory", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for cost in planned:
        sizes = (cost.bytes, cost.search_memory, cost.build_memory)
        hours = (cost.training_hours, cost.adding_hours, cost.merging_hours, cost.hours)
        query = "" if cost.exact_query_seconds is None else f"{cost.exact_query_seconds:,.2f} s"
        figures = [*(f"{size / 1e9:,.1f}" for size in sizes), *(f"{hour:,.2f}" for hour in hours), query]
        table.add_row(cost.factory, *figures, style="bold" if cost.factory == chosen else None)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(title, highlight=False)
    console.print(table)
    encoded = ", ".join(f"{rate:,.0f} rows/s to {code}" for code, rate in rates.encoded.items())
    print(
        f"measured on {rates.cores} cores: {rates.products / 1e9:,.0f} GFLOP/s of products, {encoded}, "
        f"{rates.passed / 1e9:,.1f} GB/s read by a query, {rates.written / 1e6:,.0f} MB/s written"
    )
