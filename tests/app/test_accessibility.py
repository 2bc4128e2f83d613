"""No page has a serious or critical finding of axe-core, light and dark, nor on a phone, where no word is broken.

The pages are those of the server, and the files that commands write: the audit page and the contact sheet.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from annotate import audit
from retrieval.verbs import query
from store import Store
from tests.app.annotate_made import write_task
from tests.app.compare_made import guesses, made, write
from tests.app.conftest import Server
from tests.app.pair_made import write_words

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
    "open row": "/compare/diffmcq",
    "no row": "/compare/diffmcq?text=nothing",
    "unknown clip": "/pair?reference=none&candidate=none",
    "annotate": "/annotate",
    "audit": "",
    "sheet": "",
}
FILES = ("audit", "sheet")


BROKEN = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!element.checkVisibility() || element.closest("code, script, option, .visually-hidden, .unseen")) continue;
    for (const {0: word, index} of node.data.matchAll(/\\p{L}{2,20}/gu)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) found.push(word);
    }
  }
  return found;
}"""
"""the words of up to 20 letters that the page shows on more than one line"""


@pytest.fixture(scope="module")
def site(serve: Callable[..., Server], world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of each page."""
    folder = tmp_path_factory.mktemp("answers")
    store, videos = world / "features", world / "kitchen"
    clips = Store.open(store).catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = made(task, 6, clips=clips)
        for seed, name in enumerate(("one", "two")):
            write(folder, f"{task}_{name}", task, rows, guesses(task, rows, seed), control="none")
    task = write_task(folder / "task", [(clips[0], clips[1])])
    write_words(world, folder / "runs" / "words")
    url = serve("--predictions", str(folder), "--annotate", str(task), "--runs", str(folder / "runs")).url
    assert audit.main(
        [str(videos / "pairqa_train.jsonl"), "--out", str(folder / "audit.html"), "--samples", "6"]
        + ["--store", str(store), "--videos", str(videos)]
    ) in (0, 1)
    sheet = ["--view", "efficientnet-lite0", "--clip", clips[0], "-k", "9", "--html", str(folder / "sheet.html")]
    assert query.main(["--store", str(store), "--videos", str(videos), *sheet]) == 0
    return {name: url + address.format(*clips) for name, address in PAGES.items() if name not in FILES} | {
        name: f"file://{folder / name}.html" for name in FILES
    }


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_finding_or_a_broken_word(
    site: dict[str, str], browser: "Browser", name: str, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(site[name])
        if name == "open row":
            page.locator("[data-row]").first.click()
            page.locator("#drawer").wait_for()
        if name == "pair":
            page.locator("#words button").first.wait_for()
            for button in page.locator("#words li:first-child button").all():
                button.click()
            assert page.locator("#words .moments").count() == 2
        if name == "annotate":
            page.get_by_role("textbox").first.fill("Ann")
            page.keyboard.press("Enter")
            page.locator(".annotate").wait_for()
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
        assert page.evaluate(BROKEN) == []
