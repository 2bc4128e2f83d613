"""A pool of workers on Ray, and the recovery when one dies.

Guarantees
- a worker that is killed is replaced, and its shard is done again; a shard whose workers die
  ATTEMPTS times is given up
- a shard is given to a worker that has started, so workers that find no room delay nothing
- if not even one worker has room, the run ends within a minute, except on a cluster with an
  autoscaler

Ray restarts no actor and retries no call here. A call that Ray retries waits for its own actor,
even if a lost node left no room for it while others are idle; Ray reports a dead actor and one out
of reach alike (ActorUnavailableError), and restarts one that dies while it starts again and again
without a word.
"""

import os
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.progress import Advance, lost, say, spent
from stepdiff_core.threads import cores, regularly
from stepdiff_core.workers.cluster import has_cluster

ATTEMPTS = 3
_CPUS_UNSEEN = 4
"""of a worker with a GPU that the cluster has still to start"""
_LOOK = 0.5
"""seconds between two looks at the workers' progress"""
_LOOK_AT_NODES = 5.0
"""seconds between two looks at the nodes of a cluster"""
_PATIENCE = 60.0
"""seconds after which a line says that the cluster has started no worker yet"""
_LOST = (2, 3)
"""Ray's numbers of why a node is gone: it failed, or its cloud took it back; others are removed on
purpose"""
_NODE_GROUP = "ray.io/node-group"
"""label that Ray gives the nodes of a cluster with an autoscaler"""
_FEWER = "try fewer --workers"
"""advice for a worker with too little memory"""
_SAME_ERRORS = 3
"""shards in a row that could not be written, after which the run ends: a full disk stays full"""


@runtime_checkable
class ShardTask(Protocol):
    """The work of one shard."""

    @property
    def shard(self) -> int: ...

    @property
    def rows(self) -> Sized:
        """to do"""

    @property
    def failures(self) -> Sized:
        """known to be unusable"""


@dataclass(frozen=True)
class WorkPart:
    """Rows that a worker computes together; a task of the pool."""

    shard: int
    """its number, from 0"""
    rows: Any
    about: Any = None
    """further input of the worker"""
    failures: tuple[()] = field(default=(), init=False)


def is_alone(workers: int | None, most_cpus: int, address: str | None, per_gpu: int = 1) -> bool:
    """Return whether a run on this machine has one worker, which this process can be: then Ray is
    not needed.

    workers: asked for; most_cpus: of a worker without a GPU; per_gpu: workers that share a GPU.
    """
    if has_cluster(address):
        return False
    if workers is None:
        import torch

        workers = torch.cuda.device_count() * per_gpu or max(cores() // most_cpus, 1)
    return workers == 1


def has_gpu(device: str | None, joined: bool) -> bool:
    """Return whether each worker takes a GPU: `device` asks for it, or the cluster has some.

    Raises StepDiffError if `device` asks for one that cannot come: a Ray of our own (not `joined`)
    starts no more nodes.
    """
    import ray

    there = ray.cluster_resources().get("GPU", 0) > 0
    if device is None or not device.startswith("cuda"):
        return device is None and there
    if not there and not joined:
        raise StepDiffError(f"--device {device}, but this machine has no GPU: give cpu")
    return True


def pool_size(workers: int | None, most_cpus: int, per_gpu: int, joined: bool) -> tuple[int, int]:
    """Return how many workers to start (`workers`, else as many as have room), and the CPUs of
    each.

    per_gpu: workers that share a GPU, 0 without one. With one a worker has its share of the node's
    CPUs. most_cpus: of a worker without a GPU. On this machine alone (not `joined`) it has at most
    OMP_NUM_THREADS: threads that wait for each other wait ten times as long if another process has
    one of their cores.
    """
    resources = nodes()
    if per_gpu:
        with_gpu = [(cpus, gpus * per_gpu) for cpus, gpus in resources if gpus]
        each = min(
            (max(cpus // its_workers, 1) for cpus, its_workers in with_gpu), default=_CPUS_UNSEEN
        )
        return workers or sum(its_workers for _, its_workers in with_gpu) or 1, each
    total, largest = (
        sum(cpus for cpus, _ in resources),
        max((cpus for cpus, _ in resources), default=0),
    )
    count = workers or max(total // most_cpus, 1)
    allowed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not joined and allowed.isdecimal():
        most_cpus = min(most_cpus, max(int(allowed), 1))
    return count, max(min(total // count, most_cpus, largest), 1)


def nodes() -> list[tuple[int, int]]:
    """Return CPUs and GPUs of each node of the cluster."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in resources]


def room(cpus: int, per_gpu: int) -> int:
    """Return how many workers of `cpus` CPUs the nodes can run if nothing else does.

    per_gpu: workers that share a GPU, 0 without one.
    """
    return sum(
        min(its_cpus // cpus, its_gpus * per_gpu) if per_gpu else its_cpus // cpus
        for its_cpus, its_gpus in nodes()
    )


def need(cpus: int, per_gpu: int) -> str:
    """Return the needs of a worker, in words."""
    gpu = " and a GPU" if per_gpu == 1 else f" and 1/{per_gpu} of a GPU" if per_gpu else ""
    return f"{cpus} CPU{'s' * (cpus > 1)}{gpu}"


def autoscaled() -> bool:
    """Return whether an autoscaler may add nodes to the cluster."""
    import ray

    return any(_NODE_GROUP in node.get("Labels", {}) for node in ray.nodes())


def _lost_nodes() -> dict[str, str]:
    """Return id and address of every node that the cluster has lost, also before this run."""
    import ray

    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node.get("DeathReason") in _LOST
    }


@dataclass
class _WorkerState:
    """State that a worker reports while it runs."""

    finished: int = 0
    """rows of its task"""
    stages: Mapping[str, float] = field(default_factory=dict)
    """seconds since it started, in each stage of its tasks, if it measures them"""
    name: str = ""
    """its process and the address of its node; empty: it has not started yet"""

    @staticmethod
    def of(worker: Any) -> "_WorkerState":
        """Return the state of the worker of this process."""
        import ray

        name = f"process {os.getpid()} on node {ray.util.get_node_ip_address()}"
        return _WorkerState(worker.finished(), dict(getattr(worker, "stages", {})), name)


def _without_memory(error: BaseException) -> bool:
    """Return whether this is Python's, torch's or Ray's error for too little memory; torch is not
    imported for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _task_error(shard: int, error: BaseException, lighter: str) -> str:
    """Return the error of a task in a line; `lighter` is advice for too little memory."""
    if isinstance(error, StepDiffError):
        return str(error)
    why = f"shard {shard}: {type(error).__name__}: {first_line(error)}"
    return f"{why}: {lighter}" if _without_memory(error) else why


def _answered(method: str, ask: Callable[[], Any], lighter: str) -> Any:
    """Return the result of `ask`: a worker's answer to a call. StepDiffError: the worker's own, or
    it has too little memory."""
    try:
        return ask()
    except Exception as error:
        cause = getattr(error, "cause", error)  # of Ray's error about an error in a worker
        if isinstance(cause, StepDiffError):
            raise cause from None
        if not _without_memory(cause):
            raise
        why = f"{type(cause).__name__}: {first_line(cause)}"
        raise StepDiffError(
            f"a worker had too little memory in {method} ({why}): {lighter}"
        ) from None


def _added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of the seconds in each stage."""
    seconds: dict[str, float] = {}
    for part in parts:
        seconds |= {stage: seconds.get(stage, 0.0) + more for stage, more in part.items()}
    return seconds


class _Slot:
    """One worker of a pool, replaced if it dies."""

    def __init__(self, start: Callable[[], Any]) -> None:
        """Start a worker with `start`; the cluster may have no room for it yet."""
        self._new = start
        self.before: dict[str, float] = {}
        """seconds in each stage of the workers that died"""
        self._start()

    def _start(self) -> None:
        self.worker, self.state = self._new(), _WorkerState()
        self.task: Any = None
        self.call: Any = None
        """the call of its task"""
        self.question: Any = self.worker.__ray_call__.remote(_WorkerState.of)
        self.node_lost = False

    def replace(self) -> None:
        """Start another worker instead of one that died."""
        import ray

        ray.kill(self.worker)  # it may only be out of reach
        self.before = self.stages()
        self._start()

    def stages(self) -> dict[str, float]:
        """Return the seconds that its workers have spent in each stage."""
        return _added([self.before, self.state.stages])

    def give(self, task: ShardTask) -> None:
        """Start a task."""
        self.task, self.state.finished = task, 0
        self.call = self.worker.run.remote(task)

    def look(self) -> bool:
        """Update `state` if the answer has come. False: the worker died while it had no task."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        if self.question is None:
            if self.task:
                self.question = self.worker.__ray_call__.remote(_WorkerState.of)
        elif ray.wait([self.question], timeout=0)[0]:
            question, self.question = self.question, None
            try:
                self.state = ray.get(question)
            except (RayActorError, OutOfMemoryError):
                if self.task is None:  # else its task ends the same way
                    self._start()
                    return False
        return True

    def outcome(self, lighter: str) -> Any | str | None:
        """Return the outcome of the task that has ended, an error as text, or None if the worker
        died."""
        import ray
        from ray.exceptions import (
            ActorUnavailableError,
            GetTimeoutError,
            OutOfMemoryError,
            RayActorError,
            RayTaskError,
        )

        task, self.task, self.state.finished = self.task, None, 0
        self.question = None  # an answer still to come is about a task that is over
        try:
            outcome = ray.get(self.call)
            # a short task has not been asked yet
            with suppress(RayActorError, OutOfMemoryError, GetTimeoutError):
                self.state = ray.get(
                    self.worker.__ray_call__.remote(_WorkerState.of), timeout=_LOOK
                )
                self.state.finished = 0
            return outcome
        except (RayActorError, OutOfMemoryError) as error:
            # the latter: Ray ended it before the node had no memory
            self.replace()
            self.node_lost = isinstance(error, ActorUnavailableError) or "node has died" in str(
                error
            )
            return None
        except RayTaskError as error:
            return _task_error(task.shard, error.cause, lighter)


class Here:
    """The one worker of a run that needs no Ray: this process. It has the functions of `WorkerPool`
    that runs call."""

    def __init__(self, worker: Any, options: Any, lighter: str = _FEWER) -> None:
        """Take the arguments of `WorkerPool`."""
        self._worker, self._lighter = worker(options), lighter

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker, as `WorkerPool.call` does."""
        return _answered(method, partial(getattr(self._worker, method), *arguments), self._lighter)

    def run(self, tasks: Iterable[ShardTask], count: int, advance: Advance) -> Iterator[Any]:
        """Yield the outcome of every task, as `WorkerPool.run` does; `count` is 1."""
        errors = 0
        for task in tasks:
            with self._watched(task, advance):
                try:
                    outcome = self._worker.run(task)
                except Exception as error:
                    if not (isinstance(error, StepDiffError) or _without_memory(error)):
                        traceback.print_exc(file=sys.stderr)  # a defect
                    outcome = self._worker.outcome(
                        shard=task.shard, error=_task_error(task.shard, error, self._lighter)
                    )
            errors = errors + 1 if outcome.error else 0
            yield outcome
            if errors == _SAME_ERRORS:
                return

    @contextmanager
    def _watched(self, task: ShardTask, advance: Advance) -> Iterator[None]:
        """Report how many rows of a task are finished while this block runs, and the others at its
        end."""
        total, shown = len(task.rows) + len(task.failures), 0

        def look() -> None:
            nonlocal shown
            finished = min(self._worker.finished(), total)
            spent(getattr(self._worker, "stages", {}))
            advance(max(finished - shown, 0))
            shown = max(finished, shown)

        with regularly(look, _LOOK, "progress"):
            yield
        advance(total - shown)


class WorkerPool:
    """Workers that each do one shard at a time."""

    def __init__(
        self,
        worker: Any,
        options: Any,
        per_gpu: int,
        lighter: str = _FEWER,
        *,
        joined: bool,
        by_threads: bool = False,
        unit: str = "rows",
    ) -> None:
        """Start the first worker.

        Args:
            worker: Class with `run(task)`, which returns an outcome or raises StepDiffError;
                `outcome`, the class of these, with a `shard` and an `error` (why not all was
                written, or None); and `finished()`, the rows of the current task that are finished.
                Lines of progress show the shares of `stages`, its seconds in each stage of all its
                tasks, if it has them.
            options: The argument of each worker; `options.cpus` are the CPUs of one.
            per_gpu: Workers that share a GPU, 0 without one.
            lighter: Advice for a worker with too little memory.
            joined: Whether nodes may join; a Ray of our own, on this machine, starts no more.
            by_threads: Whether a worker has a CPU for each thread of this process.
            unit: Name of the rows of a task, in the plural.
        """
        import ray

        # the second thread answers how far the first is; a death is ours to handle
        actor: Any = ray.remote(worker).options(  # type: ignore[attr-defined]
            num_cpus=options.cpus,
            num_gpus=1 / per_gpu if per_gpu else 0,
            max_concurrency=2,
            max_restarts=0,
        )
        self._start = lambda: actor.remote(options)
        self._slots = [_Slot(self._start)]
        self._outcome, self._lighter, self._unit = worker.outcome, lighter, unit
        self._cpus, self._per_gpu, self._joined = options.cpus, per_gpu, joined
        self._by_threads = by_threads and options.cpus > 1

    def _wait(self) -> None:
        """Say that no worker has started. StepDiffError if none ever will."""
        if not room(self._cpus, self._per_gpu) and not autoscaled():
            node = "no node of the cluster has" if self._joined else "this machine does not have"
            advice = "start such nodes" if self._joined else "use a larger one"
            advice += " or set a smaller OMP_NUM_THREADS" * self._by_threads
            raise StepDiffError(
                f"{node} {need(self._cpus, self._per_gpu)}, which a worker needs: {advice}"
            )
        on = (
            "waiting for free CPUs or GPUs of the cluster"
            if self._joined
            else "still starting Ray on this machine"
        )
        say(f"no worker has answered yet: {on}")

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the first worker, which is replaced if it dies.

        StepDiffError: ATTEMPTS workers died, the method raised one, or a worker has too little
        memory.
        """
        import ray
        from ray.exceptions import RayActorError

        for attempts_left in reversed(range(ATTEMPTS)):
            call = getattr(self._slots[0].worker, method).remote(*arguments)
            while not ray.wait([call], timeout=_PATIENCE)[0]:
                self._wait()
            try:
                return _answered(method, partial(ray.get, call), self._lighter)
            except RayActorError as error:
                why = f"a worker died in {method} ({first_line(error)})"
                if not attempts_left:
                    raise StepDiffError(f"{why}: run it again") from None
                say(f"{why}: another does it again")
                self._slots[0].replace()

    def run(self, tasks: Iterable[ShardTask], count: int, advance: Advance) -> Iterator[Any]:
        """Yield the outcome of every task as it ends, done by `count` workers, or as many as have
        room.

        `advance` receives the number of newly finished rows, minus the rows that start again after
        a worker died. Tasks after _SAME_ERRORS errors in a row have no outcome. Raises
        StepDiffError if workers die before they start.
        """
        import ray

        slots = self._slots
        if count > (most := room(self._cpus, self._per_gpu)):
            where = "the cluster" if self._joined else "this machine"
            line = (
                f"--workers {count}: {where} has room for {most} of "
                f"{need(self._cpus, self._per_gpu)} each"
            )
            if self._joined:
                others = (
                    "its autoscaler may add nodes"
                    if autoscaled()
                    else "the others wait for nodes that join it"
                )
                line = f"{line}; {others}"
            say(line + "; a smaller OMP_NUM_THREADS makes room for more" * self._by_threads)
        slots += [_Slot(self._start) for _ in range(count - len(slots))]
        new, again, deaths = iter(tasks), deque[Any](), Counter[int]()
        finished = shown = errors = stillborn = 0
        waiting = looked = time.monotonic()
        gone = _lost_nodes()
        while True:
            if self._joined and time.monotonic() - looked > _LOOK_AT_NODES:
                looked, before, gone = time.monotonic(), gone, _lost_nodes()
                for node in gone.keys() - before:
                    lost(
                        "node",
                        gone[node],
                        f"node {gone[node]} was lost: {len(nodes())} nodes are left",
                    )
            stillborn += sum(not slot.look() for slot in slots)
            spent(_added(slot.stages() for slot in slots))
            if stillborn > ATTEMPTS * count:
                raise StepDiffError(
                    f"{stillborn} workers died before they began: if memory is short, "
                    f"{self._lighter}; else see the logs of Ray's nodes"
                )
            for slot in slots:
                if (
                    slot.state.name
                    and slot.task is None
                    and (task := again.popleft() if again else next(new, None))
                ):
                    slot.give(task)
            busy = [slot for slot in slots if slot.task]
            if not busy and any(slot.state.name for slot in slots):
                return
            if busy:
                waiting = time.monotonic()
            elif time.monotonic() - waiting > _PATIENCE:
                waiting = time.monotonic()
                self._wait()
            calls = [slot.call for slot in busy] or [slot.question for slot in slots]
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=_LOOK)
            for slot in busy:
                task = slot.task
                if task is None or slot.call not in ended:
                    continue
                state = slot.state
                outcome = slot.outcome(self._lighter)
                if outcome is None:
                    deaths[task.shard] += 1
                    name, last = state.name, deaths[task.shard] == ATTEMPTS
                    line = (
                        f"a worker died at shard {task.shard} "
                        f"({name}{', which does not answer' * slot.node_lost}): "
                    )
                    line += f"its {len(task.rows)} {self._unit} "
                    lost(
                        "worker",
                        name,
                        line + ("are given up" if last else "start again on another worker"),
                    )
                    if not last:
                        again.append(task)
                        continue
                    outcome = (
                        f"shard {task.shard}: {ATTEMPTS} workers died at it: if memory is short, "
                        f"{self._lighter}"
                    )
                if isinstance(outcome, str):
                    outcome = self._outcome(shard=task.shard, error=outcome)
                finished += len(task.rows) + len(task.failures)
                errors = errors + 1 if outcome.error else 0
                yield outcome
                if errors == _SAME_ERRORS:
                    return
            done = finished + sum(slot.state.finished for slot in slots)
            advance(done - shown)
            shown = done
