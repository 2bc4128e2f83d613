"""No page has a serious or critical finding of axe-core, light and dark, nor on a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from store import Store
from tests.app.compare_made import guesses, made, write
from tests.app.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
SIZES = {"desktop": (1280, 720), "phone": (390, 844)}
PAGES = {
    "explore": "/explore",
    "pair": "/pair?reference={0}&candidate={1}",
    "finder": "/pair",
    "compare": "/compare",
    "diffcap": "/compare/diffcap?strips=1",
    "diffmcq": "/compare/diffmcq?strips=1",
    "diffrank": "/compare/diffrank?strips=1",
    "open row": "/compare/diffmcq?row={row}",
    "no row": "/compare/diffmcq?text=nothing",
    "unknown clip": "/pair?reference=none&candidate=none",
}


@pytest.fixture(scope="module")
def site(serve: Callable[..., Server], world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Address of a server with predictions of three tasks, and clips of its store."""
    folder = tmp_path_factory.mktemp("answers")
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = made(task, 6, clips=clips)
        for seed, name in enumerate(("one", "two")):
            write(folder, f"{task}_{name}", task, rows, guesses(task, rows, seed), control="none")
    return serve("--predictions", str(folder)).url, clips


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_finding(
    site: tuple[str, list[str]], browser: "Browser", name: str, size: str, scheme: str
) -> None:
    url, clips = site
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        address = PAGES[name]
        if "{row}" in address:
            page.goto(f"{url}/compare/diffmcq")
            address = address.format(row=page.locator("[data-row]").first.get_attribute("data-row"))
        page.goto(url + address.format(*clips))
        page.locator("main").wait_for()
        page.wait_for_load_state("load")
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = {
            each["id"]: [f"{each['help']}: {node['html'][:200]}" for node in each["nodes"][:3]]
            for each in found
            if each["impact"] in ("serious", "critical")
        }
        assert serious == {}
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than its window"
