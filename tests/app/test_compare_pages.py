"""The pages of methods side by side, in a real browser, and the same pages as JSON and as a test set."""

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from store import Store
from tasks.testsets import read_test_set
from tests.app.compare_made import guesses, made, write
from tests.app.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

PUBLISHED = Path(__file__).parents[3] / "shared/data/stepdiff/diffrank_dataset.jsonl"


@pytest.fixture(scope="session")
def predictions(world: Path) -> Path:
    """A folder with predictions of three methods on 60 rows of each task, and a broken file."""
    folder = world / "predictions"
    folder.mkdir()
    clips = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = made(task, 60, clips=clips)
        write(folder, f"{task}_good", task, rows, guesses(task, rows, 1, 2.0), method="video-lm", head="runs/good")
        write(folder, f"{task}_poor", task, rows, guesses(task, rows, 2, 0.2))
        write(folder, f"{task}_blind", task, rows[:30], guesses(task, rows[:30], 3), control="blind")
    (folder / "bad.scores.json").write_text("{}")
    (folder / "bad.jsonl").write_text("<script>alert(1)</script>\n")
    return folder


@pytest.fixture
def url(serve: Callable[..., Server], predictions: Path) -> str:
    return serve("--predictions", str(predictions)).url


def fetched(address: str) -> Any:
    request = urllib.request.Request(address, headers={"Accept": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_the_list_has_the_test_sets_their_methods_and_what_is_broken(url: str, tab: "Page") -> None:
    record = fetched(f"{url}/compare")
    assert [(each["task"], each["rows"], each["common"]) for each in record["sets"]] == [
        ("diffcap", 60, 30),
        ("diffmcq", 60, 30),
        ("diffrank", 60, 30),
    ]
    tab.goto(f"{url}/compare")
    tab.get_by_role("heading", name="DiffMCQ").wait_for()
    assert tab.get_by_text("bad.jsonl").is_visible()
    tab.get_by_role("link", name="Compare row by row").nth(1).click()
    tab.wait_for_url("**/compare/diffmcq?*")
    assert tab.locator("[data-row]").count() == 50


def test_one_click_shows_where_one_method_is_right_and_the_other_wrong(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffmcq")
    link = tab.get_by_role("link", name="rows where A is better than C")
    count = int(link.inner_text())
    link.click()
    tab.wait_for_url("**where=better*")
    assert count > 0 and tab.locator("[data-row]").count() == min(count, 50)
    for row in tab.locator("[data-row]").all():
        cells = row.locator("td.number:not(.quiet)")
        assert cells.nth(0).get_by_role("img", name="right").count() == 1
        assert cells.nth(2).get_by_role("img", name="wrong").count() == 1
    record = fetched(tab.url)
    a = next(method for method in record["methods"] if method["letter"] == "A")
    assert record["selected"] == count and a["totals"]["figures"][0]["value"] == 1.0


def test_the_selection_is_saved_as_a_test_set(url: str, tab: "Page", tmp_path: Path) -> None:
    for task in ("diffcap", "diffmcq", "diffrank"):
        tab.goto(f"{url}/compare/{task}?category=Visuals")
        record = fetched(tab.url)
        with tab.expect_download() as download:
            tab.get_by_role("link", name="as a test set").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        rows = read_test_set(task, path)
        assert len(rows) == record["selected"] > 0
        assert {row.category for row in rows} == {"Visuals"}


@pytest.mark.parametrize("task", ["diffcap", "diffmcq", "diffrank"])
def test_keys_move_between_rows_and_a_row_opens_with_its_clips(url: str, tab: "Page", task: str) -> None:
    tab.goto(f"{url}/compare/{task}")
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    drawer = tab.locator("#drawer")
    drawer.wait_for()
    second = tab.locator("[data-row]").nth(1)
    assert drawer.get_by_text("Row 2 ·").is_visible()
    frame = drawer.locator("iframe").content_frame
    frame.locator("[data-player]").first.wait_for()
    assert f"row={second.get_attribute('data-row')}" in tab.url
    address = tab.url
    tab.keyboard.press("j")
    assert drawer.get_by_text("Row 3 ·").is_visible()
    tab.keyboard.press("Escape")
    assert drawer.is_hidden() and "row=" not in tab.url
    tab.goto(address)
    assert drawer.get_by_text("Row 2 ·").is_visible()
    strips = drawer.locator("img.strip").all()
    assert len(strips) >= 2
    for strip in strips[:2]:
        strip.evaluate("(image) => image.decode()")


def test_filters_apply_at_once_and_are_in_the_address(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffrank")
    tab.get_by_label("Category").select_option("Actions")
    tab.wait_for_url("**category=Actions*")
    tab.get_by_label("Order").select_option("margin")
    tab.wait_for_url("**sort=margin*")
    assert "category=Actions" in tab.url and "show=" not in tab.url
    tab.get_by_label("Show poor").or_(tab.get_by_label("Show diffrank_poor")).uncheck()
    tab.wait_for_url("**show=*")
    assert tab.locator("[data-row]").first.locator("td.number:not(.quiet)").count() == 2
    tab.goto(f"{url}/compare/diffrank?text=zebra&category=Actions")
    assert tab.get_by_text("“text zebra” leaves 0").is_visible()
    tab.get_by_role("link", name="remove it").nth(1).click()
    tab.wait_for_url("**category=Actions*")
    assert "zebra" not in tab.url


def test_truth_and_choice_are_marked_by_more_than_colour(url: str, tab: "Page") -> None:
    tab.goto(f"{url}/compare/diffmcq?strips=1")
    detail = tab.locator("[data-detail]").first
    assert detail.get_by_text("✓ answer").count() == 1
    assert detail.get_by_role("img", name="choice of A").count() == 1
    tab.goto(f"{url}/compare/diffcap?strips=1")
    assert tab.locator("[data-detail] u").count() > 0
    assert tab.get_by_text("words of content that a reference has too").first.is_visible()


def test_new_predictions_are_shown_without_a_restart(url: str, predictions: Path) -> None:
    rows = read_test_set("diffmcq", predictions / "diffmcq_good.rows.jsonl")
    path = write(predictions, "diffmcq_new", "diffmcq", rows, guesses("diffmcq", rows, 9))
    names = [method["method"]["id"] for method in fetched(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" in names
    for suffix in (".jsonl", ".rows.jsonl", ".scores.json"):
        path.with_suffix(suffix).unlink()
    names = [method["method"]["id"] for method in fetched(f"{url}/compare/diffmcq")["methods"]]
    assert "diffmcq_new" not in names


@pytest.mark.parametrize("query", ["set=none", "a=none", "show=none", "metric=none"])
def test_an_unknown_name_is_an_error_of_one_line(url: str, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        fetched(f"{url}/compare/diffmcq?{query}")
    assert error.value.code == 404 and "none" in json.load(error.value)["error"]


def test_text_from_files_is_escaped_and_clips_that_the_store_lacks_have_no_pictures(
    serve: Callable[..., Server], tab: "Page", tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("strange")
    attack = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    rows = [replace(row, category=attack, text=(attack,)) for row in made("diffcap", 6)]
    write(folder, "one", "diffcap", rows, [attack] * 6, method=attack, test_set=f"{attack}.jsonl")
    more = made("diffmcq", 6)
    for number in range(12):
        write(folder, f"m{number}", "diffmcq", more, guesses("diffmcq", more, number), method=f"{attack}{number}")
    url = serve("--predictions", str(folder)).url
    for address in (
        "/compare",
        "/compare/diffcap?strips=1",
        f"/compare/diffcap?text={quote(attack)}",
        "/compare/diffmcq",
    ):
        tab.goto(url + address)
        assert tab.get_by_text("<script>alert(1)</script>").count() > 0
        assert tab.locator("main script, main img").count() == 0
    assert tab.get_by_text("not shown").count() == 2  # ten methods of twelve
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    assert tab.locator("#drawer").get_by_text("no pictures").count() == 8
    assert tab.locator("#drawer iframe").is_hidden()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published DiffRank set is not on this machine")
def test_ten_methods_on_the_published_diffrank_set_are_fast(
    serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("published")
    rows = read_test_set("diffrank", PUBLISHED)
    for number in range(10):
        write(folder, f"m{number}", "diffrank", rows, guesses("diffrank", rows, number, number / 5))
    url = serve("--predictions", str(folder)).url
    taken = {}
    for name, query in {"first": "", "category": "?category=Visuals", "pair": "?where=better&sort=gap"}.items():
        start = time.perf_counter()
        record = fetched(f"{url}/compare/diffrank{query}")
        taken[name] = time.perf_counter() - start
        assert len(record["rows"]) == 50
    assert record["all_rows"] == 4080
    assert taken["first"] < 15 and taken["category"] < 3 and taken["pair"] < 3, taken  # a busy machine: 1.5, 0.2, 0.2
