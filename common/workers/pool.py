"""The workers of a run on Ray, and what happens when one dies.

Guarantees
- a worker that is killed is replaced, and its shard is done again
- a shard whose workers die ATTEMPTS times is given up, and the others go on
- a shard is given to a worker that is there, so workers that find no room hold up nothing
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from common.errors import StepDiffError
from common.progress import Show, say
from featurize.member import Member
from featurize.task import Outcome, ShardTask
from featurize.worker import Worker
from store import Feature, Provenance

ATTEMPTS = 3
_CPUS = {"clips": 1, "texts": 8}
"""of a worker without a GPU, at most. Clips fill many shards, and one thread an encoder beats threads
that wait for each other (2 cores shared with others: 30 s against 78 s); texts fill one shard"""
_CPUS_BESIDE_GPU = 8
"""of a worker with a GPU, at most: all but one decode"""
_CPUS_UNSEEN = 4
"""of a worker with a GPU that the cluster has still to start"""
_LOOK = 0.5
"""seconds between two looks at how far the workers are"""
_PATIENCE = 60.0
"""seconds after which it is said that the cluster has given no worker yet"""
_NO_WORKER = "no worker has answered yet: waiting for free CPUs or GPUs of the cluster"
_SAME_ERRORS = 3
"""shards in a row that could not be written, after which the run ends: a full disk stays full"""


@runtime_checkable
class Equipped(Protocol):
    """What the workers of a crew are given."""

    @property
    def cpus(self) -> int:
        """of each worker"""


def has_gpu(device: str | None, joined: bool) -> bool:
    """Whether workers take a GPU each: they are told to, or the cluster has some.

    Raises StepDiffError where they are told to and never will: a Ray of our own (not `joined`)
    starts no more nodes.
    """
    import ray

    there = ray.cluster_resources().get("GPU", 0) > 0
    if device is None or not device.startswith("cuda"):
        return device is None and there
    if not there and not joined:
        raise StepDiffError(f"--device {device}, but this machine has no GPU: give cpu")
    return True


def crew_size(workers: int | None, entity: str, gpu: bool, joined: bool) -> tuple[int, int]:
    """How many workers the cluster has room for (or was told to have), and CPUs for each.

    On this machine alone (not `joined`) no more than OMP_NUM_THREADS: whoever sets it has given the others away, and
    threads that wait for each other wait ten times as long where another process has one of their cores.
    """
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if gpu:
        return workers or gpus or 1, min(max(cpus // gpus, 1), _CPUS_BESIDE_GPU) if gpus else _CPUS_UNSEEN
    count, most = workers or max(cpus // _CPUS[entity], 1), _CPUS[entity]
    allowed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not joined and allowed.isdecimal():
        most = min(most, max(int(allowed), 1))
    return count, min(max(cpus // count, 1), most)


class Crew:
    """Workers that do shards."""

    def __init__(self, equipment: Equipped, gpu: bool, worker: type = Worker) -> None:
        """A crew of one, so far; each of its workers has a GPU of its own where `gpu`.

        worker: the class that is given the equipment; it has `run` and `finished`, as featurize's own.
        """
        import ray

        # the second thread tells how far the first is; a death is ours to handle
        actor: Any = ray.remote(worker).options(  # type: ignore[attr-defined]
            num_cpus=equipment.cpus, num_gpus=int(gpu), max_concurrency=2, max_restarts=0
        )
        self._hire = lambda: actor.remote(equipment)
        self._members = [Member(self._hire)]

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]]:
        """What makes a view of the encoder. StepDiffError where a worker cannot load it."""
        import ray
        from ray.exceptions import RayActorError

        call = self._members[0].worker.describe.remote(entity, dtype)
        while not ray.wait([call], timeout=_PATIENCE)[0]:
            say(_NO_WORKER)
        try:
            answer = ray.get(call)
        except RayActorError as error:
            why = str(error).strip().splitlines()[0]
            raise StepDiffError(f"a worker died while it loaded the encoder ({why}): run it again") from None
        if isinstance(answer, str):
            raise StepDiffError(answer)
        return answer

    def do(self, tasks: Iterable[ShardTask], count: int, show: Show) -> Iterator[Outcome]:
        """The outcome of every task, as they end, done by `count` workers, or as many as there is room for.

        `show` is told how many rows are finished. Tasks behind _SAME_ERRORS errors in a row have
        no outcome. Raises StepDiffError where workers die before they begin.
        """
        import ray

        members = self._members
        members += [Member(self._hire) for _ in range(count - len(members))]
        new, again, deaths = iter(tasks), deque[ShardTask](), Counter[int]()
        finished = errors = stillborn = 0
        waiting = time.monotonic()
        while True:
            stillborn += sum(not member.look() for member in members)
            if stillborn > ATTEMPTS * count:
                raise StepDiffError(f"{stillborn} workers died before they began: see the logs of Ray's nodes")
            for member in members:
                if member.there and member.task is None and (task := again.popleft() if again else next(new, None)):
                    member.give(task)
            busy = [member for member in members if member.task]
            if not busy and any(member.there for member in members):
                return
            if busy:
                waiting = time.monotonic()
            elif time.monotonic() - waiting > _PATIENCE:
                waiting = time.monotonic()
                say(_NO_WORKER)
            calls = [member.call for member in busy] or [member.question for member in members]
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=_LOOK)
            for member in busy:
                task = member.task
                if task is None or member.call not in ended:
                    continue
                outcome = member.outcome()
                if outcome is None:
                    deaths[task.shard] += 1
                    if deaths[task.shard] < ATTEMPTS:
                        say(f"a worker died at shard {task.shard}: another does it again")
                        again.append(task)
                        continue
                    why = f"shard {task.shard}: {ATTEMPTS} workers died at it: try fewer --workers if memory is short"
                    outcome = Outcome(task.shard, error=why)
                finished += len(task.rows) + len(task.failures)
                errors = errors + 1 if outcome.error else 0
                yield outcome
                if errors == _SAME_ERRORS:
                    return
            show(finished + sum(member.finished for member in members))
