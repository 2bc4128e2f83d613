"""The server behind the proxies of the guide: their real programs, with the blocks that the guide
shows."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from stepdiff.app.annotating.service import ADDRESS_BURST
from stepdiff.app.server import listener
from tests.app.annotation_tasks import names, write_task
from tests.app.conftest import ROOT, Server

pytestmark = pytest.mark.full
NAME = "annotate.example.org"
NGINX = (
    "daemon off; master_process off; pid {0}/pid; error_log {0}/errors; events {{}} http {{ "
    "access_log off;\n"
)
NGINX += (
    "client_body_temp_path {0}/1; proxy_temp_path {0}/2; fastcgi_temp_path {0}/3; uwsgi_temp_path "
    "{0}/4;\n"
)
NGINX += "scgi_temp_path {0}/5;\n"
CADDY = "{\nadmin off\nauto_https off\n}\n"


@dataclass(frozen=True)
class Proxied:
    """A server and a proxy with TLS in front of it."""

    port: int
    """of the server"""
    address: str
    """of the proxy"""
    tls: ssl.SSLContext
    log: Path
    """of the server"""

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[HTTPResponse, str]:
        """Return the answer of the server to a request that goes through the proxy."""
        connection = HTTPSConnection(NAME, int(self.address.rpartition(":")[2]), context=self.tls)
        return _asked(connection, self.connect(), method, path, body, headers)

    def connect(self) -> ssl.SSLSocket:
        """Return a connection to the proxy."""
        plain = socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2])), 20)
        return self.tls.wrap_socket(plain, server_hostname=NAME)

    def ask_directly(self, path: str, **headers: str) -> HTTPResponse:
        """Return the answer to a request that another machine sends to the server itself."""
        connection = HTTPConnection("127.0.0.1", self.port)
        plain = socket.create_connection(("127.0.0.1", self.port), 20, ("127.0.0.2", 0))
        return _asked(connection, plain, "GET", path, None, headers)[0]


def _asked(
    connection: HTTPConnection,
    plain: socket.socket,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
) -> tuple[HTTPResponse, str]:
    connection.sock = plain
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | {
        "Accept": "application/json"
    }
    connection.request(
        method, path, body and json.dumps(body), sent | {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


@pytest.fixture(params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, world: Path, tmp_path: Path) -> Iterator[Proxied]:
    """A server with --public-url and --trust-proxy, and the guide's proxy."""
    program = shutil.which(request.param, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip(f"no {request.param} or no openssl on this machine")
    certificate = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "
        f"/CN={NAME}"
    )
    certificate += (
        f" -addext subjectAltName=DNS:{NAME} -keyout {tmp_path}/{NAME}.key -out "
        f"{tmp_path}/{NAME}.pem"
    )
    subprocess.run(certificate.split(), check=True, capture_output=True)
    with listener("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    task, address = write_task(tmp_path, names(1)), f"https://{NAME}:{port}"
    options = ("--annotate", str(task), "--public-url", address, "--trust-proxy", "127.0.0.1")
    server = Server(world, tmp_path / "cache", *options, log=tmp_path / "log")
    guide = (ROOT / "docs/guides/annotation.md").read_text()
    (block,) = re.findall(rf"^```{request.param}\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    block = block.replace("/etc/ssl/", f"{tmp_path}/").replace(
        "127.0.0.1:8000", server.url.removeprefix("http://")
    )
    if request.param == "nginx":
        text = (
            NGINX.format(tmp_path) + block.replace("listen 443", f"listen 127.0.0.1:{port}") + "}\n"
        )
        command = [program, "-p", str(tmp_path), "-c", str(tmp_path / "proxy")]
    else:
        text = CADDY + block.replace(f"{NAME} {{", f"{address} {{\nbind 127.0.0.1", 1)
        command = [program, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "proxy")]
    (tmp_path / "proxy").write_text(text)
    with (tmp_path / "out").open("w") as out:
        proxy = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "HOME": str(tmp_path)}
        )
    tls = ssl.create_default_context(cafile=str(tmp_path / f"{NAME}.pem"))
    made = Proxied(int(server.url.rpartition(":")[2]), address, tls, tmp_path / "log")
    for _ in range(200):
        with contextlib.suppress(OSError), made.connect():
            break
        time.sleep(0.1)
        assert proxy.poll() is None, (tmp_path / "out").read_text()
    yield made
    proxy.terminate()
    proxy.wait(20)
    server.kill()


def test_links_cookies_origins_and_addresses_obey_options(proxied: Proxied) -> None:
    log = proxied.log.read_text()
    (link,) = re.findall(
        rf"^admin link, shown once: {proxied.address}(/annotate/as/\S+)$", log, re.MULTILINE
    )
    entered, _ = proxied.ask("GET", link)
    cookie, *flags = entered.headers["set-cookie"].split("; ")
    assert entered.status == 200 and {
        "Secure",
        "HttpOnly",
        "SameSite=strict",
        "Path=/annotate",
    } <= set(flags)

    for origin in (f"http://{NAME}", "https://evil.example", "http://["):
        refused, _ = proxied.ask(
            "POST", "/annotate/admin/people", {"name": "Eve"}, Cookie=cookie, Origin=origin
        )
        assert refused.status == 403
    sent = {"Cookie": cookie, "Origin": proxied.address}
    added, text = proxied.ask("POST", "/annotate/admin/people", {"name": "Ann"}, **sent)
    assert added.status == 200 and json.loads(text)["address"].startswith(
        f"{proxied.address}/annotate/as/"
    )
    assert proxied.ask_directly("/annotate").status == 400, "another host name"

    with contextlib.ExitStack() as opened:
        for _ in range(150):
            connection = opened.enter_context(proxied.connect())
            connection.sendall(
                f"POST /annotate/enter HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: "
                f"9\r\n\r\n{{".encode()
            )
        assert proxied.ask("GET", "/annotate", Cookie=cookie)[0].status == 401
    assert "closed one" not in proxied.log.read_text(), (
        "connections of a proxy are those of many people"
    )

    host = proxied.address.removeprefix("https://")

    def direct(number: int) -> int:
        """Send a request from an address that is no proxy, with one that it invents."""
        return proxied.ask_directly(
            f"/annotate/as/{number}", X_Forwarded_For=f"10.0.0.{number}", Host=host
        ).status

    def through(number: int) -> int:
        return proxied.ask("GET", f"/annotate/as/{number}", X_Forwarded_For=f"10.0.0.{number}")[
            0
        ].status

    for send in (direct, through):
        assert any(send(number) == 429 for number in range(10 * int(ADDRESS_BURST)))
