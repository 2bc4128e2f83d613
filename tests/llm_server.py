"""A server with OpenAI's protocol that a test can make misbehave."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Reply:
    """The server's response to a request."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def said(text: str) -> Reply:
    return Reply(
        json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    )


@dataclass
class Server:
    """A real server on the loopback interface. `answer` returns the reply to a request; None breaks
    the connection."""

    url: str
    answer: Callable[[dict[str, Any]], Reply | None]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    lock = threading.Lock()
    reported = Server("", lambda body: said("echo: " + body["messages"][-1]["content"]))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                reported.requests.append(body | {"path": self.path})
                reported.keys.append(self.headers.get("Authorization"))
                reported.at_once += 1
                reported.most_at_once = max(reported.most_at_once, reported.at_once)
            try:
                reply = reported.answer(body)
            finally:
                # before the reply, after which the client may send the next request at once
                with lock:
                    reported.at_once -= 1
            try:
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Type": reply.kind, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except BrokenPipeError:  # the client has disconnected
                pass

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    reported.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    yield reported
    http.shutdown()
    thread.join()
    http.server_close()
