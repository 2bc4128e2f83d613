"""The same rows in every layout that is compared, each written and read at its best; and the disk itself.

Rows are named arrays [R, ...]. A layout is a function that writes them, and one that opens them and returns a reader of
rows into arrays [B, ...] of the caller, or into its own where its library cannot fill the caller's.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from benchmarks.harness import write_view
from store import Feature, Store, View
from store.format.quantise import Quantised

CASES: dict[str, tuple[tuple[int, int], str, int]] = {
    "4 MiB float16": ((2048, 1024), "float16", 16),
    "4 MiB int8": ((2048, 2048), "int8", 16),
    "96 KiB float16": ((48, 1024), "float16", 256),
    "96 KiB int8": ((96, 1024), "int8", 256),
}
"""name: shape of a row, dtype, rows of a batch"""
LANCE: Literal["2.2"] = "2.2"  # version of its file format
VIEW = "bench"
Arrays = dict[str, np.ndarray]
Read = Callable[[np.ndarray, Arrays], Arrays]


def random_features(shape: tuple[int, ...], rows: int, seed: int) -> np.ndarray:
    """Return float16 [rows, *shape] of magnitudes below 2, nothing that compresses."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (rows, *shape), np.uint16)
    return (bits & 0xBFFF).view(np.float16)


def write_random_view(
    place: Path | str, shape: tuple[int, ...], dtype: str, rows: int, at_once: int, rows_per_shard: int | None = None
) -> View:
    """Write a view of random rows, `at_once` at a time, its feature called tokens."""

    def blocks() -> Iterator[tuple[pl.DataFrame, Arrays]]:
        for start in range(0, rows, at_once):
            count = min(at_once, rows - start)
            keys = pl.DataFrame({"key": [f"c{row}" for row in range(start, start + count)]})
            yield keys, {"tokens": random_features(shape, count, start)}

    return write_view(place, VIEW, {"tokens": Feature(shape, dtype)}, blocks(), rows_per_shard)


def read_view(view: View, rows: np.ndarray, out: Arrays | None = None, direct: bool = False) -> Arrays:
    """Read rows as they are stored: tokens, and scale where tokens are int8."""
    if "scale" not in view.stored:
        return {"tokens": view.read("tokens", rows, out["tokens"] if out else None, direct)}
    levels, scale = view.read_quantised("tokens", rows, Quantised(out["tokens"], out["scale"]) if out else None, direct)
    return {"tokens": levels, "scale": scale}


def open_store(folder: Path, arrays: Arrays, closing: ExitStack, direct: bool = False, check: Any = "first") -> Read:
    view = Store.open(folder).view("clips", VIEW)
    view.check = check
    return lambda rows, out: read_view(view, rows, out, direct)


def write_zarr(folder: Path, arrays: Arrays) -> None:
    import zarr

    for name, array in arrays.items():
        chunk = (1, *array.shape[1:])
        zarr.create_array(
            folder / name, shape=array.shape, dtype=array.dtype, chunks=chunk, shards=array.shape, compressors=None
        )[:] = array


def open_zarr(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    """Read the store's arrays by zarr-python, row by row: its orthogonal indexing is many times slower."""
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


def write_h5(folder: Path, arrays: Arrays, chunked: bool = True) -> None:
    """Write an HDF5 file: a chunk a row, as an array that may grow needs, or one piece, which can never grow."""
    import h5py

    folder.mkdir(parents=True)
    with h5py.File(folder / "rows.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]) if chunked else None)


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


def write_lance(folder: Path, arrays: Arrays) -> None:
    """Write a Lance dataset, a row of bytes an array: lists of numbers are slower."""
    import lance
    import pyarrow

    columns = {}
    for name, array in arrays.items():
        kind, buffers = pyarrow.binary(array[0].nbytes), [None, pyarrow.py_buffer(array)]
        columns[name] = pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(array), buffers)
    lance.write_dataset(pyarrow.table(columns), folder, data_storage_version=LANCE)


def open_lance(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    import lance

    dataset = lance.dataset(folder)

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        table = dataset.take(rows)
        for name, array in arrays.items():
            start, size = 0, array[0].nbytes
            for chunk in table[name].chunks:
                data = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
                out[name][start : start + len(chunk)] = data.view(array.dtype).reshape(-1, *array.shape[1:])
                start += len(chunk)
        return out

    return read


def write_raw(folder: Path, arrays: Arrays) -> None:
    """Write one raw file an array: nothing can be missing, checked or replaced in it."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        array.tofile(folder / name)


def open_memmap(folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
    opened = {name: np.memmap(folder / name, a.dtype, "r", shape=a.shape) for name, a in arrays.items()}

    def read(rows: np.ndarray, out: Arrays) -> Arrays:
        for name, array in opened.items():
            np.take(array, rows, axis=0, out=out[name], mode="clip")  # other modes copy twice
        return out

    return read


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {
    "zarr-python": write_zarr,
    "h5py": write_h5,
    "h5py contiguous": partial(write_h5, chunked=False),
    f"lance {LANCE}": write_lance,
    "memmap": write_raw,
}
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


def sync(folder: Path) -> None:
    """Make all below `folder` durable, names included."""
    for path in (*folder.rglob("*"), folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def drop(folder: Path) -> None:
    """Drop all files below `folder`, which nobody may have mapped, from the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_plainly(path: Path, row_bytes: int, rows: np.ndarray, out: np.ndarray, threads: int, direct: bool) -> None:
    """Read rows of `row_bytes` bytes into aligned bytes by preadv: past the page cache (O_DIRECT), or through it."""
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
