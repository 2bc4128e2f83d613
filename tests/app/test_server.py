"""The command, hosts, origins, sizes, headers, connections, media, and the two forms of a page."""

import contextlib
import gzip
import json
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image
from starlette.testclient import TestClient

from featurize.video.cut import MOST_PIXELS, cut, filmstrip
from stepdiff.app import connections
from stepdiff.app.__main__ import main
from stepdiff.app.annotating import accounts
from stepdiff.app.annotating.database import Database, default_url
from stepdiff.app.cache import Cache
from stepdiff.app.media import clip_file as made_media
from stepdiff.app.options import AppOptions
from stepdiff.app.server import HEADERS, MOST_BODY, create_app, listener
from stepdiff.app.site import Site, UnknownError
from stepdiff_core.errors import StepDiffError
from store import Store
from tests.app.annotation_tasks import names, write_task
from tests.app.conftest import Server
from tests.app.predictions import guesses, random_rows, write
from tests.refusals import refuses


@pytest.fixture(scope="module")
def ask(serve: Callable[..., Server]) -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """Return a function that sends one request and returns status, headers and body."""
    place = urlsplit(serve().url)

    def send(
        method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(str(place.hostname), int(place.port or 0), timeout=60)
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        found = (
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read(),
        )
        connection.close()
        return found

    return send


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.mark.full
def test_a_body_larger_than_most_body_is_refused(ask: Ask) -> None:
    status, _, body = ask("POST", "/docs", b" " * (MOST_BODY + 1))
    assert status == 413 and b"1,048,576" in body
    assert ask("POST", "/docs", b" " * MOST_BODY)[0] == 405
    assert ask("GET", "/docs", Host="localhost:1")[0] == 200, "another name of this machine"


@pytest.mark.full
def test_an_error_is_a_page_too_with_one_line(ask: Ask) -> None:
    status, headers, body = ask("GET", "/media/video/<b>x", Accept="text/html,*/*")
    assert status == 404 and headers["content-type"].startswith("text/html")
    assert b"the store has no clip" in body and b"<b>x" not in body and b"&lt;b&gt;x" in body
    status, _, body = ask("GET", "/media/video/x", Accept="application/json")
    assert status == 404 and json.loads(body) == {
        "title": "Not found",
        "error": "the store has no clip 'x'",
    }
    status, headers, body = ask("GET", "/annotate", Accept="text/html")
    assert status == 404 and headers["content-type"].startswith("text/html")
    assert b"no annotation task: start the server with --annotate TASK" in body
    for path in ("/nothing", "/static/nothing"):
        error = {"title": "Not found", "error": f"nothing has the address {path}"}
        status, _, body = ask("GET", path, Accept="application/json")
        assert (status, json.loads(body)) == (404, error)
    status, headers, body = ask("DELETE", "/docs", Accept="application/json")
    assert (
        status == 405
        and headers["allow"] == "GET"
        and json.loads(body)["error"] == "/docs: Method Not Allowed"
    )


@pytest.mark.full
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
    """Return all bytes that the server answers to these bytes, sent from an address of this
    machine."""
    with socket.create_connection(
        ("127.0.0.1", port), timeout=20, source_address=(source, 0)
    ) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def public(world: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port and the log of a server for other machines, which can have 1,024 files open."""
    options = (
        "--annotate",
        str(write_task(tmp_path, names(1))),
        "--public-url",
        "http://127.0.0.1",
    )
    server = Server(world, tmp_path / "cache", *options, log=tmp_path / "log")
    yield int(server.url.rpartition(":")[2]), tmp_path / "log"
    server.kill()


@pytest.mark.full
def test_the_server_answers_during_1100_half_sent_requests(public: tuple[int, Path]) -> None:
    port, log = public
    before = len(log.read_text().splitlines())
    with contextlib.ExitStack() as opened:
        for half in (HALF_A_HEADER, HALF_A_BODY):
            for number in range(1100):
                address = ("127.0.0.2" if number < 550 else f"127.0.1.{number % 10}", 0)
                connection = socket.create_connection(("127.0.0.1", port), 20, address)
                opened.enter_context(connection).sendall(half)
            for source in ("127.0.0.3", "127.0.0.2"):
                assert exchange(port, WHOLE, source).startswith(b"HTTP/1.1 200")
        for _ in range(50):
            assert exchange(port, b"no request\r\n\r\n").startswith(b"HTTP/1.1 400")
            upgrade = WHOLE.replace(b"close", b"upgrade, close\r\nUpgrade: websocket")
            assert exchange(port, upgrade).startswith(b"HTTP/1.1 200")
    lines = log.read_text().splitlines()[before:]
    assert len(lines) < 50, "each line once a minute"
    assert any("closed one that waits" in line for line in lines)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server in this process, with an address that fails."""
    app = create_app(
        Site(
            AppOptions(
                str(Store.open(tmp_path / "features", create=True).path), cache=str(tmp_path)
            )
        )
    )

    def fails() -> None:
        raise RuntimeError("a defect")

    app.add_api_route("/fails", fails)
    running, listening = connections.server(app), listener("127.0.0.1", 0)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(20)


@pytest.mark.full
def test_a_request_arrives_in_time_or_its_connection_is_closed(port: int) -> None:
    """Within a minute; drops that arrive one by one do not help."""
    start, waiting = time.monotonic(), {}
    for request in (b"", HALF_A_HEADER, HALF_A_BODY, WHOLE.replace(b"close", b"x") + HALF_A_HEADER):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)
        waiting[connection] = request
    while waiting and time.monotonic() < start + 240:
        time.sleep(1)
        for connection, request in list(waiting.items()):
            try:
                connection.send(b"x" * bool(request))
                closed = not connection.recv(100_000)
            except BlockingIOError:
                closed = False
            except ConnectionError:
                closed = True
            if closed:
                assert time.monotonic() - start > connections.ARRIVAL - 1
                connection.close()
                del waiting[connection]
    assert not waiting


def of_method(
    method: bytes, *lines: bytes, path: bytes = b"/docs", host: bytes = b"127.0.0.1"
) -> bytes:
    """Return a request."""
    return b"\r\n".join(
        [
            method + b" " + path + b" HTTP/1.1",
            b"Host: " + host,
            b"Connection: close",
            *lines,
            b"",
            b"",
        ]
    )


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


def test_every_response_has_the_security_headers(port: int) -> None:
    """They forbid inline scripts, foreign resources and foreign frames."""
    rules = dict(
        rule.strip().split(" ", 1) for rule in HEADERS["Content-Security-Policy"].split(";")
    )
    assert (
        rules["default-src"] == "'none'"
        and rules["script-src"] == "'self'"
        and rules["frame-ancestors"] == "'self'"
    )
    assert not any("unsafe" in rule or "http" in rule or "*" in rule for rule in rules.values())
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    for name, (status, request) in REQUESTS.items():
        answer = exchange(port, request)
        head = answer.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
        assert head[0].startswith(f"http/1.1 {status} "), name
        for header, value in HEADERS.items():
            own = [
                line.partition(": ")[2] for line in head if line.startswith(f"{header.lower()}: ")
            ]
            assert own == [value.lower()] or (header == "Cache-Control" and own == ["no-store"]), (
                name,
                header,
            )


def test_an_unexpected_error_is_a_page_with_a_reference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(
        Site(
            AppOptions(
                str(Store.open(tmp_path / "features", create=True).path), cache=str(tmp_path)
            )
        )
    )
    app.add_api_route("/breaks", lambda: {}["a defect"])
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    page, twin = (
        client.get("/breaks", headers={"Accept": kind})
        for kind in ("text/html", "application/json")
    )
    reference = twin.json()["reference"]
    assert page.status_code == twin.status_code == 500
    assert 'href="/explore"' in page.text and reference in page.text and "a defect" not in page.text
    assert f"reference {reference}: KeyError" in caplog.text


@pytest.mark.full
def test_texts_are_compressed_and_files_are_not_sent_twice(ask: Ask) -> None:
    for path in ("/static/base.css", "/openapi.json", "/explore"):
        plain, packed = ask("GET", path), ask("GET", path, Accept_Encoding="gzip")
        assert "content-encoding" not in plain[1] and packed[1]["content-encoding"] == "gzip"
        assert gzip.decompress(packed[2]) == plain[2] and len(packed[2]) < len(plain[2]) / 2
    for path in ("/static/base.css", "/static/look.css"):
        _, headers, _ = ask("GET", path, Accept_Encoding="gzip")
        assert (
            headers["cache-control"] == "no-cache" and "accept-encoding" in headers["vary"].lower()
        )
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
    """Copy the store; return its path, and ids of clips: a sound one, and one for each of
    NO_CLIPS."""
    path = shutil.copytree(world / "features", folder / "features")
    (part,) = (path / "catalog/clips").glob("*.parquet")
    records = pl.read_parquet(part).to_dicts()
    for record, values in zip(records[1:], NO_CLIPS, strict=False):
        record.update(values)
    pl.DataFrame(records, schema=pl.read_parquet_schema(part)).write_parquet(part)
    return str(path), [record["key"] for record in records[: 1 + len(NO_CLIPS)]]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_no_request_ends_in_500(world: Path, tmp_path: Path) -> None:
    """Each parameter and each field of each address, with odd values; the other parameters are
    sound."""
    store, keys = hostile(world, tmp_path)
    rows = random_rows("diffmcq", 6, clips=keys)
    write(
        tmp_path / "said",
        "diffmcq_one",
        "diffmcq",
        rows,
        guesses("diffmcq", rows, 0),
        control="none",
    )
    task = write_task(tmp_path / "task", [(keys[0], key) for key in keys[1:]])
    said, videos = (str(tmp_path / "said"),), str(world / "kitchen")
    app = create_app(
        Site(
            AppOptions(
                store, videos, predictions=said, annotate=str(task), cache=str(tmp_path / "cache")
            )
        )
    )
    client = TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)
    client.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
    with Database.open(default_url(task)).write() as connection:
        admin = accounts.named(connection, accounts.ADMIN)
        assert admin is not None
        tokens = [accounts.add(connection, "Ann", 0.0)[1], accounts.link(connection, admin, 0.0)]
    for token in tokens:
        assert client.get(f"/annotate/as/{token}").status_code == 200
    sound = {
        "view": "efficientnet-lite0",
        "task": "diffmcq",
        "identity": "1",
        "side": "left",
        "form": "answers",
    }
    sound |= {
        "key": keys[0],
        "clip": keys[0],
        "reference": keys[0],
        "candidate": keys[1],
        "colour": "step",
    }
    sound |= {"id": f"{keys[0]} {keys[1]}", "token": tokens[0], "head": "x", "act": "include"}
    described, failed, sent = app.openapi(), [], 0

    def ask(method: str, path: str, **given: Any) -> None:
        nonlocal sent
        sent += 1
        for _ in range(600):  # a person may send so many requests in a second
            answer = client.request(method, path, **given)
            if answer.status_code != 429:
                break
            time.sleep(0.1)
        if answer.status_code == 500:
            failed.append((method, path, given))

    while client.get(f"/explore/points?view={sound['view']}").status_code == 202:
        time.sleep(0.1)
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            places = {found["name"]: found["in"] for found in about.get("parameters", [])}
            required = [found["name"] for found in about.get("parameters", []) if found["required"]]
            for name in places:
                for value in (
                    (*ODD, *keys[1:])
                    if name in ("key", "clip", "reference", "candidate", "near")
                    else ODD
                ):
                    values = {**{own: sound[own] for own in required}, name: value}
                    query = "&".join(
                        f"{own}={values[own]}" for own in values if places[own] == "query"
                    )
                    ask(method, f"{path.format(**values)}?{query}")
            kinds = (
                about.get("requestBody", {})
                .get("content", {})
                .get("application/json", {})
                .get("schema", {})
            )
            fields = described["components"]["schemas"].get(
                kinds.get("$ref", "").rpartition("/")[2], {}
            )
            whole: dict[str, Any] = {
                "number": 1,
                "changes": {},
                "seconds": 1.0,
                "person": 1,
                "pair": sound["id"],
                "keystep": "x",
            }
            whole |= {
                "texts": {},
                "scores": {},
                "tasks": [],
                "step": "",
                "category": "Actions",
            } | sound
            for name in fields.get("properties", {}):
                for odd in ODD_VALUES:
                    body = {
                        own: whole[own] for own in fields.get("required", []) if own in whole
                    } | {name: odd}
                    ask(method, path.format(**sound), content=json.dumps(body))
    assert failed == [] and sent > 1000


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Create an empty store, and return its path."""
    return str(Store.open(tmp_path / "features", create=True).path)


def visit(store: str, task: Path | None = None) -> TestClient:
    """Return a browser of a server of these pages."""
    site = Site(
        AppOptions(store, annotate=None if task is None else str(task), cache=f"{store}/../cache")
    )
    return TestClient(create_app(site), "http://127.0.0.1")


def test_without_host_the_server_listens_on_this_machine_only() -> None:
    with listener(AppOptions().host, 0) as socket:
        assert socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("option", ["store", "videos", "runs", "predictions", "annotate"])
def test_a_missing_folder_or_task_is_one_line(
    store: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["--store", store, "--port", "0", f"--{option}", "/none"]))
    shown = capsys.readouterr()
    assert ended.value.code == 2 and "/none" in shown.err
    *said, error = shown.err.splitlines()
    assert error.startswith("error: ") and "/none" in error and "http" not in shown.out
    assert said[0] == "loading the libraries of the pages" and len(said) < 4


@pytest.mark.parametrize("address", ["/explore", "/pair", "/compare", "/annotate"])
def test_every_page_exists_as_json_at_its_own_address(
    store: str, tmp_path: Path, address: str
) -> None:
    client = visit(store, write_task(tmp_path, names(1)))
    record = client.get(address, headers={"Accept": "application/json"})
    shown = client.get(address, headers={"Accept": "text/html"})
    assert (
        record.headers["content-type"] == "application/json"
        and shown.headers["content-type"][:9] == "text/html"
    )
    assert (
        record.status_code == shown.status_code and f"<title>{record.json()['title']}" in shown.text
    )


def test_the_page_of_a_gold_pair_is_like_that_of_any_other_pair(store: str, tmp_path: Path) -> None:
    pages = []
    for rate in (0, 1):  # the first pair is work, or gold
        client = visit(
            store, write_task(tmp_path / str(rate), names(2), gold=names(1, "gold"), gold_rate=rate)
        )
        assert client.post("/annotate/enter", json={"name": "Ann"}).status_code == 200
        pages.append(client.get("/annotate", headers={"Accept": "application/json"}).json())
    assert [shown.pop("of") for shown in pages] == [2, 3], (
        "a task with gold pairs has more pairs, whichever is shown"
    )
    assert pages[0] == pages[1] and not pages[0]["training"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0: give --public-url, the address that other machines open",
        ),
        (
            ["--public-url", "https://a.example"],
            "--public-url: other machines reach the annotation pages only",
        ),
        (
            ["--trust-proxy", "10.0.0.1"],
            "--trust-proxy: give the address that the proxy has, with --public-url",
        ),
        (
            ["--public-url", "a.example", "--annotate", "x"],
            "--public-url 'a.example': give scheme and host only",
        ),
        (["--public-url", "https://a.example/x", "--annotate", "x"], "give scheme and host only"),
        (
            ["--public-url", "https://a.example", "--annotate", "x", "--trust-proxy", "a"],
            "--trust-proxy: 'a' does not",
        ),
    ],
)
def test_addresses_that_cannot_be(
    store: str, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(main, ["--store", store, "--port", "0", *options], capsys, why)


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return time in seconds and RGB pixels of every frame."""
    with av.open(str(path)) as container:
        return [
            (float(frame.time or 0), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


@pytest.fixture(scope="module")
def video(world: Path) -> Path:
    return next((world / "kitchen" / "videos").glob("*.mp4"))


@pytest.mark.full
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.5, 4.25), (2.03, 2.5), (3.0, 3.04)])
def test_a_cut_clip_has_exactly_its_frames(
    video: Path, tmp_path: Path, start: float, end: float
) -> None:
    cut(video, start, end, tmp_path / "clip.mp4")
    expected = [
        (time - start, pixels) for time, pixels in frames(video) if start <= time + 1e-6 < end
    ]
    found = frames(tmp_path / "clip.mp4")
    assert len(found) == len(expected) > 0
    first = found[0][0]  # a player starts with the first frame
    assert [time - first for time, _ in found] == pytest.approx(
        [time - expected[0][0] for time, _ in expected], abs=0.002
    )
    for (_, pixels), (_, wanted) in zip(found, expected, strict=True):
        assert np.abs(pixels.astype(int) - wanted).mean() < 6, "H.264 loses a little"


def test_a_cut_clip_has_most_pixels_on_its_long_side(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1922, 202, "yuv420p"
        for shade in range(10):
            frame = av.VideoFrame.from_ndarray(
                np.full((202, 1922, 3), shade * 20, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cut(tmp_path / "wide.mp4", 0.0, 1.0, tmp_path / "clip.mp4")
    assert {pixels.shape for _, pixels in frames(tmp_path / "clip.mp4")} == {(100, MOST_PIXELS, 3)}


@pytest.mark.full
def test_sound_is_cut_with_the_pictures(tmp_path: Path, video: Path) -> None:
    """A beep from 1 to 2 s of the video starts 0.5 s after the start of a clip from 0.5 s."""
    rate = 16_000
    with av.open(str(tmp_path / "beep.mp4"), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=rate)
        sound.layout = "mono"
        for _ in range(40):
            blank = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(blank))
        time = np.arange(4 * rate) / rate
        wave = (0.5 * np.sin(2 * np.pi * 440 * time) * ((time >= 1) & (time < 2))).astype(
            np.float32
        )
        for at in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(
                wave[None, at : at + 1024], format="fltp", layout="mono"
            )
            part.sample_rate, part.pts = rate, at
            container.mux(sound.encode(part))
        container.mux(pictures.encode(None))
        container.mux(sound.encode(None))
    cut(tmp_path / "beep.mp4", 0.5, 3.0, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        loud = [
            float(frame.time or 0)
            for frame in container.decode(audio=0)
            if np.abs(frame.to_ndarray()).max() > 0.1
        ]
    assert 0.4 < min(loud) < 0.6 and 1.35 < max(loud) < 1.6


@pytest.mark.full
def test_a_clip_that_cannot_be_cut_is_one_line(video: Path, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="has no frame from 900 to 901 s"):
        cut(video, 900.0, 901.0, tmp_path / "clip.mp4")
    with pytest.raises(StepDiffError, match="at most 600 s"):
        cut(video, 0.0, 601.0, tmp_path / "clip.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(StepDiffError, match="is not a video"):
        cut(tmp_path / "text.mp4", 0.0, 1.0, tmp_path / "clip.mp4")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 100)

    def half(out: Path) -> None:
        out.write_bytes(b"half")
        raise StepDiffError("no more")

    with pytest.raises(StepDiffError, match="no more"):
        cache.get("one", ".mp4", half)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_several_requests_need_is_made_once(tmp_path: Path) -> None:
    cache, made_media, gate = Cache(tmp_path / "cache", 100), [], threading.Barrier(4)

    def make(out: Path) -> None:
        made_media.append(out)
        out.write_bytes(b"clip")

    def request() -> None:
        gate.wait()
        assert cache.get("one", ".mp4", make).read_bytes() == b"clip"

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made_media) == 1


def test_the_cache_folder_stays_within_its_limit(tmp_path: Path) -> None:
    """The files that were read longest ago go first."""
    import os

    cache = Cache(tmp_path / "cache", 30)
    for place, name in enumerate(("a", "b", "c")):
        path = cache.get(name, ".bin", lambda out: out.write_bytes(bytes(10)) and None)
        os.utime(path, (place, place))
    cache.get("a", ".bin", lambda out: pytest.fail("it is there"))  # read again
    cache.get("d", ".bin", lambda out: out.write_bytes(bytes(10)) and None)
    made_media: list[str] = []
    for name in ("a", "c", "d", "b"):
        cache.get(
            name,
            ".bin",
            lambda out, name=name: (made_media.append(name), out.write_bytes(bytes(10))) and None,
        )
    assert made_media == ["b"]
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 30
    assert not cache._making


def test_files_of_others_stay_in_the_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / f"{'0' * 40}.mp4").mkdir()
    (tmp_path / "thesis.mp4").write_bytes(bytes(100))
    (tmp_path / ".1-2.mp4").write_bytes(bytes(100))  # of a process that was killed
    cache = Cache(tmp_path, 20)
    for name in "abc":
        cache.get(name, ".mp4", lambda out: out.write_bytes(bytes(10)) and None)
    assert {"folder", f"{'0' * 40}.mp4", "thesis.mp4", ".1-2.mp4"} < {
        file.name for file in tmp_path.iterdir()
    }
    assert len(list(tmp_path.iterdir())) == 4 + 2


@pytest.mark.parametrize(
    "video", ["../../secret.mp4", "/etc/passwd", "videos/../../../x", "link.mp4", "nothing.mp4"]
)
def test_no_path_leads_out_of_the_folder_of_videos(tmp_path: Path, video: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    store = Store.open(tmp_path / "features", create=True)
    store.catalog("clips").append(
        pl.DataFrame({"key": ["x"], "video": [video], "start": [0.0], "end": [1.0]})
    )
    site = Site(
        AppOptions(
            str(tmp_path / "features"), str(tmp_path / "videos"), cache=str(tmp_path / "cache")
        )
    )
    with pytest.raises(UnknownError, match="is not a file in the folder of videos"):
        site.file(site.clip("x"))


def test_an_image_in_a_tar_file_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    Image.new("RGB", (64, 48), (250, 0, 0)).save(tmp_path / "red.png")
    for tar in (folder / "00000.tar", tmp_path / "outside.tar"):
        with tarfile.open(tar, "w") as file:
            file.add(tmp_path / "red.png", "red.png")
    (folder / "link.tar").symlink_to(tmp_path / "outside.tar")
    store = Store.open(tmp_path / "features", create=True)
    videos = ["00000.tar/red.png", "link.tar/red.png", "gone.tar/red.png"]
    store.catalog("clips").append(
        pl.DataFrame({"key": videos, "video": videos, "start": 0.0, "end": 1.0})
    )
    site = Site(AppOptions(str(tmp_path / "features"), str(folder), cache=str(tmp_path / "cache")))

    def strip(key: str) -> Path:
        return made_media(
            site, key, "strip", ".jpg", lambda *clip: filmstrip(*clip[:3], 2, 24, clip[3])
        )

    with Image.open(strip(videos[0])) as image:
        assert image.size == (64, 24) and image.getpixel((40, 12))[0] > 240
    for video in videos[1:]:
        with pytest.raises(UnknownError, match="is not a file in the folder of videos"):
            strip(video)
