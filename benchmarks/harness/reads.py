"""Random batches of rows, read in every format from memory and from the disk, and what checksums cost a first read.

A ratio of `first_reads` is the time of a read over that of the unchecked read of the same round. Every round opens the
view, reads all rows once without a check, so that the files are mapped, and then four times in random batches:
unchecked, checked at the first read, again with nothing left to check, and always checked.
"""

import shutil
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness.layouts import (
    CEILING_THREADS,
    Arrays,
    H5py,
    H5pyContiguous,
    Lance,
    Layout,
    Memmap,
    Ours,
    Safetensors,
    TensorStore,
    ZarrPython,
    drop,
    make_view,
    plain_rate,
    read_view,
    write_view,
)
from benchmarks.harness.report import Row
from stepdiff.common.io.direct_io import aligned_empty
from store import Store, View
from store.batches import Batches
from store.io.row_checks import Check

# name: shape of a row, dtype, rows of a batch
CASES: dict[str, tuple[tuple[int, int], str, int]] = {
    "4 MiB float16": ((2048, 1024), "float16", 16),
    "4 MiB int8": ((2048, 2048), "int8", 16),
    "96 KiB float16": ((48, 1024), "float16", 256),
    "96 KiB int8": ((96, 1024), "int8", 256),
}
FIRST = CASES | {
    "1 MiB float16": ((512, 1024), "float16", 64),
    "1 MiB int8": ((1024, 1024), "int8", 64),
}
LAYOUTS: tuple[Layout, ...] = (
    Ours(),
    Ours(direct=True),
    ZarrPython(),
    TensorStore(),
    H5py(),
    H5pyContiguous(),
    Lance(),
    Safetensors(),
    Memmap(),
)
CEILINGS = {"O_DIRECT ceiling": True, "page cache ceiling": False}
"""name: whether it bypasses the page cache"""
_READS: dict[str, Check] = {"unchecked": "never", "first": "first", "later": "first", "always": "always"}
_MOST = 1.5  # times an unchecked read, that a first read may take


class Case:
    """One kind of rows, in every format."""

    def __init__(self, name: str, folder: Path, mib: int, cold_mib: int, repeats: int) -> None:
        shape, dtype, self.batch = CASES[name]
        self.name, self.folder, self.cold_mib, self.repeats = name, folder, cold_mib, repeats
        self.row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.count = mib * 2**20 // self.row_bytes
        self.batch = min(self.batch, self.count, cold_mib * 2**20 // self.row_bytes)
        view = make_view(folder / "store", shape, dtype, self.count)
        write_view(view)
        self.arrays: Arrays = read_view(view, np.arange(self.count))
        self.buffers = {k: aligned_empty((self.batch, *a.shape[1:]), a.dtype) for k, a in self.arrays.items()}
        for buffer in self.buffers.values():
            buffer[:] = 1
        self.rng = np.random.default_rng(0)
        self.absent: dict[str, str] = {}
        self.layouts = [layout for layout in LAYOUTS if self._write(layout)]
        self.cold: dict[str, list[float]] = defaultdict(list)
        self.warm: dict[str, list[float]] = defaultdict(list)

    def _write(self, layout: Layout) -> bool:
        if type(layout).write is Layout.write:  # reads the store's own files
            return True
        try:
            layout.write(self.folder / layout.name, self.arrays)
        except ModuleNotFoundError as error:
            self.absent[layout.name] = str(error)
            return False
        return True

    def _where(self, layout: Layout) -> Path:
        own = self.folder / layout.name
        return own if own.is_dir() and not isinstance(layout, ZarrPython) else self.folder / "store"

    def measure(self) -> None:
        """Measure all formats in turn, first from the disk, then from memory."""
        ceilings = [(name, threads) for name in CEILINGS for threads in CEILING_THREADS]
        for repeat in range(self.repeats):
            for turn in self.rng.permutation(len(self.layouts) + len(ceilings)).tolist():
                if turn < len(self.layouts):
                    layout = self.layouts[turn]
                    drop(self._where(layout))
                    self.cold[layout.name].append(self._rate(layout, cold=True))
                else:
                    self._ceiling(*ceilings[turn - len(self.layouts)])
            print(f"{self.name}: {repeat + 1} of {self.repeats} from the disk", file=sys.stderr)
        for _ in range(self.repeats):
            for turn in self.rng.permutation(len(self.layouts)).tolist():
                layout = self.layouts[turn]
                self.warm[layout.name].append(self._rate(layout, cold=False))
        print(f"{self.name}: from memory, done", file=sys.stderr)

    def _ceiling(self, name: str, threads: int) -> None:
        file = self.folder / "memmap" / "tokens"
        drop(file.parent)
        rate = plain_rate(file, self.row_bytes, self._rows(cold=True), threads, CEILINGS[name])
        self.cold[f"{name}, {threads}"].append(rate)

    def _rows(self, cold: bool) -> np.ndarray:
        rows = self.rng.permutation(self.count)
        return rows[: self.cold_mib * 2**20 // self.row_bytes] if cold else rows

    def _rate(self, layout: Layout, cold: bool) -> float:
        """Return MB/s. RuntimeError: a row differs."""
        with ExitStack() as closing:
            read = layout.open(self._where(layout), self.arrays, closing)
            rows = self._rows(cold)
            starts = range(0, len(rows) - self.batch + 1, self.batch)
            if not cold:  # twice, and only the second time counts: mapped by now
                for start in starts:
                    read(rows[start : start + self.batch], self.buffers)
            seconds = 0.0
            for start in starts:
                some = rows[start : start + self.batch]
                started = time.perf_counter()
                got = read(some, self.buffers)
                seconds += time.perf_counter() - started
                for name, array in got.items():
                    if not np.array_equal(array[-1], self.arrays[name][some[-1]]):
                        raise RuntimeError(f"{layout.name} read a wrong row")
            size = sum(array[0].nbytes for array in self.arrays.values())
            del read, got, array
        return len(starts) * self.batch * size / seconds / 1e6

    def waits(self) -> Row:
        """Return how long a consumer that uses every batch for 50 ms waits for the next, from the disk."""
        drop(self.folder / "store")
        batches = Batches(Store.open(self.folder / "store").view("clips", "bench"), "tokens", batch_size=self.batch)
        waits = []
        asked = time.perf_counter()
        for _ in batches:
            waits.append(1e3 * (time.perf_counter() - asked))
            time.sleep(0.05)
            asked = time.perf_counter()
        return {
            "read ahead": self.name,
            "batches": len(waits),
            "first wait ms": round(waits[0], 1),
            "median wait ms": round(float(np.median(waits[1:])), 2),
            "longest wait ms": round(max(waits[1:]), 2),
        }


def first_reads(mib: int, repeats: int, folder: Path | None) -> tuple[list[Row], list[Row]]:
    """Return rows and lines with `mib` MiB of rows of each size."""
    rows: list[Row] = []
    lines: list[Row] = []
    for name, (shape, dtype, batch) in FIRST.items():
        place = Path(tempfile.mkdtemp(prefix="first_reads_", dir=folder))
        try:
            count = mib * 2**20 // (int(np.prod(shape)) * np.dtype(dtype).itemsize)
            write_view(make_view(place / "store", shape, dtype, count))
            found = _first_reads(place / "store", count, min(batch, count), repeats)
        finally:
            shutil.rmtree(place)
        rows.append({"case": name, **found})
        limit = {"line": f"time <= {_MOST} of unchecked", "ratio": found["first x"], "met": found["first x"] <= _MOST}
        lines.append({"case": f"{name}, checked first read", **limit})
    return rows, lines


def _first_reads(store: Path, count: int, batch: int, repeats: int) -> dict[str, float | int]:
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
