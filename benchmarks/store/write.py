"""Whole shards onto the disk, fsync included: this store next to other formats.

python -m benchmarks.store.write                   # about 2 minutes, 0.6 GiB of disk at a time
python -m benchmarks.store.write --mib 8 --repeats 1

Every format writes the same rows, one shard, from memory, and makes files and their names durable. Formats take turns
in another order every time, and the median counts. The store is given what an encoder returns (int8: float16 values,
which it quantises), looks for NaN and infinity, computes a checksum of every row, and commits with status last. The
ceiling is a raw file: one write and one fsync. Rates are MB/s (10^6 bytes) of stored tokens and scales.
"""

import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Row, benchmark, race
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from benchmarks.store.layouts import Arrays

RAW = "raw file + fsync"


@dataclass(frozen=True)
class Options:
    mib: int = 256
    """MiB of a shard"""
    repeats: int = 7
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary folder"""


def write_store(folder: Path, features: np.ndarray, dtype: str) -> float:
    """Return the seconds to write and commit one shard of the store."""
    import polars as pl

    from store import Feature, Provenance, Store

    store = Store.open(folder, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{row}" for row in range(len(features))]}))
    provenance = Provenance("none", "0" * 64, "none", "none", "none", {"tokens": dtype})
    slots = 2 ** (len(features) - 1).bit_length()
    with store.lock():
        view = store.create_view("clips", "bench", provenance, {"tokens": Feature(features.shape[1:], dtype)}, slots)
    started = time.perf_counter()
    view.write_shard(0, np.arange(len(features)), {"tokens": features}, {})
    return time.perf_counter() - started


def write_peer(name: str, folder: Path, arrays: "Arrays") -> float:
    """Return the seconds to write the arrays and make them durable."""
    from benchmarks.store import layouts

    started = time.perf_counter()
    layouts.WRITERS[name](folder, arrays)
    layouts.sync(folder)
    return time.perf_counter() - started


def measure(case: str, options: Options) -> dict[str, float]:
    """Return the MB/s of every format."""
    from benchmarks.store import layouts
    from store.format.quantise import quantise

    shape, dtype, _ = layouts.CASES[case]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    features = layouts.random_features(shape, options.mib * 2**20 // row_bytes, 0)
    arrays = {"tokens": features}
    if dtype == "int8":
        levels, scale = quantise(features.astype(np.float32))
        arrays = {"tokens": levels, "scale": scale}
    ways = {name: partial(write_peer, name, arrays=arrays) for name in layouts.WRITERS}
    ways = {"store": partial(write_store, features=features, dtype=dtype), RAW: ways.pop("memmap"), **ways}
    rates = defaultdict(list)
    dice = np.random.default_rng(0)
    for repeat in range(options.repeats + 1):
        for name in dice.permutation(list(ways)).tolist():
            with tempfile.TemporaryDirectory(prefix="store_write_", dir=options.folder) as folder:
                seconds = ways[name](Path(folder, "new"))
            if repeat:  # the first compiles, imports and warms up
                rates[name].append(sum(array.nbytes for array in arrays.values()) / seconds / 1e6)
        print(f"{case}: {repeat} of {options.repeats}", file=sys.stderr)
    return {name: round(float(np.median(rates[name])), 1) for name in sorted(rates)}


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
    from benchmarks.store.layouts import CASES

    rows: list[Row] = []
    races: list[Row] = []
    for case in CASES:
        medians = measure(case, options)
        rows += [{"case": case, "format": name, "MB/s": rate} for name, rate in medians.items()]
        races.append(race(case, medians["store"], medians[RAW], 0.95, RAW))
    return {"rows": rows, "races": races, "mib": options.mib, "repeats": options.repeats}


main = benchmark("store.write", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
