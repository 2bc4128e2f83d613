"""Connections of the server: how many there are, and how long a request may take to arrive.

Guarantees
- MOST connections in all, MOST_OF_ADDRESS of one address: one more takes the place of one that
  waits for its client
- a request arrives with its body within ARRIVAL, or its connection is closed
"""

import asyncio
import logging
import resource
import sys
import time
from collections.abc import Callable
from http import HTTPStatus

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from stepdiff.app.server import HEADERS
from stepdiff.app.site import Site

MOST = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
"""in all; each may have a video open, and the store has files of its own"""
MOST_OF_ADDRESS = 100
AT_ONCE = 64  # that are accepted before the first of them is counted
ARRIVAL = 60.0  # seconds
LINE_EVERY = 60.0  # seconds


def server(app: FastAPI) -> uvicorn.Server:
    """Return the server of the application that `create_app` returns."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=type("Connection", (Connection,), {"trusted": app.state.kept[Site].trusts}),
        ws="none",
        backlog=AT_ONCE,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(Sparse())
    return uvicorn.Server(config)


class Connection(H11Protocol):
    """A connection of uvicorn, which may be closed while it waits for its client."""

    # whether an address is that of a proxy, whose connections are those of many clients
    trusted: Callable[[str], bool]
    _since = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take data; the deadline ends with the request."""
        # after an error the rest is dropped, so that the client reads why
        if self.conn.their_state is not h11.ERROR:
            super().data_received(data)
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request, with the headers of every response; cut off a response
        that has begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
        else:
            status = HTTPStatus(getattr(sys.exception(), "error_status_hint", 400))
            headers = {
                "Content-Type": "text/plain; charset=utf-8",
                "Connection": "close",
                **HEADERS,
            }
            lines = [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write(
                "\r\n".join([f"HTTP/1.1 {status.value} {status.phrase}", *lines, "", msg]).encode()
            )
            self.transport.write_eof()

    def _watch(self) -> None:
        """Start the deadline of a request that is arriving, end the deadline of a complete one."""
        arriving = self.conn.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        if arriving and self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL, self.transport.abort)
        elif not arriving and self._deadline is not None:
            self._deadline.cancel()
            self._deadline, self._since = None, self.loop.time()

    def _make_room(self) -> None:
        """Close the connection whose client keeps the server waiting longest, if there is one too
        many."""
        every = [each for each in self.connections if isinstance(each, Connection)]
        of_address = [each for each in every if each._address == self._address]
        if len(of_address) > MOST_OF_ADDRESS and not self.trusted(self._address):
            crowd = of_address
        elif len(every) > MOST:
            crowd = every
        else:
            return
        closed = min((each for each in crowd if each._waits), key=lambda each: each._since)
        line = (
            "%d connections, %d of them of %s: closed one that waits for its client (said once a "
            "minute)"
        )
        self.logger.warning(line, len(every), len(of_address), self._address)
        closed.transport.abort()
        self.connections.discard(closed)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _waits(self) -> bool:
        """Whether the client has to act: send the rest of a request, or read a response."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body or self.flow.write_paused


class Sparse(logging.Filter):
    """Passes a line once in LINE_EVERY."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self._next = {line: then for line, then in self._next.items() if then > now}
        line = record.msg, repr(record.exc_info[1]) if record.exc_info else ""
        return self._next.setdefault(line, now + LINE_EVERY) == now + LINE_EVERY
