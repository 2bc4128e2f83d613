"""Random batches of rows: this store compared with other formats, from memory and from the disk.

python -m benchmarks.store_read                    # about 5 minutes, 2.5 GiB of disk
python -m benchmarks.store_read --mib 128 --repeats 3

Every format holds the same rows. A measurement reads random distinct rows, batch by batch, into the
same buffers; formats take turns in another order every time, and the median counts. Cold: files are
written out, every reader is closed, and posix_fadvise(DONTNEED) puts them out of the page cache;
mincore confirms it. The ceiling of the device is a pool of threads with preadv and O_DIRECT on the
raw file, the best of 8, 16 and 32 threads. "store, direct" is how `Batches` reads what memory could
not hold, "store" how it reads all else. Rates are MB/s (10^6 bytes) of tokens and scales. A table of its own says what
the comparison with checksums costs (`benchmarks.first_reads`).
"""

import shutil
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.disk import CEILING_THREADS, direct_rate, drop
from benchmarks.first_reads import first_reads
from benchmarks.layouts import (
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
    make_view,
    read_view,
    write_view,
)
from benchmarks.report import Row, line, report
from common.cli import command
from common.cli.options import options_of
from common.io.direct_io import aligned_empty
from store import Store
from store.batches import Batches

# name: shape of a row, dtype, rows of a batch
CASES: dict[str, tuple[tuple[int, int], str, int]] = {
    "4 MiB float16": ((2048, 1024), "float16", 16),
    "4 MiB int8": ((2048, 2048), "int8", 16),
    "96 KiB float16": ((48, 1024), "float16", 256),
    "96 KiB int8": ((96, 1024), "int8", 256),
}
OURS = (Ours(), Ours(direct=True))
LAYOUTS: tuple[Layout, ...] = (
    *OURS,
    ZarrPython(),
    TensorStore(),
    H5py(),
    H5pyContiguous(),
    Lance(),
    Safetensors(),
    Memmap(),
)
CEILING = "O_DIRECT ceiling"


@dataclass(frozen=True)
class Options:
    """Compare random batches of rows with other formats."""

    mib: int = 384
    """MiB of rows in every format"""
    cold_mib: int = 384
    """MiB that a measurement from the disk reads"""
    repeats: int = 5
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary folder"""


class Case:
    """One kind of rows, in every format."""

    def __init__(self, name: str, folder: Path, options: Options) -> None:
        shape, dtype, self.batch = CASES[name]
        self.name, self.folder, self.options = name, folder, options
        self.row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.count = options.mib * 2**20 // self.row_bytes
        self.batch = min(self.batch, self.count, options.cold_mib * 2**20 // self.row_bytes)
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
        """All formats in turn, first from the disk, then from memory."""
        for repeat in range(self.options.repeats):
            for turn in self.rng.permutation(len(self.layouts) + len(CEILING_THREADS)).tolist():
                if turn < len(self.layouts):
                    layout = self.layouts[turn]
                    drop(self._where(layout))
                    self.cold[layout.name].append(self._rate(layout, cold=True))
                else:
                    self._ceiling(CEILING_THREADS[turn - len(self.layouts)])
            print(f"{self.name}: {repeat + 1} of {self.options.repeats} from the disk", file=sys.stderr)
        for _ in range(self.options.repeats):
            for turn in self.rng.permutation(len(self.layouts)).tolist():
                layout = self.layouts[turn]
                self.warm[layout.name].append(self._rate(layout, cold=False))
        print(f"{self.name}: from memory, done", file=sys.stderr)

    def _ceiling(self, threads: int) -> None:
        file = self.folder / "memmap" / "tokens"
        drop(file.parent)
        self.cold[f"{CEILING}, {threads}"].append(direct_rate(file, self.row_bytes, self._rows(cold=True), threads))

    def _rows(self, cold: bool) -> np.ndarray:
        rows = self.rng.permutation(self.count)
        return rows[: self.options.cold_mib * 2**20 // self.row_bytes] if cold else rows

    def _rate(self, layout: Layout, cold: bool) -> float:
        """MB/s; RuntimeError where a row came back wrong."""
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
        """How long a consumer that uses every batch for 50 ms waits for the next, from the disk."""
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


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """The median rate of each."""
    return {name: round(float(np.median(taken)), 1) for name, taken in rates.items()}


def figures(case: Case) -> tuple[list[Row], list[Row]]:
    """Rows of the table, and the lines that should be held."""
    cold, warm = medians(case.cold), medians(case.warm)
    ceilings = [cold.pop(f"{CEILING}, {threads}") for threads in CEILING_THREADS]
    cold[CEILING] = max(ceilings)
    found = {name: (cold[name], warm.get(name)) for name in sorted(cold)} | {
        n: (w, None) for n, w in case.absent.items()
    }
    rows: list[Row] = [
        {"case": case.name, "format": name, "cold MB/s": figures[0], "warm MB/s": figures[1]}
        for name, figures in found.items()
    ]
    lines = [line(f"{case.name}, cold, {o.name}", cold[o.name], cold[CEILING], 0.8, CEILING) for o in OURS]
    if case.name.startswith("4 MiB"):
        for least, peer in ((0.9, "memmap"), (2, "h5py"), (2, "h5py contiguous"), (4, "tensorstore")):
            if peer in warm:
                lines.append(line(f"{case.name}, warm", warm["store"], warm[peer], least, peer))
    return rows, lines


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = options_of(Options, argv, "benchmarks.store_read")
    rows: list[Row] = []
    lines: list[Row] = []
    ahead: list[Row] = []
    for name in CASES:
        folder = Path(tempfile.mkdtemp(prefix="store_read_", dir=options.folder))
        try:
            case = Case(name, folder, options)
            case.measure()
            ahead.append(case.waits())
        finally:
            shutil.rmtree(folder)
        more, held = figures(case)
        rows += more
        lines += held
    checked, held = first_reads(options.mib, max(options.repeats, 5), options.folder)
    lines += held
    facts = {"read_ahead": ahead, "first_reads": checked, "mib": options.mib, "repeats": options.repeats}
    report("store_read", rows, lines, **facts)
    return 0


if __name__ == "__main__":
    command.run(main)
