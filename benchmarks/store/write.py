"""Whole shards onto the disk, fsync included: this store next to other formats.

python -m benchmarks.store.write                   # about 2 minutes, 0.6 GiB of disk at a time
python -m benchmarks.store.write --mib 64 --repeats 3

Every format writes the same rows, one shard, from memory, and makes files and their names durable.
Formats take turns in another order every time, and the median counts. The store is given what an
encoder returns (int8: float16 values, which it quantises), looks for NaN and infinity, checks sums
of every row, and commits with status last; the raw file is one write and one fsync. Rates are MB/s
(10^6 bytes) of stored tokens and scales.
"""

import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from benchmarks.harness.layouts import Arrays, Layout

# name: shape of a row, dtype
CASES: dict[str, tuple[tuple[int, int], str]] = {
    "4 MiB float16": ((2048, 1024), "float16"),
    "4 MiB int8": ((2048, 2048), "int8"),
    "96 KiB float16": ((48, 1024), "float16"),
    "96 KiB int8": ((96, 1024), "int8"),
}
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
    from benchmarks.harness.layouts import make_view

    view = make_view(folder, features.shape[1:], dtype, len(features), 2 ** (len(features) - 1).bit_length())
    started = time.perf_counter()
    view.write_shard(0, np.arange(len(features)), {"tokens": features}, {})
    return time.perf_counter() - started


def write_peer(layout: "Layout", folder: Path, arrays: "Arrays") -> float:
    """Return the seconds to write the arrays and make them durable."""
    from benchmarks.harness.layouts import sync

    started = time.perf_counter()
    layout.write(folder, arrays)
    sync(folder)
    return time.perf_counter() - started


def measure(name: str, options: Options) -> tuple[list[Row], list[Row]]:
    """Return rows and the line of one case."""
    from benchmarks.harness import layouts
    from store.format.quantise import quantise

    kinds = (layouts.ZarrPython, layouts.H5py, layouts.H5pyContiguous, layouts.Lance, layouts.Safetensors)
    peers: list[Layout] = [*(kind() for kind in kinds), layouts.Memmap()]
    shape, dtype = CASES[name]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    features = layouts.random_features(shape, options.mib * 2**20 // row_bytes, 0)
    arrays = {"tokens": features}
    if dtype == "int8":
        levels, scale = quantise(features.astype(np.float32))
        arrays = {"tokens": levels, "scale": scale}
    size = sum(array.nbytes for array in arrays.values())
    rates: dict[str, list[float]] = defaultdict(list)
    absent: dict[str, str] = {}
    rng = np.random.default_rng(0)
    for repeat in range(options.repeats + 1):
        for turn in rng.permutation(len(peers) + 1).tolist():
            peer = peers[turn] if turn < len(peers) else None
            way = "store" if peer is None else RAW if isinstance(peer, layouts.Memmap) else peer.name
            folder = Path(tempfile.mkdtemp(prefix="store_write_", dir=options.folder))
            try:
                if peer is None:
                    seconds = write_store(folder / "new", features, dtype)
                else:
                    seconds = write_peer(peer, folder / "new", arrays)
                if repeat:  # the first compiles, imports and warms up
                    rates[way].append(size / seconds / 1e6)
            except ModuleNotFoundError as error:
                absent[way] = str(error)
            finally:
                shutil.rmtree(folder)
        print(f"{name}: {repeat} of {options.repeats}", file=sys.stderr)
    medians = {way: round(float(np.median(each)), 1) for way, each in sorted(rates.items())}
    rows: list[Row] = [{"case": name, "format": way, "MB/s": rate} for way, rate in medians.items()]
    rows += [{"case": name, "format": way, "MB/s": why} for way, why in absent.items()]
    return rows, [line(name, medians["store"], medians[RAW], 0.9, RAW)]


def run(options: Options) -> dict[str, Any]:
    """Return rows and lines."""
    rows: list[Row] = []
    lines: list[Row] = []
    for name in CASES:
        more, held = measure(name, options)
        rows += more
        lines += held
    return {"rows": rows, "lines": lines, "mib": options.mib, "repeats": options.repeats}


main = benchmark("store.write", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
