"""Threads that the room shares: reads that wait for a disk, and kernels that hold no lock.

Guarantees
- a forked process starts threads of its own
- what is made ahead comes in order and is little
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

READERS = 8
"""threads: so many reads are on their way to a disk at once"""
AHEAD = 2
"""for each core, what is made and waits to be used"""
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


def ahead(do: Callable[[Given], Made], given: Sequence[Given]) -> Iterator[Made]:
    """What `do` makes of each, in order; threads make the next ones while one is used."""
    if len(given) == 1:
        yield do(given[0])
        return
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(cores(), thread_name_prefix="store-ahead") as pool:
        for one in given:
            made.append(pool.submit(do, one))
            if len(made) > AHEAD * cores():
                yield made.popleft().result()
        while made:
            yield made.popleft().result()


def shares(count: int, parts: int | None = None) -> list[tuple[int, int]]:
    """0 to `count` in at most `parts` pieces (by default one a core), as long as one another, none empty: first and
    end (exclusive) of each."""
    parts = min(cores() if parts is None else parts, count)
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


os.register_at_fork(after_in_child=_pool.clear)
