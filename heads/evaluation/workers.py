"""Workers that compute what one process would, on the pool of stepdiff.common.workers.

Guarantees
- a worker has the number of threads of the driver, because sums of another number of threads differ in their last bits
- a worker of this machine, or of a node that has the driver's folder, reads relative paths as the driver does
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from stepdiff.common.workers.cluster import connected, inside_job
from stepdiff.common.workers.pool import WorkerPool, has_gpu, pool_size


@dataclass(frozen=True)
class Driver:
    """What a worker copies from the process that started it."""

    threads: int
    """of torch and BLAS"""
    folder: str | None
    """working folder; None: Ray gives the workers of a job theirs"""

    @classmethod
    def here(cls) -> "Driver":
        return cls(torch.get_num_threads(), None if inside_job() else os.getcwd())

    def imitate(self) -> None:
        """Compute in this process as in the driver."""
        if self.folder is not None:
            with suppress(FileNotFoundError):  # a node without this folder needs absolute paths
                os.chdir(self.folder)
        threadpool_limits(self.threads, user_api="blas")
        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class WorkerOptions:
    """Options of every worker."""

    options: Any
    """of the command"""
    driver: Driver
    cpus: int
    """that Ray reserves for a worker"""


@contextmanager
def worker_pool(worker: type, options: Any, failed: Callable[[int, str], Any], lighter: str) -> Iterator[WorkerPool]:
    """Start the pool of a command with the options `workers`, `address` and `device`; `worker` takes WorkerOptions.

    A worker without a GPU reserves a CPU for each thread. failed, lighter: as WorkerPool takes them.
    """
    driver = Driver.here()
    with connected(options.address, "heads") as joined:
        gpu = has_gpu(None if options.device == "auto" else options.device, joined)
        cpus = pool_size(options.workers, driver.threads, gpu, joined)[1] if gpu else driver.threads
        given = WorkerOptions(options, driver, cpus)
        yield WorkerPool(worker, given, gpu, failed, lighter, joined=joined, by_threads=not gpu)
