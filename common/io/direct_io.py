"""Large reads and writes past the page cache (O_DIRECT): the disk's own speed, and no copy by the kernel.

For bytes that memory could not keep until they are wanted again. A file system that has no such
thing does nothing here, and whoever asked goes through the page cache.

Guarantees
- what is read or written is the same bytes, whatever the system can do
"""

import errno
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from common.errors import StepDiffError

PAGE = 4096
"""bytes: addresses, lengths and places in a file are to be multiples of it"""
LEAST = 2**20
"""bytes from which it is worth it: of smaller ones many must be on their way at once, which the page cache does"""
_FLAG = getattr(os, "O_DIRECT", 0)
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype | str | type) -> Shaped[np.ndarray, "..."]:
    """As np.empty, but it begins where a page does: a disk fills it, and takes from it, without a copy."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    try:
        memory = np.empty(nbytes + PAGE, np.uint8)
    except (MemoryError, ValueError, OverflowError):
        raise StepDiffError(
            f"no memory for {nbytes:,} bytes, shape {shape} in {dtype}: read fewer rows at once"
        ) from None
    start = -memory.ctypes.data % PAGE
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def fill_memory(nbytes: int) -> bool:
    """Whether so many bytes are more than half of the memory there is, so that the page cache cannot keep them."""
    return nbytes > _memory() // 2


def _memory() -> int:
    """Bytes of this machine, or what a container is allowed of them: its page cache counts too."""
    bytes_there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # no such limit, or "max"
            bytes_there = min(bytes_there, int(limit.read_text()))
    return bytes_there


def reopened(fd: int, mode: int = os.O_RDONLY) -> int | None:
    """Another descriptor of an open file, past the page cache; None where the system has none."""
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC | _FLAG) if _FLAG else None
    except OSError:
        return None


def read_direct(fd: int, target: UInt8[np.ndarray, " bytes"], offset: int) -> int:
    """Bytes that one read through `fd`, of `reopened`, has put into `target`: too few, or none, where it cannot."""
    start = offset // PAGE * PAGE
    size = -(-(offset + len(target)) // PAGE) * PAGE - start
    fits = size == len(target) and _is_aligned(target.ctypes.data)
    memory = target if fits else aligned_empty((size,), np.uint8)
    try:
        count = os.preadv(fd, [memory.data], start)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
    count = min(max(count - (offset - start), 0), len(target))
    if not fits:
        target[:count] = memory[offset - start :][:count]
    return count


def goes_direct(data: UInt8[np.ndarray, " bytes"], offset: int) -> bool:
    """Whether `write_direct` is worth a try."""
    return len(data) >= LEAST and _is_aligned(offset, len(data), data.ctypes.data)


def write_direct(fd: int, data: UInt8[np.ndarray, " bytes"], offset: int) -> int:
    """Bytes of `data` that one write through `fd`, of `reopened`, has put at `offset`: too few where it cannot."""
    try:
        return os.pwrite(fd, data.data, offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0


def _is_aligned(*places: int) -> bool:
    return not any(place % PAGE for place in places)
