"""Guarantees of heads.llm.server, with a real local server that misbehaves."""

import json
import re
import socket
import time
from typing import Any

import pytest

from common.errors import StepDiffError
from heads.llm.model import CutOff, Failure, Message, Sampling
from heads.llm.server import ServedLLM
from tests.llm_server import Reply, Server, said

HTML = Reply(b"<html><h1>Welcome</h1></html>", 200, "text/html; charset=utf-8")


def asked(count: int) -> list[list[Message]]:
    return [[{"role": "user", "content": f"question {i}"}] for i in range(count)]


def ask(url: str, count: int, **more: Any) -> list[str | Failure]:
    llm = ServedLLM(url, "llama", **{"at_once": 2, "timeout": 5.0, "retries": 2, "first_pause": 0.01, **more})
    found = dict(llm.chat(asked(count), Sampling(16, 0.5, 0.9, 7)))
    assert sorted(found) == list(range(count)) and llm.busy > 0
    return [found[place] for place in range(count)]


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def test_requests_have_the_format_of_openai(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert ask(server.url + "/", 5) == [f"echo: question {i}" for i in range(5)]
    request = next(body for body in server.requests if number(body) == 3)
    assert request == {
        "path": "/v1/chat/completions",
        "model": "llama",
        "messages": asked(4)[3],
        "max_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
    }
    assert set(server.keys) == {"Bearer secret"}


@pytest.mark.parametrize(
    "trouble", [Reply(b"<html>busy</html>", 503, "text/html"), Reply(b"{}", 429), Reply(b"{", 200), None]
)
def test_a_request_to_a_busy_server_is_sent_again(server: Server, trouble: Reply | None) -> None:
    left = {i: 2 for i in range(4)}

    def answer(body: dict[str, Any]) -> Reply | None:
        left[number(body)] -= 1
        return said(f"answer {number(body)}") if left[number(body)] < 0 else trouble

    server.answer = answer
    assert ask(server.url, 4) == [f"answer {i}" for i in range(4)]
    assert len(server.requests) == 12


def test_pauses_grow_and_retry_after_is_respected(server: Server) -> None:
    times: list[float] = []

    def answer(body: dict[str, Any]) -> Reply:
        times.append(time.monotonic())
        return Reply(b"", 503) if len(times) < 4 else said("ok")

    server.answer = answer
    assert ask(server.url, 1, retries=3, first_pause=0.1) == ["ok"]
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert all(gap >= least for gap, least in zip(gaps, (0.08, 0.16, 0.32), strict=True))
    times.clear()
    server.answer = lambda body: (
        times.append(time.monotonic())
        or (said("ok") if len(times) > 1 else Reply(b"", 429, headers={"Retry-After": "1"}))
    )
    assert ask(server.url, 1) == ["ok"] and times[1] - times[0] >= 1


def slow(body: dict[str, Any]) -> None:
    time.sleep(1)


@pytest.mark.parametrize(
    ("behaviour", "reported"),
    [
        (lambda body: None, r"broke off \(RemoteProtocolError\) \(3 tries\)"),
        (slow, r"did not answer within 0.2 s \(3 tries\)"),
        (lambda body: HTML, "answers text/html, not a chat completion: correct --endpoint"),
        (lambda body: Reply(b"{}", 401), r"refuses the key \(401\): set OPENAI_API_KEY"),
        (
            lambda body: Reply(b"not here", 404, "text/plain"),
            "answers 404 Not Found: correct --endpoint or the model's name 'llama'",
        ),
    ],
)
def test_a_server_that_dies_gives_one_line_and_earlier_answers_are_kept(
    server: Server, behaviour: Any, reported: str
) -> None:
    server.answer = lambda body: said("well") if len(server.requests) <= 3 else behaviour(body)
    begin = time.monotonic()
    found = ask(server.url, 40, at_once=1, timeout=0.2)
    assert found[:3] == ["well"] * 3
    failures = [answer for answer in found[3:] if isinstance(answer, Failure)]
    assert len(failures) == 37 and all(failure.passing for failure in failures)
    assert re.search(reported, failures[0].reason), failures[0].reason
    assert all("\n" not in failure.reason and "run the same command again" in failure.reason for failure in failures)
    assert len(server.requests) <= 3 + 3 + 1 and time.monotonic() - begin < 5  # the other 36 were not tried


def test_a_closed_port_gives_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = ask(url, 3)
    assert all(isinstance(answer, Failure) and answer.passing for answer in found)
    reasons = {answer.reason for answer in found if isinstance(answer, Failure)}
    assert any("does not answer" in reason and "Connection refused" in reason for reason in reasons)
    for wrong in ("localhost:8000", "http://[::1/v1", "http://localhost:port/v1", "http:///v1", "http://h/v\u00e9"):
        with pytest.raises(StepDiffError, match="not a URL; give one such as http://"):
            ServedLLM(wrong, "llama")


def test_a_prompt_that_gets_no_answer_fails_alone_if_the_server_answers_a_short_one(server: Server) -> None:
    server.answer = lambda body: Reply(b"", 500) if "question 1" in body["messages"][-1]["content"] else said("well")
    first, poison, *others = ask(server.url, 9, retries=1)
    assert isinstance(poison, Failure) and not poison.passing and "500" in poison.reason
    assert "but answers a short prompt" in poison.reason and [first, *others] == ["well"] * 8


def test_a_prompt_that_the_server_refuses_fails_alone(server: Server) -> None:
    too_long = json.dumps({"error": {"message": "maximum context length is 4096"}}).encode()
    empty = json.dumps({"choices": [{"message": {"content": None}}]}).encode()
    server.answer = lambda body: {1: Reply(too_long, 400), 2: Reply(empty)}.get(number(body), said("well"))
    first, refused, silent, last = ask(server.url, 4)
    assert first == last == "well"
    assert isinstance(refused, Failure) and not refused.passing and "maximum context length is 4096" in refused.reason
    assert isinstance(silent, Failure) and not silent.passing and "answered nothing" in silent.reason


def test_an_answer_that_was_cut_by_the_token_limit_is_distinguished_from_a_complete_one(server: Server) -> None:
    choice = {"message": {"content": "In Video 1, the"}, "finish_reason": "length"}
    server.answer = lambda body: Reply(json.dumps({"choices": [choice]}).encode()) if number(body) else said("whole")
    assert [type(answer) for answer in ask(server.url, 2)] == [str, CutOff]


def test_no_more_requests_than_allowed_are_open_at_once(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return said("ok")

    server.answer = answer
    assert ask(server.url, 12, at_once=3) == ["ok"] * 12
    assert server.most_at_once == 3
    begin = time.monotonic()
    assert ask(server.url, 9, at_once=8, requests_per_second=20.0) == ["ok"] * 9
    assert 8 / 20 <= time.monotonic() - begin < 2


def test_no_message_contains_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    for reply in (Reply(b"", 401), HTML, Reply(b"no", 400)):
        server.answer = lambda body, reply=reply: reply
        assert "very-secret" not in repr(ask(server.url, 2))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_no_other_server(server: Server, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is not followed, not even to the same server."""
    monkeypatch.setenv("OPENAI_API_KEY", " secret\r\n")  # with a newline, as in files of variables
    elsewhere = server.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    server.answer = lambda body: Reply(b"", status, headers={"Location": elsewhere})
    (answer,) = ask(server.url, 1)
    assert isinstance(answer, Failure) and f"has moved to {elsewhere} ({status}): correct --endpoint" in answer.reason
    assert server.keys == ["Bearer secret"]


def test_a_key_that_is_invalid_in_a_header_is_not_printed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    (answer,) = ask(server.url, 1)
    assert isinstance(answer, Failure) and "OPENAI_API_KEY holds a character" in answer.reason
    assert "sec" not in answer.reason.replace("OPENAI_API_KEY", "") and not server.requests
