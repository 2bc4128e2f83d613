"""One thread, one model and a bounded queue: stepdiff.app.pair.worker."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from stepdiff.app.pair.worker import Job, JobEvent, ModelWorker
from stepdiff.app.site import RefusedError
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True)
class Named:
    name: str


class Model:
    """A model that is counted while it is in memory."""

    def __init__(self) -> None:
        self.itself = self  # a cycle, as models of transformers have


ONE, TWO = Named("one"), Named("two")


def wait_for(found: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def all_of(job: Job) -> list[JobEvent]:
    """Return the events of a job once it has ended."""
    found: list[JobEvent] = []

    def ended() -> bool:
        found.extend(job.taken())
        return bool(found) and found[-1].name in ("done", "error")

    wait_for(ended)
    return found


def names(job: Job) -> list[str]:
    return [event.name for event in all_of(job)]


class Gate:
    """Work that goes on when it is let through."""

    def __init__(self) -> None:
        self.open, self.began = threading.Event(), threading.Event()

    def __call__(self, model: Any, job: Job) -> dict[str, Any]:
        self.began.set()
        while not self.open.wait(0.005):
            job.check()
        return {"head": job.head.name}


def done(model: Any, job: Job) -> dict[str, Any]:
    return {"head": job.head.name}


def test_at_most_one_model_is_in_memory() -> None:
    loaded: list[weakref.ref[Model]] = []
    most = 0

    def load(head: Named) -> Model:
        nonlocal most
        model = Model()
        loaded.append(weakref.ref(model))
        most = max(most, sum(each() is not None for each in loaded))
        return model

    worker = ModelWorker(load)
    gc.disable()  # the worker itself has to collect
    try:
        for head in (ONE, ONE, TWO, ONE):
            assert names(worker.submit(Job(head, done)))[-1] == "done"
    finally:
        gc.enable()
    assert len(loaded) == 3 and most == 1
    assert worker.head == ONE


def test_a_job_that_is_submitted_to_a_full_queue_is_refused() -> None:
    worker, gate = ModelWorker(lambda head: None, waiting=2), Gate()
    first = worker.submit(Job(ONE, gate))
    gate.began.wait(10)
    waiting = [worker.submit(Job(ONE, done)) for _ in range(2)]
    with pytest.raises(RefusedError, match="2 requests wait already") as refused:
        worker.submit(Job(ONE, done))
    assert refused.value.status == 429
    gate.open.set()
    assert [names(job)[-1] for job in (first, *waiting)] == ["done"] * 3
    assert names(worker.submit(Job(ONE, done))) == ["start", "done"]


def test_a_cancelled_job_never_starts_or_ends_at_its_next_check() -> None:
    worker, gate, never = ModelWorker(lambda head: None), Gate(), Gate()
    running = worker.submit(Job(ONE, gate))
    gate.began.wait(10)
    waiting = worker.submit(Job(ONE, never))
    worker.cancel(waiting)
    worker.cancel(running)
    assert all_of(running)[-1] == JobEvent("error", {"error": "cancelled"})
    assert names(worker.submit(Job(ONE, done))) == ["start", "done"]
    assert not never.began.is_set()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StepDiffError("no features of clip x"), "no features of clip x"),
        (ZeroDivisionError("oh"), "ZeroDivisionError"),
    ],
)
def test_a_job_that_fails_says_why(
    error: Exception, line: str, capsys: pytest.CaptureFixture
) -> None:
    def work(model: Any, job: Job) -> dict[str, Any]:
        raise error

    worker = ModelWorker(lambda head: None)
    last = all_of(worker.submit(Job(ONE, work)))[-1]
    assert last.name == "error" and line in last.data["error"]
    assert names(worker.submit(Job(ONE, done))) == ["start", "done"]
