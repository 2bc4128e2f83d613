"""what an index of so many rows takes, before anyone builds it: bytes, memory and hours of each factory

    python -m retrieval plan --clips 136e6 --dim 768

how fast this machine builds an index: a few seconds of each kind of work

Guarantees
- sizes_are_those_of_a_built_index: to within one percent
- times_are_work_over_measured_rates: each is a count of operations or bytes, divided by a rate of rates.py
- a rate is one that was measured here and now
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from common.cli.options import parse
from common.errors import StepDiffError
from common.streams import generator
from retrieval.index.builder import PART_ROWS
from retrieval.index.factory import (
    FLAT,
    TRAINING_ROWS_A_LIST,
    Choice,
    budgets,
    choose,
    code_bytes,
    list_count,
    memory_bytes,
    pieces,
)
from retrieval.vectors import BLOCK_BYTES, FIXED

ROWS = 8192  # that are multiplied and encoded
LISTS = 512
WRITTEN = 64 * 2**20  # bytes
ROUNDS = 3


@dataclass(frozen=True)
class Rates:
    """Of all cores of this machine together."""

    products: float
    """floating point operations/s of comparing rows with centroids"""
    encoded: dict[str, float]
    """rows/s that become codes, by code"""
    passed: float
    """bytes/s of float32 rows that one query passes"""
    written: float
    """bytes/s onto the disk of the temporary folder, fsync included"""
    cores: int


def measure(dim: int, codes: list[str]) -> Rates:
    """The rates for rows of `dim` channels that become `codes`: SQfp16, SQ8 or PQ<pieces>."""
    import faiss

    vectors = generator(0, "rates: vectors").standard_normal((ROWS, dim), dtype=np.float32)
    centroids = faiss.IndexFlatIP(dim)
    centroids.add(vectors[:LISTS])
    seconds = _fastest(lambda: centroids.search(vectors, 1))
    encoded = {}
    for code in codes:
        index = faiss.index_factory(dim, code, faiss.METRIC_INNER_PRODUCT)
        if code.startswith("PQ"):  # codes of a codebook that was not trained take the same time
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
    """Seconds of the fastest of some rounds: what the machine can do."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


ITERATIONS = 10  # of FAISS over the training rows of an IVF index
CODEBOOK_WORK = 25 * 65_536 * 256  # iterations, rows and centres of FAISS for each channel of a product quantiser


@dataclass(frozen=True)
class Options:
    """What an index of so many clips takes: bytes, memory and hours of each factory, from rates measured here."""

    clips: float
    """rows, e.g. 136e6"""
    dim: int = field(default=768, metadata={"type": PositiveInt})
    """channels of an embedding"""
    machines: int = field(default=1, metadata={"type": PositiveInt})
    """machines like this one that fill parts"""
    max_memory: str | None = None
    """what the index may take while it is searched, e.g. 20GB"""
    max_latency: str | None = None
    """what one query may take, e.g. 10ms"""
    min_recall: float = field(default=0.95, metadata={"type": ClosedUnitInterval})
    """share of the 10 nearest clips to be found"""
    json: bool = False
    """print one JSON object"""


@dataclass(frozen=True)
class Cost:
    """What one factory takes."""

    factory: str
    bytes: int
    """of the index file; 0 of an exact one, which searches the store"""
    search_memory: int
    """bytes that must stay in memory for a search to be fast"""
    build_memory: int
    """bytes of training, or of one worker that fills parts: the larger"""
    training_hours: float
    adding_hours: float
    """with all machines at once"""
    merging_hours: float
    hours: float
    exact_query_seconds: float | None
    """of one query of an exact index; of the others the build measures it"""


def costs(rows: int, dim: int, rates: Rates, machines: int) -> list[Cost]:
    """Every factory that `choose` knows, from the largest codes to the smallest it would begin with."""
    lists = list_count(rows)
    passing = rows * dim * 4 / rates.passed / 3600
    read = rows * dim * 4 / rates.written / 3600 / machines  # no disk here reads slower than it writes
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
        merging = 2 * size / rates.written / 3600  # parts are read, the index is written
        part = blocks + 2 * min(PART_ROWS, rows) * (code_bytes(factory, dim) + 8) + lists * dim * 4
        memory = max(part, FIXED + trained * dim * 4)
        hours = training + adding + merging
        found.append(Cost(factory, size, size, memory, training, adding, merging, hours, None))
    return found


def run(options: Options) -> int:
    """The verb `plan`; returns the exit status."""
    rows = round(options.clips)
    if rows < 1:
        raise StepDiffError(f"--clips {options.clips:g} is no number of rows: give 1 or more, e.g. 136e6")
    given = budgets(options.max_memory, options.max_latency, options.min_recall)
    choice = choose(rows, options.dim, given)
    codes = list(dict.fromkeys(["SQfp16", "SQ8", f"PQ{pieces(options.dim)}", choice.factory.rpartition(",")[2]]))
    rates = measure(options.dim, [code for code in codes if code != FLAT])
    planned = costs(rows, options.dim, rates, options.machines)
    if options.json:
        asked = {"rows": rows, "dim": options.dim, "machines": options.machines}
        made = {"factory": choice.factory, "why": choice.why, "costs": [asdict(cost) for cost in planned]}
        print(json.dumps({**asked, **made, "rates": asdict(rates)}))
    else:
        _print(rows, options, choice, planned, rates)
    return 0


def _print(rows: int, options: Options, choice: Choice, planned: list[Cost], rates: Rates) -> None:
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
        style = "bold" if cost.factory == choice.factory else None
        figures = [*(f"{size / 1e9:,.1f}" for size in sizes), *(f"{hour:,.2f}" for hour in hours), query]
        table.add_row(cost.factory, *figures, style=style)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(f"{rows:,} rows of {options.dim} channels: {choice.factory} ({choice.why})", highlight=False)
    console.print(table)
    encoded = ", ".join(f"{rate:,.0f} rows/s to {code}" for code, rate in rates.encoded.items())
    print(
        f"measured on {rates.cores} cores: {rates.products / 1e9:,.0f} GFLOP/s of products, {encoded}, "
        f"{rates.passed / 1e9:,.1f} GB/s passed by a query, {rates.written / 1e6:,.0f} MB/s written"
    )


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval plan", Options.__doc__, run)
