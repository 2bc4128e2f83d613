"""Whole shards onto the disk, fsync included: this store next to other formats.

python -m benchmarks.write                   # about 2 minutes, 0.6 GiB of disk at a time
python -m benchmarks.write --mib 8 --repeats 1

Every format writes the same rows, one shard, from memory, and makes files and their names durable.
Formats take turns in another order every time, and the median counts. The store is given what an
encoder returns (int8: float16 values, which it quantises), looks for NaN and infinity, computes a
checksum of every row, and commits with status last. The ceiling is a raw file: one write and one
fsync. Rates are MB/s (10^6 bytes) of stored tokens and scales.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import (
    CASES,
    WRITERS,
    Arrays,
    Row,
    benchmark,
    measured,
    race,
    random_features,
)
from stepdiff_core.cli import command
from store import Feature, Provenance, Store, View
from store.format.quantise import quantise

RAW = "raw file + fsync"


@dataclass(frozen=True)
class WriteBenchmarkOptions:
    mib: int = 256
    """MiB of a shard"""
    repeats: int = 7
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary
    folder"""


def new_view(folder: Path, features: np.ndarray, dtype: str) -> View:
    """Return a view in a new store, of one shard with room for the features."""
    store = Store.open(folder, create=True)
    store.catalog("clips").append(
        pl.DataFrame({"key": [f"c{row}" for row in range(len(features))]})
    )
    provenance = Provenance("none", "0" * 64, "none", "none", "none", {"tokens": dtype})
    slots = 2 ** (len(features) - 1).bit_length()
    with store.lock():
        return store.create_view(
            "clips", "bench", provenance, {"tokens": Feature(features.shape[1:], dtype)}, slots
        )


def write_peer(name: str, folder: Path, arrays: Arrays) -> None:
    """Write the arrays and make them durable, names included."""
    WRITERS[name](folder, arrays)
    for path in (*folder.rglob("*"), folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def measure(case: str, folder: Path, options: WriteBenchmarkOptions) -> dict[str, float]:
    """Return the MB/s of every format."""
    shape, dtype, _ = CASES[case]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    features = random_features(shape, options.mib * 2**20 // row_bytes, 0)
    arrays = {"tokens": features}
    if dtype == "int8":
        levels, scale = quantise(features.astype(np.float32))
        arrays = {"tokens": levels, "scale": scale}
    views: list[View] = []

    def clear(way: str) -> None:
        rmtree(folder, ignore_errors=True)
        if way == "store":
            views[:] = [new_view(folder, features, dtype)]

    ways: dict[str, Callable[[], object]] = {
        RAW if name == "memmap" else name: partial(write_peer, name, folder, arrays)
        for name in WRITERS
    }
    ways["store"] = lambda: views[0].write_shard(
        0, np.arange(len(features)), {"tokens": features}, {}
    )
    seconds = measured(ways, options.repeats, f"{case}, ", clear)
    size = sum(array.nbytes for array in arrays.values())
    return {name: round(size / took.clock / 1e6, 1) for name, took in sorted(seconds.items())}


def run(options: WriteBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    rows: list[Row] = []
    races: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="store_write_", dir=options.folder) as folder:
            medians = measure(case, Path(folder, "new"), options)
        rows += [{"case": case, "format": name, "MB/s": rate} for name, rate in medians.items()]
        races.append(race(case, medians["store"], medians[RAW], 0.95, RAW))
    return {"rows": rows, "races": races, "mib": options.mib, "repeats": options.repeats}


main = benchmark("write", WriteBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
