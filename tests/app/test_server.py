"""Hosts, origins, sizes, headers, connections and the two forms of a page, asked from a real server."""

import contextlib
import gzip
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
from starlette.testclient import TestClient

from app import connections
from app.annotating import service
from app.annotating.collection import people
from app.annotating.collection.database import Database, default_url
from app.server import HEADERS, MOST_BODY, create_app, listener
from app.site import Site
from common.errors import StepDiffError
from store import Store
from tests.app.annotate_made import names, write_task
from tests.app.compare_made import guesses, made, write
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


HALF_A_HEADER = b"GET /annotate HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
HALF_A_BODY = b"POST /annotate/enter HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n"
HALF_A_BODY += b"Content-Type: application/json\r\n\r\n{"
WHOLE = b"GET /static/base.css HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def exchange(port: int, request: bytes, source: str = "127.0.0.1") -> bytes:
    """Return all bytes that the server answers to these bytes, sent from an address of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def public(world: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port and the log of a server for other machines, which can have 1,024 files open."""
    options = ("--annotate", str(write_task(tmp_path, names(1))), "--public-url", "http://127.0.0.1")
    server = Server(world, tmp_path / "cache", *options, log=tmp_path / "log")
    yield int(server.url.rpartition(":")[2]), tmp_path / "log"
    server.kill()


def test_the_server_answers_while_1100_half_sent_requests_are_open(public: tuple[int, Path]) -> None:
    port, log = public
    before = len(log.read_text().splitlines())
    with contextlib.ExitStack() as opened:
        for half in (HALF_A_HEADER, HALF_A_BODY):
            for number in range(1100):
                address = ("127.0.0.2" if number < 550 else f"127.0.1.{number % 10}", 0)
                connection = socket.create_connection(("127.0.0.1", port), 20, address)
                opened.enter_context(connection).sendall(half)
            for source in ("127.0.0.3", "127.0.0.2"):
                start = time.monotonic()
                assert exchange(port, WHOLE, source).startswith(b"HTTP/1.1 200")
                assert time.monotonic() - start < 5
        for _ in range(50):
            assert exchange(port, b"no request\r\n\r\n").startswith(b"HTTP/1.1 400")
            upgrade = WHOLE.replace(b"close", b"upgrade, close\r\nUpgrade: websocket")
            assert exchange(port, upgrade).startswith(b"HTTP/1.1 200")
    lines = log.read_text().splitlines()[before:]
    assert len(lines) == len({line[:20] for line in lines}) <= 5, "each line once a minute"
    assert any("closed one that waits" in line for line in lines)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server in this process, with an address that fails."""
    app = create_app(Site.open(str(Store.open(tmp_path / "features", create=True).path), cache=str(tmp_path)))

    def fails() -> None:
        raise RuntimeError("a defect")

    app.add_api_route("/fails", fails)
    running, listening = connections.server(app), listener("127.0.0.1", 0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(20)


@pytest.mark.parametrize(
    "sent", [b"", HALF_A_HEADER, HALF_A_BODY, WHOLE.replace(b"close", b"x") + HALF_A_HEADER], ids=len
)
def test_a_request_arrives_in_time_or_its_connection_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "ARRIVAL", 1.0)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        while time.monotonic() < start + 5:
            time.sleep(0.1)
            connection.sendall(b"x" * bool(sent))  # drops that arrive one by one do not help
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                if not connection.recv(100_000):
                    break
            connection.setblocking(True)
    assert 0.9 < time.monotonic() - start < 4


def of_method(method: bytes, *lines: bytes, path: bytes = b"/docs", host: bytes = b"127.0.0.1") -> bytes:
    """Return a request."""
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *lines, b"", b""])


REQUESTS = {
    "another host": (400, of_method(b"GET", host=b"evil.example")),
    "a host that is none": (400, of_method(b"GET", host=b"[")),
    "no request": (400, b"no request\r\n\r\n"),
    "a NUL": (400, of_method(b"GET", path=b"/media/video/%00")),
    "another origin": (403, of_method(b"POST", b"Origin: http://evil.example")),
    "an origin that is none": (403, of_method(b"POST", b"Origin: http://[")),
    "another site": (403, of_method(b"POST", b"Sec-Fetch-Site: cross-site")),
    "nothing there": (404, of_method(b"GET", path=b"/nothing")),
    "another method": (405, of_method(b"POST")),
    "a large body": (413, of_method(b"POST", b"Content-Length: 1048577")),
    "a large header": (431, of_method(b"GET", b"X: " + b"x" * 2**20)),
    "a defect": (500, of_method(b"GET", path=b"/fails")),
    "a page": (200, of_method(b"GET")),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_response_has_the_security_headers(port: int, name: str) -> None:
    status, request = REQUESTS[name]
    answer = exchange(port, request)
    head = answer.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    assert head[0].startswith(f"http/1.1 {status} ")
    for header, value in HEADERS.items():
        own = [line.partition(": ")[2] for line in head if line.startswith(f"{header.lower()}: ")]
        assert own == [value.lower()] or (header == "Cache-Control" and own == ["no-store"]), header


def test_texts_are_compressed_and_files_are_not_sent_twice(ask: Ask) -> None:
    for path in ("/static/base.css", "/openapi.json", "/explore"):
        plain, packed = ask("GET", path), ask("GET", path, Accept_Encoding="gzip")
        assert "content-encoding" not in plain[1] and packed[1]["content-encoding"] == "gzip"
        assert gzip.decompress(packed[2]) == plain[2] and len(packed[2]) < len(plain[2]) / 2
    for path in ("/static/base.css", "/static/look.css"):
        _, headers, _ = ask("GET", path, Accept_Encoding="gzip")
        assert headers["cache-control"] == "no-cache" and "accept-encoding" in headers["vary"].lower()
        again = ask("GET", path, Accept_Encoding="gzip", If_None_Match=headers["etag"])
        assert again[0] == 304 and again[2] == b"" and again[1]["cache-control"] == "no-cache"


ODD = (
    "",
    "x",
    "-1",
    "0",
    "9223372036854775808",
    "1e400",
    "nan",
    "%00",
    "%ED%A0%80",
    "٣",
    "[",
    "'",
    "../..",
    3000 * "a",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    1e308,
    "",
    "\0",
    "\ud800",
    "x" * 3000,
    [],
    ["\ud800"],
    {"\0": "\0"},
    {"x": 2**70},
)


NO_CLIPS: tuple[dict[str, Any], ...] = (
    {"video": "v\0.mp4"},
    {"video": "v" * 5000},
    {"start": 1e18, "end": 1e18 + 256},
    {"start": float("nan")},
    {"start": -1e300, "end": float("inf")},
)


def hostile(world: Path, folder: Path) -> tuple[str, list[str]]:
    """Copy the store; return its path, and ids of clips: a sound one, and one for each of NO_CLIPS."""
    path = shutil.copytree(world / "features", folder / "features")
    (part,) = (path / "catalog/clips").glob("*.parquet")
    records = pl.read_parquet(part).to_dicts()
    for record, values in zip(records[1:], NO_CLIPS, strict=False):
        record.update(values)
    pl.DataFrame(records, schema=pl.read_parquet_schema(part)).write_parquet(part)
    return str(path), [record["key"] for record in records[: 1 + len(NO_CLIPS)]]


def test_no_request_ends_in_500(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter and each field of each address, with odd values; the other parameters are sound."""
    monkeypatch.setattr(service, "PERSON_BURST", 1e9)
    monkeypatch.setattr(service, "ADDRESS_BURST", 1e9)
    store, keys = hostile(world, tmp_path)
    rows = made("diffmcq", 6, clips=keys)
    write(tmp_path / "said", "diffmcq_one", "diffmcq", rows, guesses("diffmcq", rows, 0), control="none")
    task = write_task(tmp_path / "task", [(keys[0], key) for key in keys[1:]])
    said, videos = [str(tmp_path / "said")], str(world / "kitchen")
    app = create_app(Site.open(store, videos, predictions=said, annotate=str(task), cache=str(tmp_path / "cache")))
    client = TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)
    client.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
    with Database.open(default_url(task)).write() as connection:
        admin = people.named(connection, people.ADMIN)
        assert admin is not None
        tokens = [people.add(connection, "Ann", 0.0)[1], people.link(connection, admin, 0.0)]
    for token in tokens:
        assert client.get(f"/annotate/as/{token}").status_code == 200
    sound = {"view": "efficientnet-lite0", "task": "diffmcq", "identity": "1", "side": "left", "form": "answers"}
    sound |= {"key": keys[0], "clip": keys[0], "reference": keys[0], "candidate": keys[1], "colour": "step"}
    sound |= {"id": f"{keys[0]} {keys[1]}", "token": tokens[0], "head": "x"}
    described, failed, sent = app.openapi(), [], 0

    def ask(method: str, path: str, **given: Any) -> None:
        nonlocal sent
        sent += 1
        if client.request(method, path, **given).status_code == 500:
            failed.append((method, path, given))

    while client.get(f"/explore/points?view={sound['view']}").status_code == 202:
        time.sleep(0.1)
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            places = {found["name"]: found["in"] for found in about.get("parameters", [])}
            required = [found["name"] for found in about.get("parameters", []) if found["required"]]
            for name in places:
                for value in (*ODD, *keys[1:]) if name in ("key", "clip", "reference", "candidate", "near") else ODD:
                    values = {**{own: sound[own] for own in required}, name: value}
                    query = "&".join(f"{own}={values[own]}" for own in values if places[own] == "query")
                    ask(method, f"{path.format(**values)}?{query}")
            kinds = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = described["components"]["schemas"].get(kinds.get("$ref", "").rpartition("/")[2], {})
            whole: dict[str, Any] = {
                "number": 1,
                "changes": {},
                "seconds": 1.0,
                "person": 1,
                "pair": sound["id"],
                "keystep": "x",
            }
            whole |= {"texts": {}, "scores": {}, "tasks": [], "step": "", "category": "Actions"} | sound
            for name in fields.get("properties", {}):
                for odd in ODD_VALUES:
                    body = {own: whole[own] for own in fields.get("required", []) if own in whole} | {name: odd}
                    ask(method, path.format(**sound), content=json.dumps(body))
    assert failed == [] and sent > 1000


def test_a_port_in_use_is_one_line() -> None:
    with (
        listener("127.0.0.1", 0) as taken,
        pytest.raises(StepDiffError, match=r"cannot listen on 127.0.0.1:\d+ \(.*in use"),
    ):
        listener("127.0.0.1", taken.getsockname()[1])
