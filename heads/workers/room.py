"""Room for the workers of a training on the nodes of Ray: at the start, and after nodes were lost.

Guarantees
- more workers than the cluster will ever have are refused, with a number that the recipe accepts
- a run whose cluster has lost the room for its workers ends
- a training waits for an autoscaler
"""

import time
from collections.abc import Sequence

from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import say
from stepdiff.common.workers.pool import autoscaled, nodes, room

PATIENCE = 20.0
"""seconds in which nodes may join, and in which the processes of an earlier driver may end"""
MISSING = 60.0
"""seconds in which workers may start, and in which lost nodes may come back"""
LOOK = 1.0
"""seconds between two looks at the workers and the nodes"""
MOST_CPUS = 8
"""of a worker"""


def cpus_of_each(workers: int, gpu: bool, cluster: bool, fitting: Sequence[int]) -> int:
    """Return the CPUs of each worker.

    Args:
        workers: How many to start.
        gpu: Whether each has one.
        cluster: Whether nodes may still join.
        fitting: Numbers of workers that the recipe accepts, of which the error names the largest that has room.

    Raises:
        StepDiffError: The nodes have no room for all workers, and no autoscaler could add some that have.
    """
    kind = "GPU" if gpu else "CPU"
    until = time.monotonic() + (PATIENCE if cluster else 0)
    while True:
        found = nodes()
        there = sum(gpus if gpu else cpus for cpus, gpus in found)
        if there >= workers:
            break
        if autoscaled():
            say(f"waiting for the autoscaler: {workers} workers need {workers} {kind}s, and {there} are there")
            return 1
        if time.monotonic() >= until:
            most = max((number for number in fitting if number <= there), default=0)
            raise StepDiffError(
                f"{workers} workers need {workers} {kind}s and {'the cluster' if cluster else 'this machine'} has "
                f"{there}: {f'give --workers {most}, or ' if most else ''}add nodes"
            )
        time.sleep(LOOK)
    if gpu:
        return max(1, min([MOST_CPUS, *(cpus // gpus for cpus, gpus in found if gpus)]))
    return max(n for n in range(1, MOST_CPUS + 1) if n == 1 or sum(cpus // n for cpus, _ in found) >= workers)


class Lack:
    """What a cluster lacks while the driver waits: free room at the start, nodes after a loss."""

    def __init__(self, workers: int, cpus: int, gpu: bool) -> None:
        """cpus: of each worker."""
        self.workers, self.cpus, self.gpu = workers, cpus, gpu
        self.started = time.monotonic()
        self.since: float | None = None
        """when the nodes were too few for the first time; None: they are enough"""
        self.said = set[str]()

    def look(self, begun: bool) -> None:
        """Say what has been lacking for MISSING seconds. StepDiffError: nodes, and no autoscaler adds some.

        begun: whether the workers of the first start have begun.
        """
        now, places = time.monotonic(), room(self.cpus, self.gpu)
        each = f"of {self.cpus} CPU{'s' * (self.cpus > 1)}{' and a GPU' * self.gpu} each"
        if places >= self.workers:
            self.since = None
            if not begun and now - self.started > MISSING:
                self._say(
                    f"no worker has begun yet: the cluster may have no free room for {self.workers} workers {each}"
                )
            return
        self.since = self.since or now
        if now - self.since <= MISSING:
            return
        lack = f"the cluster has room for {places} of {self.workers} workers {each}"
        if not autoscaled():
            raise StepDiffError(
                f"{lack}: run the command again with nodes added or with fewer --workers, it resumes from the last "
                "checkpoint"
            )
        self._say(f"waiting for the autoscaler: {lack}")

    def _say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            say(line)
