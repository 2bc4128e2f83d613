"""Hosts, origins, sizes, headers and the two forms of a page, asked from a real server."""

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.server import MOST_BODY, listener
from common.errors import StepDiffError
from tests.app.conftest import Server


@pytest.fixture(scope="module")
def ask(serve: Callable[..., Server]) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Return a function that sends one request and returns status, headers and body."""
    place = urlsplit(serve().url)

    def send(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(str(place.hostname), int(place.port or 0), timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    return send


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


def test_a_request_for_another_host_name_is_refused(ask: Ask) -> None:
    assert ask("GET", "/docs")[0] == 200
    assert ask("GET", "/docs", Host="evil.example")[0] == 400
    assert ask("GET", "/docs", Host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}],
    ids=["another site", "a sandboxed frame", "cross-site"],
)
def test_a_request_that_changes_something_is_refused_unless_this_sites_own_page_sends_it(
    ask: Ask, headers: dict[str, str]
) -> None:
    status, _, body = ask("POST", "/docs", b"{}", **headers)
    assert status == 403 and b"only this site's own pages" in body
    assert ask("POST", "/docs", b"{}")[0] == 405, "a program on this machine may try"


def test_a_body_larger_than_most_body_is_refused(ask: Ask) -> None:
    status, _, body = ask("POST", "/docs", b" " * (MOST_BODY + 1))
    assert status == 413 and b"1,048,576" in body
    # without Content-Length the body ends early, and so does the connection
    assert ask("POST", "/docs", b" " * MOST_BODY)[0] == 405


@pytest.mark.parametrize("path", ["/docs", "/static/base.css", "/openapi.json", "/nothing", "/media/video/nothing"])
def test_every_response_forbids_inline_scripts_foreign_resources_and_foreign_frames(ask: Ask, path: str) -> None:
    _, headers, _ = ask("GET", path)
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self'" and rules["frame-ancestors"] == "'self'"
    assert not any("unsafe" in rule or "http" in rule or "*" in rule for rule in rules.values())
    assert headers["x-content-type-options"] == "nosniff"


def test_an_error_is_a_page_too_with_one_line(ask: Ask) -> None:
    status, headers, body = ask("GET", "/media/video/<b>x", Accept="text/html,*/*")
    assert status == 404 and headers["content-type"].startswith("text/html")
    assert b"the store has no clip" in body and b"<b>x" not in body and b"&lt;b&gt;x" in body
    status, _, body = ask("GET", "/media/video/x", Accept="application/json")
    assert status == 404 and json.loads(body) == {"title": "Not found", "error": "the store has no clip 'x'"}
    status, headers, body = ask("GET", "/annotate", Accept="text/html")
    assert status == 404 and headers["content-type"].startswith("text/html")
    assert b"no annotation task: start the server with --annotate TASK" in body
    for path in ("/nothing", "/static/nothing"):
        error = {"title": "Not found", "error": f"nothing has the address {path}"}
        status, _, body = ask("GET", path, Accept="application/json")
        assert (status, json.loads(body)) == (404, error)
    status, headers, body = ask("DELETE", "/docs", Accept="application/json")
    assert status == 405 and headers["allow"] == "GET" and json.loads(body)["error"] == "/docs: Method Not Allowed"


def test_the_api_reference_needs_no_other_site(ask: Ask) -> None:
    described: dict[str, Any] = json.loads(ask("GET", "/openapi.json")[2])
    assert {"/media/video/{key}", "/media/strip/{key}", "/pair"} <= described["paths"].keys()
    assert ask("GET", "/swagger/swagger-ui-bundle.js")[0] == 200
    assert b"http" not in ask("GET", "/docs")[2].replace(b'lang="en"', b"")


def test_a_port_in_use_is_one_line() -> None:
    with (
        listener("127.0.0.1", 0) as taken,
        pytest.raises(StepDiffError, match=r"cannot listen on 127.0.0.1:\d+ \(.*in use"),
    ):
        listener("127.0.0.1", taken.getsockname()[1])
