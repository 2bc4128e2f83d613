"""Estimates of an index before it is built: bytes, memory and hours of each factory.

Rates of this machine are measured with a few seconds of each kind of work.

Guarantees
- planned_sizes_equal_those_of_a_built_index: to within one percent
- planned_times_are_work_divided_by_measured_rates: each is a number of operations or bytes, divided by a measured rate
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.streams import generator
from retrieval.index.builder import PART_ROWS
from retrieval.index.factory import FLAT, TRAINING_ROWS_A_LIST, code_bytes, list_count, memory_bytes
from retrieval.vectors import BLOCK_BYTES, FIXED

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
