"""Random batches of rows: this store compared with other formats, from memory and from the disk.

python -m benchmarks.store.read                    # about 5 minutes, 2.5 GiB of disk
python -m benchmarks.store.read --mib 32 --cold-mib 32 --repeats 1

Every format holds the same rows. A measurement reads random distinct rows, batch by batch, into the same buffers;
formats take turns in another order every time, and the median counts. Cold: files are written out, every reader is
closed, and posix_fadvise(DONTNEED) puts them out of the page cache. Ceiling: a pool of threads with preadv on the raw
file, the best of 8, 16 and 32 threads; with O_DIRECT that of the device, without that of the
page cache. "store, direct" is how `Batches` reads what memory could not hold, "store" how it reads all else: memory
keeps it for the next epoch. "store, always checked" compares each row with its checksum, as every first read does.
Rates are MB/s (10^6 bytes) of tokens and scales.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, benchmark, measured, race
from benchmarks.store.layouts import CASES, READERS, WRITERS, Read, drop, read_plainly, read_view, write_random_view
from stepdiff.common.cli import command
from stepdiff.common.io.direct_io import aligned_empty

CEILINGS = {"O_DIRECT ceiling": True, "page cache ceiling": False}
"""name: whether it bypasses the page cache"""
CEILING_THREADS = (8, 16, 32)
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


def measure(case: str, folder: Path, options: Options) -> tuple[dict[str, float], dict[str, float]]:
    """Return the MB/s of every format and ceiling from the disk, and of every format from memory."""
    shape, dtype, batch = CASES[case]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    count, cold_count = (mib * 2**20 // row_bytes for mib in (options.mib, options.cold_mib))
    batch = min(batch, count, cold_count)
    arrays = read_view(write_random_view(folder / "store", shape, dtype, count, batch), np.arange(count))
    for name, write in WRITERS.items():
        if name != "zarr-python":  # reads the store's arrays
            write(folder / name, arrays)
    buffers = {key: aligned_empty((batch, *array.shape[1:]), array.dtype) for key, array in arrays.items()}
    order = np.random.default_rng(0).permutation(count)
    warm_rows = order[: count // batch * batch].reshape(-1, batch)
    cold_rows = warm_rows[: cold_count // batch]
    plain = aligned_empty((cold_rows.size * row_bytes,), np.dtype(np.uint8))
    for buffer in (plain, *buffers.values()):
        buffer[:] = 1
    closing, opened = ExitStack(), dict[str, Read]()

    def place(way: str) -> Path:
        name = "memmap" if way.startswith(tuple(CEILINGS)) else way
        return folder / name if (folder / name).is_dir() else folder / "store"

    def open_cold(way: str) -> None:
        """Close all files, which could not be dropped while they are mapped; drop those of a way, and open them."""
        opened.clear()
        closing.close()
        drop(place(way))
        if way in READERS:
            opened[way] = READERS[way](place(way), arrays, closing)

    def read(way: str, batches: np.ndarray) -> None:
        for places in batches:
            opened[way](places, buffers)

    def check(way: str) -> None:
        """Open the files, and compare the last row of each batch."""
        opened[way] = READERS[way](place(way), arrays, closing)
        for places in warm_rows:
            for key, array in opened[way](places, buffers).items():
                assert np.array_equal(array[-1], arrays[key][places[-1]]), f"{way} read a wrong row"

    tokens = folder / "memmap" / "tokens", row_bytes, cold_rows.ravel(), plain
    ways = {
        f"{name}, {threads}": partial(read_plainly, *tokens, threads, direct)
        for name, direct in CEILINGS.items()
        for threads in CEILING_THREADS
    }
    ways |= {way: partial(read, way, cold_rows) for way in READERS}
    cold = measured(ways, options.repeats, f"{case}, from the disk, ", open_cold, warm_up=False)
    for way in READERS:
        check(way)
    ways_from_memory = {way: partial(read, way, warm_rows) for way in READERS}
    warm = measured(ways_from_memory, options.repeats, f"{case}, from memory, ", warm_up=False)
    closing.close()
    stored = sum(array[0].nbytes for array in arrays.values())
    sizes = {way: cold_rows.size * (stored if way in READERS else row_bytes) for way in ways}
    return (
        {way: round(sizes[way] / took.clock / 1e6, 1) for way, took in cold.items()},
        {way: round(warm_rows.size * stored / took.clock / 1e6, 1) for way, took in warm.items()},
    )


def run(options: Options) -> dict[str, Any]:
    """Return the record."""
    rows: list[Row] = []
    races: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="store_read_", dir=options.folder) as folder:
            cold, warm = measure(case, Path(folder), options)
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
