"""A small real world with features, a server of the pages in its own process, and a real
browser."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.app import postgres

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
PLAYER = "document.querySelector('[data-player]').player"
READY = "document.querySelector('[data-player]')?.player?.ready"
"""whether the player is ready; false, not an error, in a page that is still loading"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow more time where a test may be the first that needs the world and a browser."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


def command(*arguments: str) -> None:
    """Run `python -m ...` in the repository."""
    subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kitchen` (12 rendered videos of three steps) and `features` (images and texts
    of its clips)."""
    folder = tmp_path_factory.mktemp("world")
    kitchen, store = str(folder / "kitchen"), str(folder / "features")
    command("stepdiff.kitchen", "--out", kitchen, "--videos", "12", "--steps", "3")
    command(
        "featurize",
        "--manifest",
        f"{kitchen}/clips.csv",
        "--store",
        store,
        "--encoder",
        "efficientnet-lite0",
    )
    return folder


class Server:
    """A server of the pages in its own process. `videos`: their folder, by default that of the
    world, "" for none."""

    def __init__(
        self,
        world: Path,
        cache: Path,
        *options: str,
        port: int = 0,
        videos: str | None = None,
        log: Path | None = None,
    ) -> None:
        """Start it; log: file of its standard error, where it may also have 1,024 files open and no
        more."""
        self._log = log
        folder = str(world / "kitchen") if videos is None else videos
        self._command = [
            "stepdiff.app",
            "--store",
            str(world / "features"),
            "--cache",
            str(cache),
            *options,
        ]
        self._command += ["--videos", folder] if folder else []
        self.process: subprocess.Popen[str]
        self.url = ""
        self.start(port)

    def start(self, port: int = 0) -> None:
        """Start the process and wait until it answers."""
        command = [sys.executable, "-m", *self._command, "--port", str(port)]
        if self._log is not None:
            command = ["bash", "-c", 'ulimit -n 1024; exec "$@" 2> "$0"', str(self._log), *command]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), "the server did not start"

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def serve(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Return a function that returns the server of the world with these options, and starts it
    where needed."""
    servers: dict[tuple[str, ...], Server] = {}

    def start(*options: str) -> Server:
        if options not in servers or servers[options].process.poll() is not None:
            servers[options] = Server(world, tmp_path_factory.mktemp("cache"), *options)
        return servers[options]

    yield start
    for server in servers.values():
        server.kill()


@pytest.fixture
def tab(browser: "Browser") -> Iterator["Page"]:
    """A page of 1280 x 720. The test fails where the console shows an error or a script throws."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    problems: list[Any] = []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: problems.append(error))
    yield page
    context.close()
    assert problems == []


def serious_findings(
    page: "Page", impacts: Sequence[str] = ("serious", "critical")
) -> dict[str, list[str]]:
    """Return the serious findings about accessibility on a page, and landmarks of one name, and
    what they are about."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    serious = [
        each for each in found if each["impact"] in impacts or each["id"] == "landmark-unique"
    ]
    return {each["id"]: [node["html"][:200] for node in each["nodes"][:3]] for each in serious}


def read_json(address: str, body: Any = None) -> Any:
    """Return the JSON at an address, or the answer to a body that is posted there."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(address, data, headers), timeout=60) as response:
        return json.load(response)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a running PostgreSQL server."""
    yield from postgres.running()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that returns the URL of a new database of a name."""
    if request.param == "sqlite":
        return lambda name: f"sqlite:///{tmp_path}/{name}.db"
    server = make_url(request.getfixturevalue("postgres_url"))

    def make(name: str) -> str:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return server.set(database=name).render_as_string(hide_password=False)

    return make
