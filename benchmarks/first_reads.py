"""What it costs to compare rows with their checksums: the first read, and those after it, from memory.

Part of `python -m benchmarks.store_read`. Every round opens the view, reads all rows once without a check, so that the
files are mapped, and then four times in random batches: unchecked, checked at the first read, again with nothing left
to check, and checked always. A ratio is the time of a read over that of the unchecked read of the same round; the
median of the rounds counts, by the clock and by the processor's time, which other programs disturb less.
"""

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.layouts import Arrays, make_view, read_view, write_view
from benchmarks.report import Row
from common.io.direct_io import aligned_empty
from store import Store, View
from store.io.row_checks import Check

# name: shape of a row, dtype, rows of a batch
CASES: dict[str, tuple[tuple[int, int], str, int]] = {
    "4 MiB float16": ((2048, 1024), "float16", 16),
    "4 MiB int8": ((2048, 2048), "int8", 16),
    "1 MiB float16": ((512, 1024), "float16", 64),
    "1 MiB int8": ((1024, 1024), "int8", 64),
    "96 KiB float16": ((48, 1024), "float16", 256),
    "96 KiB int8": ((96, 1024), "int8", 256),
}
_READS: dict[str, Check] = {"unchecked": "never", "first": "first", "later": "first", "always": "always"}
_MOST = 1.5  # times an unchecked read, that a first read may take


def first_reads(mib: int, repeats: int, folder: Path | None) -> tuple[list[Row], list[Row]]:
    """The table, and the lines that should be held, with `mib` MiB of rows of each size."""
    rows: list[Row] = []
    lines: list[Row] = []
    for name, (shape, dtype, batch) in CASES.items():
        place = Path(tempfile.mkdtemp(prefix="first_reads_", dir=folder))
        try:
            count = mib * 2**20 // (int(np.prod(shape)) * np.dtype(dtype).itemsize)
            write_view(make_view(place / "store", shape, dtype, count))
            found = _case(place / "store", count, min(batch, count), repeats)
        finally:
            shutil.rmtree(place)
        rows.append({"case": name, **found})
        held = {"line": f"time <= {_MOST} of unchecked", "ratio": found["first x"], "met": found["first x"] <= _MOST}
        lines.append({"case": f"{name}, checked first read", **held})
    return rows, lines


def _case(store: Path, count: int, batch: int, repeats: int) -> dict[str, float | int]:
    dice = np.random.default_rng(0)
    clock: dict[str, list[float]] = {name: [] for name in _READS}
    cpu: dict[str, list[float]] = {name: [] for name in _READS}
    view = Store.open(store).view("clips", "bench")
    buffers = {name: aligned_empty((batch, *a.shape), a.dtype) for name, a in _one(view).items()}
    for _ in range(repeats):
        view = Store.open(store).view("clips", "bench")
        order = dice.permutation(count)[: count // batch * batch].reshape(-1, batch)
        _read(view, "never", order, buffers)
        for name, check in _READS.items():
            started = time.perf_counter(), time.process_time()
            _read(view, check, order, buffers)
            clock[name].append(time.perf_counter() - started[0])
            cpu[name].append(time.process_time() - started[1])
    size = len(order) * sum(buffer.nbytes for buffer in buffers.values())
    room = -(-count // view.rows_per_shard) * view.rows_per_shard
    memory = sum(reader.checks.nbytes for reader in view._readers.values()) / room * 1e6
    return {
        **{f"{name} MB/s": round(size / median(taken) / 1e6, 1) for name, taken in clock.items()},
        **{f"{name} x": _ratio(clock, name) for name in _READS if name != "unchecked"},
        **{f"{name} CPU x": _ratio(cpu, name) for name in _READS if name != "unchecked"},
        "kB a million rows": round(memory / 1e3, 1),
    }


def _ratio(taken: dict[str, list[float]], name: str) -> float:
    pairs = zip(taken[name], taken["unchecked"], strict=True)
    return round(median(one / other for one, other in pairs), 2)


def _one(view: View) -> Arrays:
    return {name: array[0] for name, array in read_view(view, np.arange(1)).items()}


def _read(view: View, check: Check, order: np.ndarray, buffers: Arrays) -> None:
    view.check = check
    for rows in order:
        read_view(view, rows, buffers)
