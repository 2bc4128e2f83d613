"""Threads that the room shares: reads that wait for a disk, and kernels that hold no lock.

Guarantees
- a forked process starts threads of its own
"""

import os
from concurrent.futures import ThreadPoolExecutor

READERS = 8
"""threads: so many reads are on their way to a disk at once"""
_pool: list[ThreadPoolExecutor] = []


def pool() -> ThreadPoolExecutor:
    """The pool. Its tasks must not wait for tasks of their own in it."""
    if not _pool:
        _pool.append(ThreadPoolExecutor(READERS, thread_name_prefix="store"))
    return _pool[0]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


os.register_at_fork(after_in_child=_pool.clear)
