"""The explorer in a real browser: map, lists, filter, lasso, neighbours, and the state in the
address."""

import json
import re
import shlex
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI

from retrieval.queries.search import compute, of_clips, resolve
from stepdiff.app.explore import routes
from stepdiff.app.explore.clips import inside, read_lasso
from stepdiff.comparison.clips import clock
from store import Feature, Provenance, Store
from tests.app.conftest import Server, read_json

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.full
VIEW = "efficientnet-lite0"
READY = "() => window.explorer?.about && document.querySelector('#table tbody tr')"
LISTED = (
    "[...document.querySelectorAll('#table tbody tr')].map((line) => "
    "line.querySelector('button').textContent)"
)
TILES = (
    "[...document.querySelectorAll('.explore-tile button')].map((tile) => "
    "tile.title.split('\\n')[0])"
)


@pytest.fixture(scope="module")
def clips(world: Path) -> pl.DataFrame:
    return Store.open(world / "features").catalog("clips").frame()


@pytest.fixture
def opened(serve: Callable[..., Server], tab: "Page") -> "Page":
    """The explorer with its map drawn and its lists filled."""
    tab.goto(f"{serve().url}/")
    tab.wait_for_function(READY)
    return tab


def listed(page: "Page", count: int) -> list[str]:
    """Return the clips of the table, which are those of the grid, once there are so many."""
    page.wait_for_function(f"() => document.querySelectorAll('#table tbody tr').length === {count}")
    assert page.evaluate(LISTED) == page.evaluate(TILES)
    return page.evaluate(LISTED)


def at(page: "Page", place: int) -> tuple[float, float]:
    """Return where a point of the map is on the page."""
    x, y = page.evaluate(f"explorer.map.place({place})")
    box = page.locator("#points").bounding_box()
    assert box is not None
    return box["x"] + x, box["y"] + y


def asked(page: "Page") -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def test_the_start_page_shows_every_clip(opened: "Page", clips: pl.DataFrame) -> None:
    assert urlsplit(opened.url).path == "/explore" and opened.title() == "Explore · StepDiff"
    assert listed(opened, min(clips.height, 60)) == clips["key"].head(60).to_list()
    assert opened.locator("#summary").inner_text() == f"{clips.height} clips"
    counts = opened.locator("#legend button b").all_inner_texts()
    assert sum(map(int, counts)) == clips.height and len(counts) == 3
    drawn = opened.evaluate("new Set(explorer.map.points.pixels).size")
    assert drawn > 3, "a colour for each step, and the ground"
    pictures = opened.locator(".explore-tile img")
    opened.wait_for_function("() => document.querySelector('.explore-tile img').naturalWidth > 0")
    assert pictures.count() == min(clips.height, 60)


def test_hover_shows_the_filmstrip_and_two_clicks_the_pair(
    opened: "Page", clips: pl.DataFrame
) -> None:
    first, second = (
        opened.evaluate(f"explorer.map.pick(...explorer.map.place({n}))") for n in (0, 7)
    )
    opened.mouse.move(*at(opened, first))
    opened.locator("#hover img").wait_for()
    title = (
        f"{Path(clips['video'][first]).name}, {clock(clips['start'][first])} to "
        f"{clock(clips['end'][first])}"
    )
    assert opened.locator("#hover code").inner_text() == title
    opened.wait_for_function("() => document.querySelector('#hover img').naturalWidth > 300")
    opened.mouse.click(*at(opened, first))
    opened.locator(".pin.one code").wait_for()
    assert opened.locator("#compare").get_attribute("href") is None
    opened.mouse.click(*at(opened, second))
    opened.locator(".pin.two code").wait_for()
    opened.wait_for_url("**pin=*pin=*")
    assert asked(opened)["pin"] == [clips["key"][first], clips["key"][second]]
    assert opened.locator(".explore-tile.one").count() == opened.locator("tr.two").count() == 1
    opened.keyboard.press("c")
    opened.wait_for_url("**/pair?**")
    assert asked(opened) == {
        "reference": [clips["key"][first]],
        "candidate": [clips["key"][second]],
    }
    opened.go_back()
    opened.locator(".pin.two code").wait_for()
    assert opened.locator(".pin.one code").inner_text() == title

    def without_step(route: "Route") -> None:
        part = route.fetch().json()
        route.fulfill(json=part | {"clips": [clip | {"step": None} for clip in part["clips"]]})

    opened.route("**/explore/clips?*", without_step)
    opened.reload()
    opened.locator(".explore-tile .explore-words", has_text=title).wait_for()


def test_filter_words_and_the_back_button(opened: "Page", clips: pl.DataFrame) -> None:
    whisk = clips.filter(pl.col("step") == "whisk the eggs")["key"].to_list()
    opened.keyboard.press("/")
    opened.keyboard.type("step = 'whisk the eggs'")
    opened.keyboard.press("Enter")
    assert listed(opened, len(whisk)) == whisk
    assert opened.evaluate(
        "explorer.map.passing.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', "
        "'').length, 0)"
    ) == len(whisk)
    some = [key for key in whisk if "kitchen_0003" in key]
    opened.fill("#words", "KITCHEN_0003")
    opened.press("#words", "Enter")
    assert listed(opened, len(some)) == some
    opened.fill("#where", "step = 'fry' AND duration > 1")
    opened.press("#where", "Enter")
    opened.get_by_text("no clip has step = 'fry'").wait_for()
    assert listed(opened, 0) == []
    opened.go_back()
    assert (
        listed(opened, len(some)) == some
        and opened.input_value("#where") == "step = 'whisk the eggs'"
    )
    opened.go_back()
    assert listed(opened, len(whisk)) == whisk and opened.input_value("#words") == ""
    opened.go_forward()
    listed(opened, len(some))


def test_a_refused_value_marks_its_field(
    serve: Callable[..., Server], browser: "Browser", clips: pl.DataFrame
) -> None:
    fields = ("where", "words", "text")
    passing = "explorer.map.passing.reduce((sum, byte) => sum + byte, 0)"
    with browser.new_context() as context:  # the browser's console reports status 400
        page = context.new_page()
        page.goto(f"{serve().url}/explore?where=step='whisk+the+eggs'")
        page.wait_for_function(READY)
        assert page.evaluate(passing) > 0
        for marked, value, reason in (
            (
                "where",
                "size > 3",
                "names no column of the clips: size; the catalog has key, video, start, end",
            ),
            ("where", "step = ", "is not a condition (it ends too early)"),
            ("where", "step > 3 AND", "; the catalog has key, video, start, end"),
            (
                "words",
                "a " + " ".join(map(str, range(20))),
                "the search has 21 words: give at most 20",
            ),
        ):
            page.fill("#where", "duration > 0")
            page.fill("#words", "")
            page.press("#where", "Enter")
            page.wait_for_function(
                f"() => document.querySelector('#why').textContent === '' && {LISTED}.length > 0"
            )
            assert [page.locator(f"#{name}").get_attribute("aria-invalid") for name in fields] == [
                "false"
            ] * 3
            page.fill(f"#{marked}", value)
            page.press(f"#{marked}", "Enter")
            page.locator("#why.error", has_text=reason).wait_for()
            invalid = [
                name
                for name in fields
                if page.locator(f"#{name}").get_attribute("aria-invalid") == "true"
            ]
            assert invalid == [marked] and listed(page, 0) == []
            assert page.evaluate(passing) == 0 and page.inner_text("#summary") == "no clips"
        page.goto(f"{serve().url}/explore?view=none")
        page.get_by_text(f"no view 'none' of clips: the views are {VIEW}").wait_for()
        assert not page.locator("#map").count() and page.url.endswith("view=none")


def test_a_legend_entry_filters(opened: "Page", clips: pl.DataFrame) -> None:
    entry = opened.locator("#legend button").first
    label = entry.locator("span").inner_text()
    entry.click()
    assert (
        listed(opened, int(entry.locator("b").inner_text()))
        == clips.filter(pl.col("step") == label)["key"].to_list()
    )
    assert asked(opened)["where"] == [f"step = '{label}'"]


def test_lasso_neighbours_and_state_in_the_address(
    opened: "Page",
    serve: Callable[..., Server],
    browser: "Browser",
    world: Path,
    clips: pl.DataFrame,
) -> None:
    place = at(opened, 4)
    opened.keyboard.down("Shift")
    opened.mouse.move(place[0] - 90, place[1] - 60)
    opened.mouse.down()
    for right, down in ((90, -60), (90, 60), (-90, 60), (-90, -50)):
        opened.mouse.move(place[0] + right, place[1] + down, steps=4)
    opened.mouse.up()
    opened.keyboard.up("Shift")
    opened.wait_for_url("**lasso=**")
    x, y = (np.array(opened.evaluate(f"[...explorer.map.{axis}]"), np.float32) for axis in "xy")
    chosen = inside(np.stack([x, y], axis=1), read_lasso(asked(opened)["lasso"][0]))
    assert 1 <= chosen.sum() < clips.height and chosen[4]
    assert listed(opened, int(chosen.sum())) == clips["key"].filter(pl.Series(chosen)).to_list()

    opened.keyboard.press("x")
    listed(opened, min(60, clips.height))
    opened.locator(".explore-tile button").nth(4).click()
    opened.locator(".pin.one code").wait_for()
    opened.keyboard.press("n")
    store = Store.open(world / "features")
    key = clips["key"][4]
    expected = compute(
        resolve(store, store.view("clips", VIEW), lambda *given: of_clips(*given, [key])), 50
    )
    opened.locator("#summary", has_text=f"nearest to {clips['step'][4]}, kitchen_").wait_for()
    assert listed(opened, expected.height) == expected["clip"].to_list()
    opened.get_by_role("button", name="similarity").click()
    opened.wait_for_function(f"() => {LISTED}[0] === '{expected['clip'][-1]}'")

    opened.select_option("#colour", "duration")
    opened.locator(".explore-ramp").wait_for()
    opened.locator("#points").focus()
    for pressed in ("+", "+", "ArrowRight", "ArrowUp"):
        opened.keyboard.press(pressed)
    opened.wait_for_url("**at=**")
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        other = context.new_page()
        other.goto(opened.url)
        other.wait_for_function(READY)
        other.locator(".pin.one code").wait_for()
        assert other.evaluate("explorer.state") == opened.evaluate("explorer.state")
        assert other.evaluate(LISTED) == opened.evaluate(LISTED)
        seen = (
            page.evaluate("[...explorer.map.points.pixels].filter((_, n) => n % 7 === 0)")
            for page in (other, opened)
        )
        assert next(seen) == next(seen)


def test_only_with_keys(opened: "Page", clips: pl.DataFrame) -> None:
    view = opened.evaluate("explorer.map.view")
    for pressed in ("-", "ArrowLeft", "ArrowDown"):
        opened.keyboard.press(pressed)
    moved = opened.evaluate("explorer.map.view")
    assert moved["zoom"] < view["zoom"] and moved["cx"] < view["cx"] and moved["cy"] < view["cy"]
    opened.keyboard.press("0")
    assert opened.evaluate("explorer.map.view") == view
    for n, slot in ((0, "one"), (1, "two")):
        opened.locator(".explore-tile button").nth(n).focus()
        opened.keyboard.press("Enter")
        opened.locator(f".pin.{slot} code").wait_for()
    opened.keyboard.press("n")
    opened.locator("#summary", has_text=re.compile("nearest to .+ and ")).wait_for()
    opened.keyboard.press("u")
    opened.wait_for_url(lambda address: "pin=" not in address)
    opened.keyboard.press("x")
    listed(opened, min(60, clips.height))


def test_the_page_and_its_data_are_documented(
    serve: Callable[..., Server], world: Path, clips: pl.DataFrame
) -> None:
    server = serve()
    page = read_json(server.url + "/explore")
    assert page["views"][0] | {"arrays": ""} == {
        "name": VIEW, "encoder": VIEW, "arrays": "", "embedded": True, "texts": False,
    }  # fmt: skip
    assert page["words"] == ""
    manifest, store = (
        page["command"].removeprefix("python -m featurize --manifest ").split(" --store ")
    )
    assert manifest == "YOUR_MANIFEST.csv" and shlex.split(store) == [str(world / "features")]
    assert [one["name"] for one in page["projections"]] == ["pca", "umap"] and page["pictures"]
    with urlopen(f"{server.url}/explore/points?view={VIEW}&colour=step") as answer:
        data = answer.read()
    (size,) = struct.unpack_from("<I", data)
    about = json.loads(data[4 : 4 + size])
    rows = np.frombuffer(data, "<i4", clips.height, 4 + size + 12 * clips.height)
    assert about["count"] == clips.height and rows.tolist() == [*range(clips.height)]
    assert size % 4 == 0 and len(data) == 4 + size + 16 * clips.height
    part = read_json(server.url + f"/explore/clips?view={VIEW}&sort=-start&limit=3&offset=2")
    starts = clips.sort("start", descending=True, maintain_order=True)
    assert (
        part["total"] == clips.height
        and [one["key"] for one in part["clips"]] == starts["key"][2:5].to_list()
    )
    one = read_json(server.url + f"/explore/clip?view={VIEW}&key={clips['key'][3]}")
    assert one["row"] == one["place"] == 3 and one["step"] == clips["step"][3]
    own = FastAPI()
    own.include_router(routes.router)
    paths = own.openapi()["paths"]
    assert all(
        paths[f"/explore/{name}"]["get"]["description"]
        for name in ("points", "chosen", "clips", "clip")
    )


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a million clips of 8 channels in 20 steps."""
    folder, count = tmp_path_factory.mktemp("million"), 10**6
    (folder / "kitchen").mkdir()
    store = Store.open(folder / "features", create=True)
    steps = np.random.default_rng(0).integers(0, 20, count)
    centres = np.random.default_rng(1).normal(size=(20, 8)) * 2
    about = Provenance("tiny", "0" * 64, "last", "8", "centre", {"embedding": "float32"})
    frame = pl.select(
        pl.int_range(count).cast(pl.String).alias("key"), pl.Series("step", steps).cast(pl.String)
    )

    def embedded(rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        noise = np.random.default_rng(int(rows[0])).normal(size=(len(rows), 8))
        return {"embedding": (centres[steps[rows]] + noise).astype(np.float32)}, {}

    with store.lock():
        store.catalog("clips").append(frame)
        with store.writer(
            "clips", "tiny", about, {"embedding": Feature((8,), "float32")}
        ) as writer:
            writer.fill(np.arange(count), embedded)
    server = Server(folder, folder / "cache")
    yield server
    server.kill()


@pytest.mark.full
def test_a_million_points_are_opened_and_drawn(million: Server, tab: "Page") -> None:
    tab.set_default_timeout(120_000)
    tab.goto(f"{million.url}/explore?view=tiny")
    tab.wait_for_function(
        "() => window.explorer?.map.took && document.querySelector('#progress').hidden"
    )
    tab.wait_for_function(READY)
    assert tab.locator("#summary").inner_text() == "1,000,000 clips"
