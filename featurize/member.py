"""A worker as the driver sees it: not there yet, idle, or at a task.

Guarantees
- the death of a worker is an answer (None), not an exception
"""

from collections.abc import Callable
from typing import Any

from featurize.task import Outcome, ShardTask


class Member:
    """One worker of a crew, replaced where it dies."""

    def __init__(self, hire: Callable[[], Any]) -> None:
        """`hire` starts a worker, which the cluster may have no room for yet."""
        self._hire = hire
        self._start()

    def _start(self) -> None:
        self.worker = self._hire()
        self.there = False
        """whether it has ever answered"""
        self.task: ShardTask | None = None
        self.call: Any = None
        """the call of its task"""
        self.finished = 0
        """rows of its task that are finished"""
        self.question: Any = self.worker.finished.remote()

    def give(self, task: ShardTask) -> None:
        """Start a task."""
        self.task, self.finished = task, 0
        self.call = self.worker.run.remote(task)

    def look(self) -> bool:
        """Learn, if the answer is there, how far it is. False: it died with nothing to do."""
        import ray
        from ray.exceptions import RayActorError

        if self.question is None:
            self.question = self.worker.finished.remote() if self.task else None
        elif ray.wait([self.question], timeout=0)[0]:
            question, self.question = self.question, None
            try:
                self.finished = ray.get(question)
                self.there = True
            except RayActorError:
                if self.task is None:  # else its task ends the same way
                    self._start()
                    return False
        return True

    def outcome(self) -> Outcome | None:
        """How its task, which has ended, ended; None where the worker died."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        task, self.task, self.finished = self.task, None, 0
        self.question = None  # an answer still to come is about a task that is over
        assert task is not None
        try:
            return ray.get(self.call)
        except RayActorError:
            ray.kill(self.worker)  # it may only be out of reach
            self._start()
            return None
        except RayTaskError as error:
            lines = str(error.cause).strip().splitlines() or [""]
            return Outcome(task.shard, error=f"shard {task.shard}: {type(error.cause).__name__}: {lines[0]}")
