"""Large reads and writes that bypass the page cache (O_DIRECT): the disk's own speed, and no copy
by the kernel.

For bytes that memory could not keep until they are needed again. If the file system has no
O_DIRECT, the functions do nothing, and the caller uses the page cache, with the same bytes.
"""

import errno
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8

from stepdiff_core.errors import StepDiffError

PAGE = 4096
"""bytes: addresses, lengths and offsets must be multiples of it"""
LEAST = 2**20
"""bytes from which it is faster: smaller reads need many in flight, which the page cache does"""
_FLAG = getattr(os, "O_DIRECT", 0)
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def aligned_empty(
    shape: tuple[int, ...], dtype: np.dtype | str | type
) -> Shaped[np.ndarray, "..."]:
    """Return `np.empty` aligned to a page, so that a disk reads and writes it without a copy."""
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
    """Return whether `nbytes` are more than half of the memory, so that the page cache cannot keep
    them."""
    return nbytes > _memory() // 2


def _memory() -> int:
    """Return the bytes of this machine, or of its container: the page cache counts towards that
    limit."""
    bytes_there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # no such limit, or "max"
            bytes_there = min(bytes_there, int(limit.read_text()))
    return bytes_there


def reopened(fd: int, mode: int = os.O_RDONLY) -> int | None:
    """Return another descriptor of an open file that bypasses the page cache; None if the system
    has none."""
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC | _FLAG) if _FLAG else None
    except OSError:
        return None


def read_direct(fd: int, target: UInt8[np.ndarray, " bytes"], offset: int) -> int:
    """Read into `target` through `fd`, of `reopened`; return the number of bytes read, which is
    smaller or 0 if the system cannot read them."""
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
    """Return whether `write_direct` may work."""
    return len(data) >= LEAST and _is_aligned(offset, len(data), data.ctypes.data)


def write_direct(fd: int, data: UInt8[np.ndarray, " bytes"], offset: int) -> int:
    """Write `data` at `offset` through `fd`, of `reopened`; return the number of bytes written,
    which is smaller if the system cannot write them."""
    try:
        return os.pwrite(fd, data.data, offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0


def _is_aligned(*places: int) -> bool:
    return not any(place % PAGE for place in places)
