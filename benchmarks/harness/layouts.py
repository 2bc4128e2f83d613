"""The same rows in every layout that is compared, each written and read at its best; their files, and the disk itself.

A layout holds named arrays [R, ...] and reads rows of them into arrays [B, ...] of the caller, or into its own where
its library cannot fill the caller's.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from store import Feature, Provenance, Store, View
from store.format.quantise import Quantised

CEILING_THREADS = (8, 16, 32)
_libc = ctypes.CDLL(None, use_errno=True)
Arrays = dict[str, np.ndarray]
Read = Callable[[np.ndarray, Arrays], Arrays]


def make_view(folder: Path, shape: tuple[int, ...], dtype: str, rows: int, rows_per_shard: int | None = None) -> View:
    """Create an empty view of `rows` rows in a new store, its feature called tokens."""
    store = Store.open(folder, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(rows)]}))
    provenance = Provenance("none", "0" * 64, "none", "none", "none", {"tokens": dtype})
    with store.lock():
        return store.create_view("clips", "bench", provenance, {"tokens": Feature(shape, dtype)}, rows_per_shard)


def random_features(shape: tuple[int, ...], rows: int, seed: int) -> np.ndarray:
    """Return float16 [rows, *shape] of magnitudes below 2, nothing that compresses."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (rows, *shape), np.uint16)
    return (bits & 0xBFFF).view(np.float16)


def write_view(view: View) -> None:
    """Write every row."""
    size, length = view.rows_per_shard, len(view)
    for shard in range(-(-length // size)):
        rows = np.arange(shard * size, min((shard + 1) * size, length))
        view.write_shard(shard, rows, {"tokens": random_features(view.features["tokens"].shape, len(rows), shard)}, {})


def read_view(view: View, rows: np.ndarray, out: Arrays | None = None, direct: bool = False) -> Arrays:
    """Read rows as they are stored: tokens, and scale where tokens are int8."""
    if "scale" not in view.stored:
        return {"tokens": view.read("tokens", rows, out["tokens"] if out else None, direct)}
    levels, scale = view.read_quantised("tokens", rows, Quantised(out["tokens"], out["scale"]) if out else None, direct)
    return {"tokens": levels, "scale": scale}


class Layout:
    """One way to keep rows on disk."""

    name: str

    def write(self, folder: Path, arrays: Arrays) -> None:
        """Write the arrays into `folder`."""
        raise NotImplementedError

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        """Return the function that reads rows. arrays: names, shapes and dtypes; closing: closes it."""
        raise NotImplementedError


class Ours(Layout):
    """This project's store and reader, which goes past the page cache if asked to."""

    def __init__(self, direct: bool = False) -> None:
        self.direct = direct
        self.name = "store, direct" if direct else "store"

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        view = Store.open(folder).view("clips", "bench")
        return lambda rows, out: read_view(view, rows, out, self.direct)


class ZarrPython(Layout):
    """zarr-python, row by row: its orthogonal indexing is many times slower."""

    name = "zarr-python"

    def write(self, folder: Path, arrays: Arrays) -> None:
        import zarr

        for name, array in arrays.items():
            chunk = (1, *array.shape[1:])
            made = zarr.create_array(
                folder / name, shape=array.shape, dtype=array.dtype, chunks=chunk, shards=array.shape, compressors=None
            )
            made[:] = array

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        import zarr

        opened = {name: zarr.open_array(_group(folder) / name, mode="r") for name in arrays}

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            for name, array in opened.items():
                for i, row in enumerate(rows.tolist()):
                    out[name][i] = array[row]
            return out

        return read


class TensorStore(Layout):
    """tensorstore, the whole batch in one indexed read."""

    name = "tensorstore"

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        import tensorstore

        def opened(name: str) -> Any:
            where = {"driver": "file", "path": str(_group(folder) / name)}
            return tensorstore.open({"driver": "zarr3", "kvstore": where}, read=True).result()

        files = {name: opened(name) for name in arrays}

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            asked = {name: file[rows].read() for name, file in files.items()}
            return {name: future.result() for name, future in asked.items()}

        return read


class H5py(Layout):
    """h5py, read straight into the batch; a chunk a row, as an array that may grow needs."""

    name = "h5py"

    def write(self, folder: Path, arrays: Arrays) -> None:
        import h5py

        folder.mkdir(parents=True)
        with h5py.File(folder / "rows.h5", "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, chunks=self._chunks(array))

    def _chunks(self, array: np.ndarray) -> tuple[int, ...] | None:
        return (1, *array.shape[1:])

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        import h5py

        file = closing.enter_context(h5py.File(folder / "rows.h5", "r"))
        opened = {name: file[name] for name in arrays}

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            for name, dataset in opened.items():
                for i, row in enumerate(rows.tolist()):
                    dataset.read_direct(out[name], np.s_[row], np.s_[i])
            return out

        return read


class H5pyContiguous(H5py):
    """h5py with one piece an array, which is faster and can never grow."""

    name = "h5py contiguous"

    def _chunks(self, array: np.ndarray) -> None:
        return None


class Lance(Layout):
    """Lance, a row of bytes an array: lists of numbers are slower."""

    name = "lance"

    def write(self, folder: Path, arrays: Arrays) -> None:
        import lance
        import pyarrow

        columns = {}
        for name, array in arrays.items():
            kind = pyarrow.binary(array[0].nbytes)
            buffers = [None, pyarrow.py_buffer(array)]
            columns[name] = pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(array), buffers)
        lance.write_dataset(pyarrow.table(columns), folder)

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        import lance

        dataset = lance.dataset(folder)

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            table = dataset.take(rows)
            for name, array in arrays.items():
                start = 0
                for chunk in table[name].chunks:
                    size = array[0].nbytes
                    data = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
                    out[name][start : start + len(chunk)] = data.view(array.dtype).reshape(-1, *array.shape[1:])
                    start += len(chunk)
            return out

        return read


class Safetensors(Layout):
    """safetensors, one tensor an array, sliced."""

    name = "safetensors"

    def write(self, folder: Path, arrays: Arrays) -> None:
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        save_file(arrays, folder / "rows.safetensors")

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        from safetensors import safe_open

        file = closing.enter_context(safe_open(folder / "rows.safetensors", "numpy"))
        opened = {name: file.get_slice(name) for name in arrays}

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            for name, piece in opened.items():
                for i, row in enumerate(rows.tolist()):
                    out[name][i] = piece[row]
            return out

        return read


class Memmap(Layout):
    """One raw file an array, mapped by numpy: nothing can be missing, checked or replaced in it."""

    name = "memmap"

    def write(self, folder: Path, arrays: Arrays) -> None:
        folder.mkdir(parents=True)
        for name, array in arrays.items():
            array.tofile(folder / name)

    def open(self, folder: Path, arrays: Arrays, closing: ExitStack) -> Read:
        opened = {name: np.memmap(folder / name, a.dtype, "r", shape=a.shape) for name, a in arrays.items()}

        def read(rows: np.ndarray, out: Arrays) -> Arrays:
            for name, array in opened.items():
                np.take(array, rows, axis=0, out=out[name], mode="clip")  # other modes copy twice
            return out

        return read


def _group(folder: Path) -> Path:
    return folder / "arrays.zarr" / "clips" / "bench"


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sync(folder: Path) -> None:
    """Make all below `folder` durable, names included."""
    for path in (*files(folder), *(p for p in folder.rglob("*") if p.is_dir()), folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def drop(folder: Path) -> None:
    """Drop all files below `folder` from the page cache. RuntimeError: more than 2 % stays, as mapped pages do."""
    size = stays = 0
    for path in files(folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size, stays = size + path.stat().st_size, stays + _resident(fd)
        os.close(fd)
    if stays > 0.02 * size:
        raise RuntimeError(f"{stays / size:.0%} of {folder} stays in memory: a cold read cannot be measured")


def _resident(fd: int) -> int:
    """Return the bytes of the file in the page cache."""
    size = os.fstat(fd).st_size
    if not size:
        return 0
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        held = (ctypes.c_char * size).from_buffer(mapped)
        code = _libc.mincore(ctypes.byref(held), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
        del held
    if code:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return int((pages & 1).sum()) * mmap.PAGESIZE


def plain_rate(path: Path, row_bytes: int, rows: np.ndarray, threads: int, direct: bool) -> float:
    """Return the MB/s of reading rows of `row_bytes` bytes by preadv: past the page cache (O_DIRECT), or through it."""
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    target = np.frombuffer(mmap.mmap(-1, len(rows) * row_bytes), np.uint8)  # aligned, as O_DIRECT needs it
    target[:] = 1

    def read(job: tuple[int, int]) -> None:
        place, row = job
        left, offset = target[place * row_bytes : (place + 1) * row_bytes].data, row * row_bytes
        while left:
            count = os.preadv(fd, [left], offset)
            left, offset = left[count:], offset + count

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.001] * threads))  # starts the threads
        started = time.perf_counter()
        list(pool.map(read, enumerate(rows.tolist())))
        seconds = time.perf_counter() - started
    os.close(fd)
    return len(rows) * row_bytes / seconds / 1e6
