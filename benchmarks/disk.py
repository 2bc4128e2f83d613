"""Files out of memory and onto the disk, and how fast the disk itself is."""

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

CEILING_THREADS = (8, 16, 32)
_libc = ctypes.CDLL(None, use_errno=True)


def files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sync(folder: Path) -> None:
    """Make all below `folder` durable, names included."""
    for path in (*files(folder), *(p for p in folder.rglob("*") if p.is_dir()), folder):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def drop(folder: Path) -> None:
    """Put all files below `folder` out of the page cache; RuntimeError where more than 2 % stays.

    Pages that somebody has mapped stay, so close every reader before.
    """
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
    """Bytes of the file in the page cache."""
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


def direct_rate(path: Path, row_bytes: int, rows: np.ndarray, threads: int) -> float:
    """MB/s of reading rows of `row_bytes` bytes past the page cache (O_DIRECT)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    target = np.frombuffer(mmap.mmap(-1, len(rows) * row_bytes), np.uint8)  # aligned, as O_DIRECT needs it
    target[:] = 1

    def read(job: tuple[int, int]) -> None:
        place, row = job
        left, offset = target[place * row_bytes : (place + 1) * row_bytes].data, row * row_bytes
        while left:
            count = os.preadv(fd, [left], offset)
            left, offset = left[count:], offset + count

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.001] * threads))  # the threads are there now
        started = time.perf_counter()
        list(pool.map(read, enumerate(rows.tolist())))
        seconds = time.perf_counter() - started
    os.close(fd)
    return len(rows) * row_bytes / seconds / 1e6
