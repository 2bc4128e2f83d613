"""Threads that rooms share: reads that wait for a disk, compiled loops that release the GIL, and
prefetching.

A forked process starts threads of its own.
"""

import inspect
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from stepdiff_core.errors import StepDiffError

READERS = 8
"""threads that read from a disk at once"""
AHEAD = 2
"""results per core that wait to be used"""
_POLL = 0.1  # seconds
Given = TypeVar("Given")
Made = TypeVar("Made")
_pool: list[ThreadPoolExecutor] = []


class NotForked:
    """The threads of a library, which a process that was forked off does not have: it would wait
    for them forever."""

    def __init__(self) -> None:
        self._started = self._lost = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lost = self._started

    def use(self, refusal: str) -> None:
        """Note that they are used from now on. StepDiffError, with that text, in a process without
        them."""
        if self._lost:
            raise StepDiffError(refusal)
        self._started = True


def each(do: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
    """Return `do` of each, computed at the same time; the caller's thread takes the first.

    `do` must not call this itself: threads that wait for one another may be all there are.
    """
    if not items:
        return []
    if len(items) > 1 and not _pool:
        _pool.append(ThreadPoolExecutor(READERS, thread_name_prefix="store"))
    others = [_pool[0].submit(do, one) for one in items[1:]]
    try:
        return [do(items[0]), *(other.result() for other in others)]
    finally:
        wait(others)  # none may write into the caller's memory after an error


def ahead(do: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """Yield `do` of each, in order; threads compute the next ones while one is used."""
    if len(items) == 1:
        yield do(items[0])
        return
    running: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(cores(), thread_name_prefix="store-ahead") as pool:
        for one in items:
            running.append(pool.submit(do, one))
            if len(running) > AHEAD * cores():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def prefetched(
    sources: Iterable[Iterable[Made]], threads: int = 1, waiting: int = 2
) -> Generator[Made, None, None]:
    """Yield the items of `sources`; one thread iterates each source ahead of the caller.

    Items of one source come in its order, items of several as they are made; at most `waiting` wait
    to be used.
    """
    remaining_sources: queue.SimpleQueue[Iterable[Made]] = queue.SimpleQueue()
    for source in sources:
        remaining_sources.put(source)
    # (): a thread has ended
    items: queue.Queue[tuple[Made, ...] | BaseException] = queue.Queue(waiting)
    stop = threading.Event()

    def give(item: tuple[Made, ...] | BaseException) -> None:
        while not stop.is_set():
            try:
                return items.put(item, timeout=_POLL)
            except queue.Full:
                continue

    def make() -> None:
        try:
            while not stop.is_set():
                for item in remaining_sources.get_nowait():
                    give((item,))
                    if stop.is_set():
                        return
        except queue.Empty:
            give(())
        except BaseException as error:  # raised again in the caller
            give(error)

    workers = [
        threading.Thread(target=make, name=f"prefetch-{n}", daemon=True) for n in range(threads)
    ]
    for worker in workers:
        worker.start()
    try:
        running = len(workers)
        while running:
            item = items.get()
            if isinstance(item, BaseException):
                raise item
            running -= not item
            yield from item
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@contextmanager
def regularly(do: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call `do` every `seconds` within this block, in a thread named `name`."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def shares(count: int, parts: int | None = None) -> list[tuple[int, int]]:
    """Split 0 to `count` into at most `parts` (by default one per core) even, non-empty pieces:
    their first and end."""
    parts = min(cores() if parts is None else parts, count)
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def cores() -> int:
    """Return the number of cores that this process may use: its CPU affinity, at most its cgroups'
    limit."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(allowed, cgroup_cores() or allowed)


@cache
def cgroup_cores(root: Path = Path("/")) -> int | None:
    """Return the cores that the cgroups of this process may use, rounded up; None if they have
    no limit.

    Containers are limited in this way. A limit holds for all cgroups below, and a container may see
    its own as the top.
    """
    groups = root / "proc/self/cgroup"
    limits = []
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # of version 1, or of version 2
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        group = top / path.lstrip("/")
        for folder in (group, *list(group.parents)[: len(group.parts) - len(top.parts)]):
            if all((folder / name).exists() for name in names):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if quota not in ("max", "-1"):
                    limits.append(max(math.ceil(int(quota) / int(period)), 1))
    return min(limits, default=None)


os.register_at_fork(after_in_child=_pool.clear)


def compiled(loop: Callable[..., Any], liberties: Collection[str] = ()) -> Callable[..., Any]:
    """Compile a loop so that it releases the GIL and divides as numpy does.

    liberties: LLVM's names of the fast-math flags to set. The shape checks of tests are removed:
    numba cannot compile them.
    """
    from numba import njit  # as slow to import as all other libraries

    bare, fast = inspect.unwrap(loop), set(liberties)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fast)(bare)
    except RuntimeError:  # no folder to cache it in: compiled in each process
        return njit(nogil=True, error_model="numpy", fastmath=fast)(bare)
