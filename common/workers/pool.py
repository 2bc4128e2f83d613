"""A pool of workers on Ray, and what happens when one dies.

Guarantees
- a worker that is killed is replaced, and its shard is done again
- a shard whose workers die ATTEMPTS times is given up, and the others go on
- a shard is given to a worker that has started, so workers that find no room delay nothing
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Protocol, runtime_checkable

from common.errors import StepDiffError
from common.progress import Advance, say

ATTEMPTS = 3
_CPUS_BESIDE_GPU = 8
"""of a worker with a GPU, at most: all but one decode"""
_CPUS_UNSEEN = 4
"""of a worker with a GPU that the cluster has still to start"""
_LOOK = 0.5
"""seconds between two looks at the workers' progress"""
_PATIENCE = 60.0
"""seconds after which a line says that the cluster has started no worker yet"""
_NO_WORKER = "no worker has answered yet: waiting for free CPUs or GPUs of the cluster"
_SAME_ERRORS = 3
"""shards in a row that could not be written, after which the run ends: a full disk stays full"""


@runtime_checkable
class Task(Protocol):
    """The work of one shard."""

    @property
    def shard(self) -> int: ...

    @property
    def rows(self) -> Sized:
        """to do"""

    @property
    def failures(self) -> Sized:
        """known to be unusable"""


def has_gpu(device: str | None, joined: bool) -> bool:
    """Return whether each worker takes a GPU: `device` asks for it, or the cluster has some.

    Raises StepDiffError where `device` asks for one that cannot come: a Ray of our own (not `joined`) starts no more
    nodes.
    """
    import ray

    there = ray.cluster_resources().get("GPU", 0) > 0
    if device is None or not device.startswith("cuda"):
        return device is None and there
    if not there and not joined:
        raise StepDiffError(f"--device {device}, but this machine has no GPU: give cpu")
    return True


def pool_size(workers: int | None, most_cpus: int, gpu: bool, joined: bool) -> tuple[int, int]:
    """Return how many workers to start (`workers`, else as many as have room), and the CPUs of each.

    most_cpus: of a worker without a GPU. On this machine alone (not `joined`) a worker has at most OMP_NUM_THREADS:
    threads that wait for each other wait ten times as long where another process has one of their cores.
    """
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if gpu:
        return workers or gpus or 1, min(max(cpus // gpus, 1), _CPUS_BESIDE_GPU) if gpus else _CPUS_UNSEEN
    count = workers or max(cpus // most_cpus, 1)
    allowed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not joined and allowed.isdecimal():
        most_cpus = min(most_cpus, max(int(allowed), 1))
    return count, min(max(cpus // count, 1), most_cpus)


class _Slot:
    """One worker of a pool, replaced where it dies."""

    def __init__(self, start: Callable[[], Any]) -> None:
        """Start a worker with `start`; the cluster may have no room for it yet."""
        self._new = start
        self._start()

    def _start(self) -> None:
        self.worker = self._new()
        self.started = False
        self.task: Any = None
        self.call: Any = None
        """the call of its task"""
        self.finished = 0
        """rows of its task that are finished"""
        self.question: Any = self.worker.finished.remote()

    def give(self, task: Task) -> None:
        """Start a task."""
        self.task, self.finished = task, 0
        self.call = self.worker.run.remote(task)

    def look(self) -> bool:
        """Update `finished` if the answer has come. False: the worker died while it had no task."""
        import ray
        from ray.exceptions import RayActorError

        if self.question is None:
            self.question = self.worker.finished.remote() if self.task else None
        elif ray.wait([self.question], timeout=0)[0]:
            question, self.question = self.question, None
            try:
                self.finished = ray.get(question)
                self.started = True
            except RayActorError:
                if self.task is None:  # else its task ends the same way
                    self._start()
                    return False
        return True

    def outcome(self) -> Any | str | None:
        """Return the outcome of the task that has ended, an error as text, or None where the worker died."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        task, self.task, self.finished = self.task, None, 0
        self.question = None  # an answer still to come is about a task that is over
        try:
            return ray.get(self.call)
        except RayActorError:
            ray.kill(self.worker)  # it may only be out of reach
            self._start()
            return None
        except RayTaskError as error:
            lines = str(error.cause).strip().splitlines() or [""]
            return f"shard {task.shard}: {type(error.cause).__name__}: {lines[0]}"


class WorkerPool:
    """Workers that each do one shard at a time."""

    def __init__(self, worker: type, options: Any, gpu: bool, failed: Callable[[int, str], Any]) -> None:
        """Start the first worker, with a GPU of its own where `gpu`.

        Args:
            worker: Class with `run(task)`, whose outcome has an `error` (why nothing was written, or None), and
                `finished()`, the rows of the current task that are finished.
            options: The argument of each worker; `options.cpus` are the CPUs of one.
            failed: Makes the outcome of a shard that was given up, from its number and the reason.
        """
        import ray

        # the second thread answers how far the first is; a death is ours to handle
        actor: Any = ray.remote(worker).options(  # type: ignore[attr-defined]
            num_cpus=options.cpus, num_gpus=int(gpu), max_concurrency=2, max_restarts=0
        )
        self._start = lambda: actor.remote(options)
        self._slots = [_Slot(self._start)]
        self._failed = failed

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the first worker. StepDiffError where the worker dies or answers a text, its error."""
        import ray
        from ray.exceptions import RayActorError

        call = getattr(self._slots[0].worker, method).remote(*arguments)
        while not ray.wait([call], timeout=_PATIENCE)[0]:
            say(_NO_WORKER)
        try:
            answer = ray.get(call)
        except RayActorError as error:
            why = str(error).strip().splitlines()[0]
            raise StepDiffError(f"a worker died in {method} ({why}): run it again") from None
        if isinstance(answer, str):
            raise StepDiffError(answer)
        return answer

    def run(self, tasks: Iterable[Task], count: int, advance: Advance) -> Iterator[Any]:
        """Yield the outcome of every task as it ends, done by `count` workers, or as many as have room.

        `advance` receives the number of newly finished rows. Tasks after _SAME_ERRORS errors in a row have no outcome.
        Raises StepDiffError where workers die before they start.
        """
        import ray

        slots = self._slots
        slots += [_Slot(self._start) for _ in range(count - len(slots))]
        new, again, deaths = iter(tasks), deque[Any](), Counter[int]()
        finished = shown = errors = stillborn = 0
        waiting = time.monotonic()
        while True:
            stillborn += sum(not slot.look() for slot in slots)
            if stillborn > ATTEMPTS * count:
                raise StepDiffError(f"{stillborn} workers died before they began: see the logs of Ray's nodes")
            for slot in slots:
                if slot.started and slot.task is None and (task := again.popleft() if again else next(new, None)):
                    slot.give(task)
            busy = [slot for slot in slots if slot.task]
            if not busy and any(slot.started for slot in slots):
                return
            if busy:
                waiting = time.monotonic()
            elif time.monotonic() - waiting > _PATIENCE:
                waiting = time.monotonic()
                say(_NO_WORKER)
            calls = [slot.call for slot in busy] or [slot.question for slot in slots]
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=_LOOK)
            for slot in busy:
                task = slot.task
                if task is None or slot.call not in ended:
                    continue
                outcome = slot.outcome()
                if outcome is None:
                    deaths[task.shard] += 1
                    if deaths[task.shard] < ATTEMPTS:
                        say(f"a worker died at shard {task.shard}: another does it again")
                        again.append(task)
                        continue
                    outcome = (
                        f"shard {task.shard}: {ATTEMPTS} workers died at it: try fewer --workers if memory is short"
                    )
                if isinstance(outcome, str):
                    outcome = self._failed(task.shard, outcome)
                finished += len(task.rows) + len(task.failures)
                errors = errors + 1 if outcome.error else 0
                yield outcome
                if errors == _SAME_ERRORS:
                    return
            done = finished + sum(slot.finished for slot in slots)
            advance(max(done - shown, 0))
            shown = max(done, shown)
