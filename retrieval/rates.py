"""how fast this machine builds an index: a few seconds of each kind of work

Guarantees
- a rate is one that was measured here and now
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.streams import generator

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
