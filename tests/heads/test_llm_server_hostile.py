"""heads.llm.server with servers that never finish or send wrong answers, and with secrets in the URL."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.errors import StepDiffError
from heads.llm import server as llm_server
from heads.llm.model import Failure, LLMOptions, Sampling, is_url, shown
from heads.llm.server import ServedLLM
from tests.llm_server import Reply, Server, said

Speak = Callable[[socket.socket], Any]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DEADLINE = 0.6  # seconds


@contextmanager
def serving(speak: Speak) -> Iterator[str]:
    """Run a server that reads a request and then sends arbitrary bytes; yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                speak(connection)
            except OSError:  # the client has disconnected
                pass

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def ask(url: str, **more: Any) -> str | Failure:
    llm = ServedLLM(url, "llama", **{"at_once": 1, "timeout": DEADLINE, "retries": 0, "first_pause": 0.01, **more})
    ((_, answer),) = llm.chat([[{"role": "user", "content": "question 0"}]], Sampling())
    return answer


def dripping(first: bytes, each: bytes = b" ") -> Speak:
    """Send a byte now and then forever, so that no single wait is long."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(each)
            time.sleep(0.05)

    return speak


def pouring(first: bytes, each: bytes) -> Speak:
    """Send endless bytes as fast as they are read."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(each)

    return speak


@pytest.mark.parametrize(
    "speak",
    [
        dripping(HEAD + b"Content-Length: 100000\r\n\r\n"),
        dripping(HEAD + b"\r\n"),
        dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        dripping(HEAD + b"X: ", b"x"),
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda connection: time.sleep(3),
    ],
    ids=["length", "until closed", "chunks", "a header", "the status", "informational", "silence"],
)
def test_an_answer_has_a_total_deadline(speak: Speak) -> None:
    with serving(speak) as url:
        begin = time.monotonic()
        answer = ask(url)
        seconds = time.monotonic() - begin
    assert isinstance(answer, Failure) and answer.passing, answer
    assert "did not answer within 0.6 s (1 tries)" in answer.reason or "broke off" in answer.reason
    assert seconds < 2 * DEADLINE + 2  # the request, the short prompt that checks the server, and slack


@pytest.mark.parametrize(
    ("speak", "why"),
    [
        (pouring(HEAD + b"\r\n", b" " * 65536), "answers more than 8 MB, not a chat completion"),
        (pouring(HEAD + b"Content-Length: 99999999999999\r\n\r\n", b" " * 65536), "answers more than 8 MB"),
        (pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n%b\r\n" % (b"x" * 65536)), "more than 8 MB"),
        (pouring(HEAD + b"X: ", b"x" * 65536), "broke off (RemoteProtocolError)"),
        (pouring(HEAD, b"X-Header: 1\r\n" * 5000), "broke off (RemoteProtocolError)"),
        (pouring(b"HTTP/1.1 400 Bad\r\n\r\n", b"no, " * 10000), "refuses this prompt (400: no, no, "),
    ],
    ids=["until closed", "length", "chunks", "one header", "many headers", "an error"],
)
def test_an_answer_has_a_size_limit(speak: Speak, why: str) -> None:
    with serving(speak) as url:
        answer = ask(url, timeout=20.0)
    assert isinstance(answer, Failure) and why in answer.reason and len(answer.reason) < 700


def test_a_compressed_answer_is_not_decompressed(server: Server) -> None:
    """Ten megabytes of zeros in ten kilobytes: without decompression they are not JSON."""
    bomb = gzip.compress(bytes(10 * 2**20))
    server.answer = lambda body: Reply(bomb, headers={"Content-Encoding": "gzip"})
    answer = ask(server.url)
    assert isinstance(answer, Failure) and "answers JSON that is not a chat completion" in answer.reason


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe\x00garbage",
        '{"choices": [{"message": {"content": "caf\u00e9"}}]}'.encode("latin-1"),
        b"[" * 200_000,
        b"[]",
        b"7",
        b'{"choices": {}}',
        b'{"choices": [7]}',
        b"9" * 10_000,
        b"",
    ],
)
def test_json_that_is_not_a_chat_completion_gives_one_line(server: Server, body: bytes) -> None:
    server.answer = lambda _: Reply(body)
    answer = ask(server.url, timeout=20.0)
    assert isinstance(answer, Failure) and "\n" not in answer.reason
    assert "answers JSON that is not a chat completion" in answer.reason


def test_a_lone_surrogate_is_a_failure(server: Server) -> None:
    """A text file cannot contain it."""
    server.answer = lambda _: Reply(b'{"choices": [{"message": {"content": "a \\ud800 b"}}]}')
    answer = ask(server.url)
    assert isinstance(answer, Failure) and not answer.passing and "surrogate" in answer.reason
    server.answer = lambda _: Reply(b'{"choices": [{"message": {"content": "\\ud83c\\udf73 caf\\u00e9"}}]}')
    assert ask(server.url) == "\U0001f373 caf\u00e9"


@pytest.mark.parametrize("pause", ["999999999999", "9" * 500, "1e9", "-5", "Fri, 31 Dec 2199 23:59:59 GMT", "\u0669"])
def test_retry_after_has_a_limit(server: Server, pause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_server, "_LONGEST_PAUSE", 0.2)
    header = pause.encode("latin-1", "replace").decode("latin-1")
    server.answer = lambda _: Reply(b"", 429, headers={"Retry-After": header})
    begin = time.monotonic()
    answer = ask(server.url, timeout=20.0, retries=2)
    assert isinstance(answer, Failure) and "answers 429 Too Many Requests (3 tries)" in answer.reason
    assert time.monotonic() - begin < 20


SECRETS = ("hunter2", "alice", "sk-query-secret", "sk-bearer-secret")


@pytest.fixture
def with_secrets(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the server with a user, a password and a key; and a key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-bearer-secret")
    return server.url.replace("http://", "http://alice:hunter2@") + "?api_key=sk-query-secret"


def test_a_url_with_user_and_query_is_used_unchanged(server: Server, with_secrets: str) -> None:
    assert ask(with_secrets) == "echo: question 0"
    assert server.requests[0]["path"] == "/v1/chat/completions?api_key=sk-query-secret"
    assert server.keys == ["Basic YWxpY2U6aHVudGVyMg=="]


def echoing(body: dict[str, Any]) -> Reply:
    return Reply(("no such page \x1b[31m" + " ".join(SECRETS) + body["path"]).encode(), 400, "text/plain")


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda body: None,
        lambda body: Reply(b"", 401),
        lambda body: Reply(b"", 404),
        lambda body: Reply(b"", 503),
        lambda body: Reply(b"<html>", 200, "text/html"),
        lambda body: Reply(b"{"),
        lambda body: time.sleep(1),
        echoing,
        lambda body: Reply(
            b"", 302, headers={"Location": "http://alice:hunter2@other.example/v1?api_key=sk-query-secret"}
        ),
        lambda body: Reply(b"", 302, headers={"Location": "//alice:hunter2@[::1"}),
        lambda body: Reply(b"", 307, headers={"Location": "/elsewhere?api_key=sk-query-secret"}),
    ],
)
def test_nothing_secret_is_shown(server: Server, with_secrets: str, behaviour: Any) -> None:
    server.answer = behaviour
    answer = ask(with_secrets, retries=1)
    assert isinstance(answer, Failure) and answer.reason.isprintable()
    assert not any(secret in answer.reason for secret in SECRETS), answer.reason
    if behaviour is not echoing:
        assert server.url in answer.reason  # the server is still named


def test_the_message_for_a_dead_server_contains_no_secret() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answer = ask(f"http://alice:hunter2@127.0.0.1:{port}/v1?api_key=sk-query-secret")
    assert isinstance(answer, Failure) and "Connection refused" in answer.reason
    assert f"http://127.0.0.1:{port}/v1/chat/completions does not answer" in answer.reason
    assert not any(secret in answer.reason for secret in SECRETS)


@pytest.mark.parametrize("url", ["alice:hunter2@host/v1", "http://alice:hunter2@[::1/v1?api_key=sk-query-secret"])
def test_a_wrong_url_is_not_printed(url: str) -> None:
    with pytest.raises(StepDiffError, match="not a URL; give one such as http://") as refused:
        ServedLLM(url, "llama")
    assert not any(secret in str(refused.value) for secret in SECRETS)
    assert shown(url) == "an invalid URL" and not is_url(url)


def test_options_and_provenance_contain_no_secret(with_secrets: str) -> None:
    assert not any(secret in json.dumps(LLMOptions(endpoint=with_secrets).provenance()) for secret in SECRETS)
    with pytest.raises(StepDiffError) as refused:
        LLMOptions(endpoint=with_secrets, precision="float32")
    assert not any(secret in str(refused.value) for secret in SECRETS)
    assert shown("https://u:p@[::1]:8000/v1?k=x#f") == "https://[::1]:8000/v1"


def test_a_redirect_does_not_send_the_prompt_to_another_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-bearer-secret")
    heard: list[bytes] = []
    with serving(lambda connection: heard.append(b"")) as other:
        server.answer = lambda _: Reply(b"", 307, headers={"Location": other})
        answer = ask(server.url)
    assert isinstance(answer, Failure) and f"has moved to {other} (307)" in answer.reason and not heard


def test_an_unusable_proxy_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://alice:hunter2@host")
    with pytest.raises(StepDiffError, match="the proxy of HTTP_PROXY") as refused:
        ServedLLM("http://127.0.0.1:1/v1", "llama")
    assert "hunter2" not in str(refused.value)


def test_an_answer_below_the_size_limit_is_complete(server: Server) -> None:
    text = "x" * 3_000_000
    server.answer = lambda _: said(text)
    assert ask(server.url, timeout=20.0) == text
