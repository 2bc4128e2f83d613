"""Workers that compute what one process would, on the pool of stepdiff_core.workers.

Guarantees
- a worker has the number of threads of the driver, because sums of another number of threads differ
  in their last bits
- a worker of this machine, or of a node that has the driver's folder, reads relative paths as the
  driver does
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import Advance
from stepdiff_core.workers.cluster import connected, inside_job
from stepdiff_core.workers.pool import WorkerPool, WorkPart, has_gpu, pool_size


@dataclass(frozen=True)
class PartValue:
    """The outcome of a part."""

    shard: int
    error: str | None = None
    """why there is no value"""
    value: Any = None


@dataclass(frozen=True)
class PartWorkerOptions:
    """Options of every worker."""

    load: Callable[[Any], Any]
    """options -> what computes the value of a WorkPart; called in the worker"""
    options: Any
    """of the command"""
    threads: int
    """of torch and BLAS in the driver"""
    folder: str | None
    """working folder of the driver; None: Ray gives the workers of a job theirs"""
    cpus: int
    """that Ray reserves for a worker"""

    def imitate_driver(self) -> None:
        """Compute in this thread as in the driver."""
        if self.folder is not None:
            with suppress(FileNotFoundError):  # a node without this folder needs absolute paths
                os.chdir(self.folder)
        threadpool_limits(self.threads, user_api="blas")
        torch.set_num_threads(self.threads)


class PartWorker:
    """Computes parts in a process of the pool; a second thread may call `finished`."""

    outcome = PartValue

    def __init__(self, options: PartWorkerOptions) -> None:
        """Load nothing yet."""
        self._options = options

    @cached_property
    def loaded(self) -> Any:
        self._options.imitate_driver()
        return self._options.load(self._options.options)

    def run(self, part: WorkPart) -> PartValue:
        compute = self.loaded
        self._options.imitate_driver()
        return PartValue(part.shard, value=compute(part))

    def finished(self) -> int:
        """Return 0: rows count once their part is computed."""
        return 0


@contextmanager
def worker_pool(
    options: Any, load: Callable[[Any], Any], lighter: str, worker: type[PartWorker] = PartWorker
) -> Iterator[WorkerPool]:
    """Start the pool of a command with the options `workers`, `address` and `device`.

    A worker without a GPU reserves a CPU for each thread. load: see PartWorkerOptions; lighter: as
    WorkerPool takes it.
    """
    threads, folder = torch.get_num_threads(), None if inside_job() else os.getcwd()
    with connected(options.address, "heads") as joined:
        gpu = has_gpu(None if options.device == "auto" else options.device, joined)
        cpus = pool_size(options.workers, threads, gpu, joined)[1] if gpu else threads
        of_worker = PartWorkerOptions(load, options, threads, folder, cpus)
        yield WorkerPool(worker, of_worker, gpu, lighter, joined=joined, by_threads=not gpu)


def on_ray(options: Any) -> bool:
    """Return whether the options `workers` and `address` of a command ask for Ray."""
    return options.workers > 1 or options.address is not None


def results(
    options: Any,
    load: Callable[[Any], Any],
    here: Callable[[WorkPart], Any],
    parts: Sequence[WorkPart],
    advance: Advance,
) -> Iterator[Any]:
    """Yield the value of each part, in order: computed by workers (`load`, see PartWorkerOptions),
    or by `here` in this process. StepDiffError: a part was not computed."""
    if not on_ray(options):
        yield from in_order(here, parts, advance)
    elif parts:
        with worker_pool(options, load, "try fewer --workers on one node") as pool:
            yield from computed(pool, options.workers, parts, advance)


def in_order(
    compute: Callable[[WorkPart], Any], parts: Sequence[WorkPart], advance: Advance
) -> Iterator[Any]:
    """Yield the value of each part, computed in this process."""
    for part in parts:
        yield compute(part)
        advance(len(part.rows))


def computed(
    pool: WorkerPool, workers: int, parts: Sequence[WorkPart], advance: Advance
) -> Iterator[Any]:
    """Yield the values of parts in their order: one that ends early waits for those before it.
    StepDiffError: a part was not computed."""
    early: dict[int, Any] = {}
    waiting = iter([part.shard for part in parts])
    expected = next(waiting, None)
    for outcome in pool.run(parts, min(workers, len(parts)), advance):
        if outcome.error:
            raise StepDiffError(outcome.error)
        early[outcome.shard] = outcome.value
        while expected in early:
            yield early.pop(expected)
            expected = next(waiting, None)
