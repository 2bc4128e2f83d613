"""One thread that computes with one model; its jobs wait in a bounded queue.

A job names the head that it needs. The worker loads it if another one, or none, is in memory.

Guarantees
- at most one model is in memory: the other one is dropped before a model is loaded
- jobs run one at a time, in the order in which they were submitted
- a cancelled job that waits never starts, and one that runs ends at its next check; the job of a
  client that has gone is cancelled
"""

import asyncio
import gc
import json
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stepdiff.app.pages import plain
from stepdiff.app.site import RefusedError
from stepdiff_core.errors import StepDiffError

_LOOK = 0.02  # seconds between two looks for events: a token of a model takes longer
MOST_WAITING = 8  # jobs that may wait, apart from the one that runs


@dataclass(frozen=True)
class JobEvent:
    """Something that a job reports."""

    name: str
    """queue (place; busy: the running job), load (head), loaded (head, seconds), start, done (the
    job's result), error (one line), or a name that the job chose"""
    data: dict[str, Any]


class CancelledError(Exception):
    """Ends the computation of a job that nobody waits for."""


@dataclass(eq=False)
class Job:
    """Something to compute with a head.

    Its events are kept until `taken` returns them; `done` or `error` is the last one.
    """

    head: Any  # has a name; a head that differs is another model
    # (loaded model, this job) -> the data of the event `done`
    work: Callable[[Any, "Job"], dict[str, Any]]
    what: str = "another request"  # in words, for those that wait
    cancelled: threading.Event = field(default_factory=threading.Event)
    _events: deque[JobEvent] = field(default_factory=deque)

    def check(self) -> None:
        """Raise CancelledError if the job was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError

    def send(self, name: str, **data: Any) -> None:
        self._events.append(JobEvent(name, data))

    def taken(self) -> list[JobEvent]:
        """Return the events since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]


class ModelWorker:
    def __init__(self, load: Callable[[Any], Any], waiting: int = MOST_WAITING) -> None:
        """Load models by `load`, which gets the head of a job; let at most `waiting` jobs wait."""
        self._load, self._most = load, waiting
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.head: Any = None  # that is in memory, or is being loaded
        self._model: Any = None

    def submit(self, job: Job) -> Job:
        """Put a job into the queue. RefusedError: it is full."""
        with self._changed:
            if len(self._queue) >= self._most:
                raise RefusedError(
                    f"the model is busy and {len(self._queue)} requests wait already: try again in "
                    "a few seconds",
                    status=429,
                    retry_after=5,
                )
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pair-model", daemon=True)
                self._thread.start()
            self._report_places(self._queue.index(job))
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or end it at its next check."""
        job.cancelled.set()
        with self._changed:
            if job in self._queue:
                place = self._queue.index(job)
                self._queue.remove(job)
                self._report_places(place)

    def _report_places(self, first: int = 0) -> None:
        """Report to waiting jobs how many are before them."""
        for place, job in enumerate(self._queue):
            before = place + (self._running is not None)
            if place >= first and before:
                job.send("queue", place=before, busy=(self._running or self._queue[0]).what)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                job = self._running = self._queue.popleft()
                self._report_places()
            try:
                self._do(job)
            finally:
                with self._changed:
                    self._running = None
            del job  # its model may be dropped next

    def _do(self, job: Job) -> None:
        try:
            job.check()
            model = self._ready(job)
            job.check()
            job.send("start")
            job.send("done", **job.work(model, job))
        except CancelledError:
            job.send("error", error="cancelled")
        except StepDiffError as error:
            job.send("error", error=str(error))
        except Exception as error:  # a defect must not end the thread that all requests need
            traceback.print_exc(file=sys.stderr)
            job.send(
                "error",
                error=f"the computation failed ({type(error).__name__}): see the server's output",
            )

    def _ready(self, job: Job) -> Any:
        """Return the model of a job's head."""
        if self.head != job.head:
            self.head = self._model = None
            gc.collect()
            start = time.monotonic()
            job.send("load", head=job.head.name)
            self.head = job.head
            try:
                self._model = self._load(job.head)
            except BaseException:
                self.head = None
                raise
            job.send("loaded", head=job.head.name, seconds=round(time.monotonic() - start, 2))
        return self._model


class Events(StreamingResponse):
    """The response that reports the events of a job until it is done, as server-sent events.

    event: words
    data: {"text": " the cook"}
    """

    media_type = "text/event-stream"

    def __init__(self, worker: ModelWorker, job: Job) -> None:
        self._worker, self._job = worker, job
        # the second: for proxies that collect
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._lines(), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the job is cancelled if the client has gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._job)

    async def _lines(self) -> AsyncIterator[str]:
        while True:
            for event in self._job.taken():
                yield f"event: {event.name}\ndata: {json.dumps(plain(event.data))}\n\n"
                if event.name in ("done", "error"):
                    return
            await asyncio.sleep(_LOOK)
