"""Time and memory of work in a process of its own."""

import multiprocessing
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30
_EVERY = 0.02  # seconds between two looks at the memory


@dataclass
class Peak:
    """The most memory that a process had, in bytes."""

    private: int = 0
    """without mapped files, whose pages the kernel drops when memory is short"""
    resident: int = 0
    """with them"""
    before: int = 0
    """private memory at the beginning"""


@dataclass(frozen=True)
class Measured:
    """What some work took."""

    seconds: float
    peak: Peak
    times: dict[str, float] = field(default_factory=dict)
    """seconds until each event that the work named"""

    @property
    def gib(self) -> float:
        """Peak private memory."""
        return self.peak.private / GIB


def private_bytes() -> int:
    """Return the memory of this process without mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


@contextmanager
def watched() -> Iterator[Peak]:
    """Measure the memory of this process within the block."""
    peak, over = Peak(before=private_bytes()), threading.Event()

    def look() -> None:
        while not over.wait(_EVERY):
            peak.private = max(peak.private, private_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak.private = max(peak.private, private_bytes())
        peak.resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(work: Callable[..., dict[str, float]], *arguments: Any) -> Measured:
    """Run `work` in a process of its own; it returns the seconds of the events that it names."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def _measured(work: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> Measured:
    with watched() as peak:
        begin = time.perf_counter()
        times = work(*arguments)
        seconds = time.perf_counter() - begin
    return Measured(seconds, peak, times)
