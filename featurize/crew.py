"""The workers of a run on Ray, and what happens when one dies.

Guarantees
- a worker that is killed is replaced, and its shard is done again
- a shard whose workers die ATTEMPTS times is given up, and the others go on
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from featurize.errors import FeaturizeError
from featurize.progress import Show, say
from featurize.task import Outcome, Task
from featurize.worker import Equipment, Worker
from store import Feature, Provenance

ATTEMPTS = 3
_CPUS = 2
"""of a worker: one to decode, one to encode"""
_CPUS_BESIDE_GPU = 8
"""of a worker with a GPU, at most: all but one decode"""
_LOOK = 0.5
"""seconds between two looks at how far the workers are"""
_PATIENCE = 60.0
"""seconds after which it is said that the cluster has given no worker yet"""
_SAME_ERRORS = 3
"""shards in a row that could not be written, after which the run ends: a full disk stays full"""


def has_gpu(device: str | None) -> bool:
    """Whether workers take a GPU each: they are told to, or the cluster has some."""
    import ray

    return device.startswith("cuda") if device else ray.cluster_resources().get("GPU", 0) > 0


def crew_size(workers: int | None, gpu: bool) -> tuple[int, int]:
    """How many workers the cluster has room for (or was told to have), and CPUs for each."""
    import ray

    there = ray.cluster_resources()
    cpus = int(there.get("CPU", 1))
    count = workers or (int(there.get("GPU", 0)) if gpu else cpus // _CPUS) or 1
    return count, max(min(cpus // count, _CPUS_BESIDE_GPU if gpu else _CPUS), 1)


@dataclass
class _Member:
    """A worker and what it is at."""

    worker: Any
    task: Task | None = None
    call: Any = None
    asked: Any = None
    """a call that tells how far it is"""
    finished: int = 0
    """rows of its task"""

    def give(self, task: Task | None) -> None:
        """Start a task."""
        self.task, self.finished = task, 0
        if task is not None:
            self.call = self.worker.run.remote(task)

    def look(self) -> None:
        """Learn, if the answer is there, how many rows of its task are finished."""
        import ray
        from ray.exceptions import RayActorError

        if self.task is None:
            return
        if self.asked is None:
            self.asked = self.worker.finished.remote()
        elif ray.wait([self.asked], timeout=0)[0]:
            try:
                self.finished = ray.get(self.asked)
            except RayActorError:  # the task's call ends the same way
                pass
            self.asked = None


class Crew:
    """Workers that do shards."""

    def __init__(self, equipment: Equipment, gpu: bool) -> None:
        """A crew of one, so far; each of its workers has a GPU of its own where `gpu`."""
        import ray

        # the second thread tells how far the first is; a death is ours to handle
        actor = ray.remote(Worker).options(  # type: ignore[attr-defined]
            num_cpus=equipment.cpus, num_gpus=int(gpu), max_concurrency=2, max_restarts=0
        )
        self._hire = lambda: actor.remote(equipment)
        self._members = [_Member(self._hire())]

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]]:
        """What makes a view of the encoder. FeaturizeError where a worker cannot load it."""
        import ray
        from ray.exceptions import RayActorError

        call = self._members[0].worker.describe.remote(entity, dtype)
        while not ray.wait([call], timeout=_PATIENCE)[0]:
            say("no worker has answered yet: waiting for free CPUs or GPUs of the cluster")
        try:
            answer = ray.get(call)
        except RayActorError as error:
            why = str(error).strip().splitlines()[0]
            raise FeaturizeError(f"a worker died while it loaded the encoder ({why}): run it again") from None
        if isinstance(answer, str):
            raise FeaturizeError(answer)
        return answer

    def do(self, tasks: Iterable[Task], count: int, show: Show) -> Iterator[Outcome]:
        """The outcome of every task, as they end, done by `count` workers.

        `show` is told how many rows are finished. Tasks behind _SAME_ERRORS errors in a row have
        no outcome.
        """
        import ray

        self._members += [_Member(self._hire()) for _ in range(count - len(self._members))]
        new, again, deaths = iter(tasks), deque[Task](), Counter[int]()
        finished = errors = 0
        while True:
            for member in self._members:
                if member.task is None:
                    member.give(again.popleft() if again else next(new, None))
            calls = [member.call for member in self._members if member.task]
            if not calls:
                return
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=_LOOK)
            for member in self._members:
                task = member.task
                if task is None or member.call not in ended:
                    member.look()
                    continue
                outcome = self._outcome(member, task)
                member.task, member.finished = None, 0
                if outcome is None:
                    deaths[task.shard] += 1
                    if deaths[task.shard] < ATTEMPTS:
                        say(f"a worker died at shard {task.shard}: another does it again")
                        again.append(task)
                        continue
                    why = f"shard {task.shard}: {ATTEMPTS} workers died at it: see whether memory suffices"
                    outcome = Outcome(task.shard, error=why)
                finished += len(task.rows) + len(task.failures)
                errors = errors + 1 if outcome.error else 0
                yield outcome
                if errors == _SAME_ERRORS:
                    return
            show(finished + sum(member.finished for member in self._members))

    def _outcome(self, member: _Member, task: Task) -> Outcome | None:
        """How a call ended; None where its worker died, which is replaced."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(member.call)
        except RayActorError:
            ray.kill(member.worker)
            member.worker, member.asked = self._hire(), None
            return None
        except RayTaskError as error:
            lines = str(error.cause).strip().splitlines() or [""]
            return Outcome(task.shard, error=f"shard {task.shard}: {type(error.cause).__name__}: {lines[0]}")
