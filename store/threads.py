"""Threads that the room shares: reads that wait for a disk, and kernels that hold no lock.

Guarantees
- a forked process starts threads of its own
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

READERS = 8
"""threads: so many reads are on their way to a disk at once"""
Given = TypeVar("Given")
Made = TypeVar("Made")
_pool: list[ThreadPoolExecutor] = []


def each(do: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
    """What `do` makes of each, done at the same time; the caller's thread takes the first.

    `do` must not call this itself: threads that wait for one another may be all there are.
    """
    if not given:
        return []
    if len(given) > 1 and not _pool:
        _pool.append(ThreadPoolExecutor(READERS, thread_name_prefix="store"))
    others = [_pool[0].submit(do, one) for one in given[1:]]
    try:
        return [do(given[0]), *(other.result() for other in others)]
    finally:
        wait(others)  # none may write into the caller's memory after an error


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


os.register_at_fork(after_in_child=_pool.clear)
