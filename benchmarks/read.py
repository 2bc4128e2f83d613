"""Random batches of rows: this store compared with other formats, from memory and from the disk.

python -m benchmarks.read                    # about 5 minutes, 2.5 GiB of disk
python -m benchmarks.read --mib 32 --cold-mib 32 --repeats 1

Every format holds the same rows. A measurement reads random distinct rows, batch by batch, into the
same buffers; formats take turns in another order every time, and the median counts. Cold: files are
written out, every reader is closed, and posix_fadvise(DONTNEED) puts them out of the page cache.
Ceiling: a pool of threads with preadv on the raw file, the best of 8, 16 and 32 threads; with
O_DIRECT that of the device, without that of the page cache. "store, direct" is how `Batches` reads
what memory could not hold, "store" how it reads all else: memory keeps it for the next epoch.
"store, always checked" compares each row with its checksum, as every first read does. Rates are
MB/s (10^6 bytes) of tokens and scales.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.harness import (
    CASES,
    LANCE,
    WRITERS,
    Arrays,
    Row,
    benchmark,
    measured,
    race,
    random_features,
    write_view,
)
from stepdiff_core.cli import command
from stepdiff_core.io.direct_io import aligned_empty
from store import Feature, Store, View
from store.format.quantise import Quantised

CEILINGS = {"O_DIRECT ceiling": True, "page cache ceiling": False}
"""name: whether it bypasses the page cache"""
CEILING_THREADS = (8, 16, 32)
WANTED: dict[str, float] = {
    "memmap": 0.9,
    "h5py": 2.0,
    "h5py contiguous": 2.0,
    "tensorstore": 4.0,
    "zarr-python": 2.0,
    f"lance {LANCE}": 2.0,
}
"""from memory"""
VIEW = "bench"
Read = Callable[[np.ndarray, Arrays], Arrays]
"""rows, arrays [B, ...] to fill -> the arrays, or others where a library cannot fill the
caller's"""


@dataclass(frozen=True)
class ReadBenchmarkOptions:
    mib: int = 384
    """MiB of rows in every format"""
    cold_mib: int = 384
    """MiB that a measurement from the disk reads"""
    repeats: int = 5
    """measurements of each, whose median counts"""
    folder: Path | None = None
    """where to write, on the disk to be measured; removed at the end; by default a temporary
    folder"""


def write_random_view(
    place: Path, shape: tuple[int, ...], dtype: str, rows: int, at_once: int
) -> View:
    """Write a view of random rows, `at_once` at a time, its feature called tokens."""

    def blocks() -> Iterator[tuple[pl.DataFrame, Arrays]]:
        for start in range(0, rows, at_once):
            count = min(at_once, rows - start)
            keys = pl.DataFrame({"key": [f"c{row}" for row in range(start, start + count)]})
            yield keys, {"tokens": random_features(shape, count, start)}

    return write_view(place, VIEW, {"tokens": Feature(shape, dtype)}, blocks())


def read_view(
    view: View, rows: np.ndarray, out: Arrays | None = None, direct: bool = False
) -> Arrays:
    """Read rows as they are stored: tokens, and scale where tokens are int8."""
    if "scale" not in view.stored:
        return {"tokens": view.read("tokens", rows, out["tokens"] if out else None, direct)}
    levels, scale = view.read_quantised(
        "tokens", rows, Quantised(out["tokens"], out["scale"]) if out else None, direct
    )
    return {"tokens": levels, "scale": scale}


def open_store(
    folder: Path, arrays: Arrays, closing: ExitStack, direct: bool = False, check: Any = "first"
) -> Read:
    view = Store.open(folder).view("clips", VIEW)
    view.check = check
    return lambda rows, out: read_view(view, rows, out, direct)


def open_zarr(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    """Read the store's arrays by zarr-python, row by row: its orthogonal indexing is many times
    slower."""
    import zarr

    opened = {name: zarr.open_array(_group(folder) / name, mode="r") for name in arrays}

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        for name, array in opened.items():
            for place, row in enumerate(rows.tolist()):
                out[name][place] = array[row]
        return out

    return read


def open_tensorstore(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    """Read the store's arrays by tensorstore, the whole batch in one indexed read."""
    import tensorstore

    def opened(name: str) -> Any:
        location = {"driver": "file", "path": str(_group(folder) / name)}
        return tensorstore.open({"driver": "zarr3", "kvstore": location}, read=True).result()

    files = {name: opened(name) for name in arrays}

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        futures = {name: file[rows].read() for name, file in files.items()}
        return {name: future.result() for name, future in futures.items()}

    return read


def _group(folder: Path) -> Path:
    return folder / "arrays.zarr" / "clips" / VIEW


def open_h5(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    import h5py

    file = closing.enter_context(h5py.File(folder / "rows.h5", "r"))
    opened = {name: file[name] for name in arrays}

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        for name, dataset in opened.items():
            for place, row in enumerate(rows.tolist()):
                dataset.read_direct(out[name], np.s_[row], np.s_[place])
        return out

    return read


def open_lance(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    import lance

    dataset = lance.dataset(folder)

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        table = dataset.take(rows)
        for name, array in arrays.items():
            start, size = 0, array[0].nbytes
            for chunk in table[name].chunks:
                data = np.frombuffer(
                    chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size
                )
                out[name][start : start + len(chunk)] = data.view(array.dtype).reshape(
                    -1, *array.shape[1:]
                )
                start += len(chunk)
        return out

    return read


def open_memmap(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    opened = {
        name: np.memmap(folder / name, a.dtype, "r", shape=a.shape) for name, a in arrays.items()
    }

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        for name, array in opened.items():
            np.take(array, rows, axis=0, out=out[name], mode="clip")  # other modes copy twice
        return out

    return read


READERS: dict[str, Callable[[Path, Arrays, ExitStack], Read]] = {
    "store": open_store,
    "store, direct": partial(open_store, direct=True),
    "store, always checked": partial(open_store, check="always"),
    "zarr-python": open_zarr,
    "tensorstore": open_tensorstore,
    "h5py": open_h5,
    "h5py contiguous": open_h5,
    f"lance {LANCE}": open_lance,
    "memmap": open_memmap,
}


def drop(folder: Path) -> None:
    """Drop all files below `folder`, which nobody may have mapped, from the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_plainly(
    path: Path, row_bytes: int, rows: np.ndarray, out: np.ndarray, threads: int, direct: bool
) -> None:
    """Read rows of `row_bytes` bytes into aligned bytes by preadv: past the page cache (O_DIRECT),
    or through it."""
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))

    def read(job: tuple[int, int]) -> None:
        place, row = job
        left, offset = out[place * row_bytes : (place + 1) * row_bytes].data, row * row_bytes
        while left:
            count = os.preadv(fd, [left], offset)
            left, offset = left[count:], offset + count

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, enumerate(rows.tolist())))
    os.close(fd)


def measure(
    case: str, folder: Path, options: ReadBenchmarkOptions
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the MB/s of every format and ceiling from the disk, and of every format from
    memory."""
    shape, dtype, batch = CASES[case]
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    count, cold_count = (mib * 2**20 // row_bytes for mib in (options.mib, options.cold_mib))
    batch = min(batch, count, cold_count)
    arrays = read_view(
        write_random_view(folder / "store", shape, dtype, count, batch), np.arange(count)
    )
    for name, write in WRITERS.items():
        if name != "zarr-python":  # reads the store's arrays
            write(folder / name, arrays)
    buffers = {
        key: aligned_empty((batch, *array.shape[1:]), array.dtype) for key, array in arrays.items()
    }
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
        """Close all files, which could not be dropped while they are mapped; drop those of a way,
        and open them."""
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


def run(options: ReadBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    rows: list[Row] = []
    races: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="store_read_", dir=options.folder) as folder:
            cold, warm = measure(case, Path(folder), options)
        for ceiling in CEILINGS:
            cold[ceiling] = max(cold.pop(f"{ceiling}, {threads}") for threads in CEILING_THREADS)
        rows += [
            {"case": case, "format": n, "cold MB/s": cold[n], "warm MB/s": warm.get(n)}
            for n in sorted(cold)
        ]
        for name, peer in (
            ("store", "page cache"),
            ("store", "O_DIRECT"),
            ("store, direct", "O_DIRECT"),
        ):
            races.append(
                race(
                    f"{case}, cold, {name}",
                    cold[name],
                    cold[f"{peer} ceiling"],
                    0.9,
                    f"{peer} ceiling",
                )
            )
        checked = "store, always checked"
        races.append(
            race(f"{case}, warm, {checked}", warm[checked], warm["store"], 0.85, "without checks")
        )
        for peer, wanted in WANTED.items():
            races.append(race(f"{case}, warm", warm["store"], warm[peer], wanted, peer))
    return {"rows": rows, "races": races, "mib": options.mib, "repeats": options.repeats}


main = benchmark("read", ReadBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
