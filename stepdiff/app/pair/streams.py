"""A job's events as server-sent events.

    event: words
    data: {"text": " the cook"}

Guarantees
- a request whose client has gone cancels its job
"""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stepdiff.app.pages import plain
from stepdiff.app.pair.worker import Event, Job, Worker

LAST = ("done", "error")
"""events after which none follows"""


class Events(StreamingResponse):
    """The response that reports the events of a job until it is done."""

    media_type = "text/event-stream"

    def __init__(self, worker: Worker, job: Job) -> None:
        """Report the events of a job that was submitted to `worker`."""
        self._worker, self._job = worker, job
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second: for proxies that collect
        super().__init__(self._lines(), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the job is cancelled where the client has gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._worker.cancel(self._job)

    async def _lines(self) -> AsyncIterator[str]:
        loop, bell = asyncio.get_running_loop(), asyncio.Event()

        def ring() -> None:
            loop.call_soon_threadsafe(bell.set)

        self._job.listen(ring)
        try:
            while True:
                bell.clear()
                for event in self._job.taken():
                    yield line_of(event)
                    if event.name in LAST:
                        return
                await bell.wait()
        finally:
            self._job.listen(None)


def line_of(event: Event) -> str:
    """Return an event in the form that browsers read."""
    return f"event: {event.name}\ndata: {json.dumps(plain(event.data))}\n\n"
