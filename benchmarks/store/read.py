"""Random batches of rows: this store compared with other formats, from memory and from the disk.

python -m benchmarks.store.read                    # about 5 minutes, 2.5 GiB of disk
python -m benchmarks.store.read --mib 32 --cold-mib 32 --repeats 1

Every format holds the same rows. A measurement reads random distinct rows, batch by batch, into the same buffers;
formats take turns in another order every time, and the median counts. Cold: files are written out, every reader is
closed, and posix_fadvise(DONTNEED) puts them out of the page cache; mincore confirms it. Ceiling: a pool of threads
with preadv on the raw file, the best of 8, 16 and 32 threads; with O_DIRECT that of the device, without that of the
page cache. "store, direct" is how `Batches` reads what memory could not hold, "store" how it reads all else: memory
keeps it for the next epoch. "store, always checked" compares each row with its checksum, as every first read does.
Rates are MB/s (10^6 bytes) of tokens and scales.
"""

import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, benchmark, race
from stepdiff.common.cli import command

Rates = dict[str, list[float]]
CEILINGS = {"O_DIRECT ceiling": True, "page cache ceiling": False}
"""name: whether it bypasses the page cache"""
WANTED = (("memmap", 0.9), ("h5py", 2.0), ("h5py contiguous", 2.0), ("tensorstore", 4.0))
"""from memory, rows of 4 MiB"""


@dataclass(frozen=True)
class Options:
    mib: int = 384
    """MiB of rows in every format"""
    cold_mib: int = 384
    """MiB that a measurement from the disk reads"""
    repeats: int = 5
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary folder"""


def measure(case: str, folder: Path, options: Options) -> tuple[Rates, Rates]:
    """Return the rates of every format and ceiling from the disk, and of every format from memory."""
    from benchmarks.store import layouts
    from stepdiff.common.io.direct_io import aligned_empty

    shape, dtype, batch = layouts.CASES[case]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    count, cold_count = (mib * 2**20 // row_bytes for mib in (options.mib, options.cold_mib))
    batch = min(batch, count, cold_count)
    view = layouts.write_random_view(folder / "store", shape, dtype, count, batch)
    arrays = layouts.read_view(view, np.arange(count))
    del view  # it maps files, which could not be dropped from the page cache
    buffers = {key: aligned_empty((batch, *array.shape[1:]), array.dtype) for key, array in arrays.items()}
    for buffer in buffers.values():
        buffer[:] = 1
    for name, write in layouts.WRITERS.items():
        if name != "zarr-python":  # reads the store's arrays
            write(folder / name, arrays)
    dice = np.random.default_rng(0)

    def rate(name: str, rows: np.ndarray, again: bool) -> float:
        """Read all rows; with `again` twice, and only the second time counts: mapped by now."""
        seconds = 0.0
        with ExitStack() as closing:
            read = layouts.READERS[name](where(name), arrays, closing)
            batches = rows[: len(rows) // batch * batch].reshape(-1, batch)
            for places in batches if again else ():
                read(places, buffers)
            for places in batches:
                started = time.perf_counter()
                got = read(places, buffers)
                seconds += time.perf_counter() - started
                for key, array in got.items():
                    assert np.array_equal(array[-1], arrays[key][places[-1]]), f"{name} read a wrong row"
            del read, got, array  # their files are mapped
        return batches.size * sum(array[0].nbytes for array in arrays.values()) / seconds / 1e6

    def where(name: str) -> Path:
        return folder / name if (folder / name).is_dir() else folder / "store"

    cold: Rates = defaultdict(list)
    warm: Rates = defaultdict(list)
    ceilings = [(name, threads) for name in CEILINGS for threads in layouts.CEILING_THREADS]
    for repeat in range(options.repeats):
        for turn in dice.permutation(len(layouts.READERS) + len(ceilings)).tolist():
            rows = dice.permutation(count)[:cold_count]
            if turn < len(ceilings):
                name, threads = ceilings[turn]
                layouts.drop(folder / "memmap")
                speed = layouts.plain_rate(folder / "memmap" / "tokens", row_bytes, rows, threads, CEILINGS[name])
                cold[f"{name}, {threads}"].append(speed)
            else:
                name = list(layouts.READERS)[turn - len(ceilings)]
                layouts.drop(where(name))
                cold[name].append(rate(name, rows, again=False))
        print(f"{case}: {repeat + 1} of {options.repeats} from the disk", file=sys.stderr)
    for _ in range(options.repeats):
        for name in dice.permutation(list(layouts.READERS)).tolist():
            warm[name].append(rate(name, dice.permutation(count), again=True))
    return cold, warm


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
    from benchmarks.store.layouts import CASES, CEILING_THREADS

    rows: list[Row] = []
    races: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="store_read_", dir=options.folder) as folder:
            cold, warm = (
                {name: round(float(np.median(taken)), 1) for name, taken in rates.items()}
                for rates in measure(case, Path(folder), options)
            )
        for ceiling in CEILINGS:
            cold[ceiling] = max(cold.pop(f"{ceiling}, {threads}") for threads in CEILING_THREADS)
        rows += [{"case": case, "format": n, "cold MB/s": cold[n], "warm MB/s": warm.get(n)} for n in sorted(cold)]
        for name, peer in (("store", "page cache"), ("store", "O_DIRECT"), ("store, direct", "O_DIRECT")):
            races.append(race(f"{case}, cold, {name}", cold[name], cold[f"{peer} ceiling"], 0.9, f"{peer} ceiling"))
        checked = "store, always checked"
        races.append(race(f"{case}, warm, {checked}", warm[checked], warm["store"], 0.67, "without checks"))
        for peer, wanted in WANTED if case.startswith("4 MiB") else ():
            races.append(race(f"{case}, warm", warm["store"], warm[peer], wanted, peer))
    return {"rows": rows, "races": races, "mib": options.mib, "repeats": options.repeats}


main = benchmark("store.read", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
