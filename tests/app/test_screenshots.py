"""Pictures of the pages. `DEMO=FOLDER pytest tests/app/test_screenshots.py` writes those of the docs.

FOLDER is where `make demo` ran, so that its data/ and runs/ are shown. Without DEMO the pages of a small world are
pictured, in a temporary folder, with no trained head.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from PIL import Image

from store import Store
from tests.app.annotate_made import write_task
from tests.app.compare_made import guesses, made, write
from tests.app.conftest import ROOT, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DEMO = os.environ.get("DEMO")
QUESTION = "What did I do differently in video 2?"


@pytest.fixture(scope="module")
def data(world: Path) -> Path:
    """The folder with `kitchen` and `features`."""
    return world if DEMO is None else Path(DEMO).resolve() / "data"


@pytest.fixture(scope="module")
def pair(data: Path) -> tuple[str, str]:
    """Two clips of one step."""
    clips = Store.open(data / "features").catalog("clips").frame(["key", "step"])
    of_step = clips.filter(pl.col("step") == "whisk the eggs")["key"]
    return of_step[2], of_step[5]


@pytest.fixture(scope="module")
def url(data: Path, pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with everything that can be shown."""
    folder = tmp_path_factory.mktemp("shown")
    predictions = data / "demo"
    if DEMO is None:
        predictions = folder
        clips = Store.open(data / "features").catalog("clips").frame(["key"])["key"].to_list()
        for seed, name in enumerate(("one", "two")):
            rows = made("diffmcq", 6, clips=clips)
            write(folder, f"diffmcq_{name}", "diffmcq", rows, guesses("diffmcq", rows, seed), control="none")
    options = ["--predictions", str(predictions), "--annotate", str(write_task(folder / "task", [pair]))]
    options += [] if DEMO is None else ["--runs", str(data.parent / "runs")]
    server = Server(data, folder / "cache", *options)
    yield server.url
    server.kill()


@pytest.fixture
def shoot(browser: "Browser", url: str, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return a function that opens a page, lets `ready` act on it, and writes its picture."""
    folder = tmp_path if DEMO is None else ROOT / "docs" / "pages"
    with browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light") as context:
        page = context.new_page()

        def take(name: str, path: str, ready: Callable[["Page"], object], height: int = 800) -> None:
            page.set_viewport_size({"width": 1280, "height": height})
            page.goto(url + path)
            ready(page)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)
            folder.mkdir(exist_ok=True)
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=82)
            with Image.open(folder / f"{name}.jpg") as picture:
                assert picture.size == (1280, height)
                assert len(np.unique(picture.convert("L").resize((64, 40)))) > 20, "the page is empty"

        yield take


def test_explore(shoot: Callable[..., None], pair: tuple[str, str]) -> None:
    def ready(page: "Page") -> None:
        page.get_by_text("of the variance").wait_for(timeout=60_000)

    shoot("explore", "/explore", ready)


def test_pair(shoot: Callable[..., None], pair: tuple[str, str]) -> None:
    def ready(page: "Page") -> None:
        page.wait_for_function("() => document.querySelector('[data-player]').player.length > 0")
        page.keyboard.press("Space")
        if DEMO is not None:
            page.get_by_role("textbox").first.fill(QUESTION)
            page.keyboard.press("Enter")
            page.wait_for_timeout(40_000)
        page.evaluate("document.querySelector('[data-player]').player.seek(1.2)")

    shoot("pair", f"/pair?reference={pair[0]}&candidate={pair[1]}", ready, 1240)


def test_compare(shoot: Callable[..., None]) -> None:
    shoot("compare", "/compare/diffmcq?strips=1", lambda page: page.locator("[data-row]").first.wait_for())


def test_annotate(shoot: Callable[..., None]) -> None:
    def ready(page: "Page") -> None:
        page.get_by_role("textbox").first.fill("Ann")
        page.keyboard.press("Enter")
        page.get_by_text("very different").first.wait_for()
        page.wait_for_timeout(3000)

    shoot("annotate", "/annotate", ready)
