"""People annotate in a real browser: by keys alone, with feedback, and while the server is killed."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from annotate.people.answers import read_answers
from annotate.people.form import Answer
from annotate.people.task import read_task
from app.annotating.collection.database import Database, default_url
from store import Store
from tests.app.annotate_made import CATEGORIES, replayed, write_task
from tests.app.conftest import CHROMIUM, ROOT, Server

if TYPE_CHECKING:
    from playwright.async_api import Browser as AsyncBrowser
    from playwright.async_api import Page as AsyncPage
    from playwright.sync_api import Browser, Page

Typed = tuple[str, int, str, int]  # name, assignment, text, score
WORK = "JSON.parse(document.querySelector('#work').textContent)"
THROUGH = ["Tab"] * 9  # from the keystep to the text of the last category
FOCUS = "() => document.activeElement.id || document.activeElement.name + ' ' + document.activeElement.value"


@pytest.fixture(scope="module")
def clips(world: Path) -> list[str]:
    """Clips of the world, those of one step next to each other."""
    return Store.open(world / "features").catalog("clips").frame().sort("step", "key")["key"].to_list()


@pytest.fixture
def pairs(clips: list[str]) -> list[tuple[str, str]]:
    return [(clips[place], clips[place + 1]) for place in range(0, 24, 2)]


def link(task: Path, url: str, *arguments: str) -> list[str]:
    """Return the links that `python -m app.people` prints."""
    command = [sys.executable, "-m", "app.people", *arguments[:1], "--annotate", str(task), "--url", url, "--json"]
    done = subprocess.run([*command, *arguments[1:]], cwd=ROOT, check=True, capture_output=True, text=True)
    return [person["link"] for person in json.loads(done.stdout)["people"]]


def exported(browser: "Browser", task: Path, url: str, out: Path, form: str = "answers") -> list[Answer]:
    """Return the answers that the admin page exports."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(link(task, url, "admin")[0])
        page.wait_for_url("**/annotate/admin")
        out.write_bytes(context.request.get(f"{url}/annotate/admin/export/{form}").body())
    return list(read_answers(out)) if form == "answers" else []


def begin(tab: "Page", url: str, name: str) -> None:
    """Enter a name with the keyboard."""
    tab.goto(f"{url}/annotate")
    tab.locator("#enter button:not([disabled])").wait_for()
    tab.keyboard.type(name)
    tab.keyboard.press("Enter")
    tab.locator("#form").wait_for()


def number(tab: "Page") -> int:
    """Return the number of the assignment, once its form has the focus."""
    tab.wait_for_function("() => document.activeElement.id === 'form'")
    return tab.evaluate(f"() => {WORK}.assignment")


def wait_for_another(tab: "Page", before: int) -> None:
    tab.wait_for_function(
        f"before => document.querySelector('#work') && {WORK}.assignment !== before"
        " && document.activeElement.id === 'form'",
        arg=before,
    )


def type_keys(tab: "Page", *keys: str) -> None:
    """Press keys; a text of several words is typed."""
    for key in keys:
        tab.keyboard.type(key) if " " in key else tab.keyboard.press(key)


def test_a_pair_is_annotated_with_the_keyboard_alone(
    serve: Callable[..., Server], tab: "Page", browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:3], people=1)
    url = serve("--annotate", str(task)).url
    begin(tab, url, "Åsa <b>Öz</b>")
    tab.wait_for_function("() => document.querySelector('[data-player]').player?.playing")
    first = number(tab)
    type_keys(tab, "Tab", "whisk  eggs in a bowl", "Tab")
    assert tab.locator("#note-0").inner_text() == "5/10 words"
    type_keys(tab, "quail eggs <script>alert(1)</script>", "Tab", "3")
    assert tab.evaluate(FOCUS) == "score-Ingredients 3"
    assert tab.locator("[data-rubric]:visible [data-chosen] th").inner_text() == "3"
    type_keys(tab, "Tab")
    assert tab.evaluate(FOCUS) == "text-2"
    assert tab.locator("[data-rubric]:visible h2").inner_text() == "TOOLS / EQUIPMENT"
    type_keys(tab, "Tab", "2", "Control+Enter")  # a score and no text
    assert "Describe the difference, or choose 5" in tab.locator("#note-2").inner_text()
    assert tab.evaluate(FOCUS) == "text-2"
    type_keys(tab, "a steel fork", "Control+Enter")
    assert tab.evaluate(FOCUS) == "text-3"
    assert [tab.locator(f"#note-{row}").inner_text() for row in (3, 4, 5)] == [
        "✗ Describe a difference, or choose 5"
    ] * 3
    type_keys(tab, "Tab", "5", "Tab", "Tab")  # one 5 is chosen, another one set by a text that was left empty
    assert tab.evaluate(FOCUS) == "score-Actions 5" and tab.locator("[name=score-Actions][value='5']").is_checked()
    type_keys(tab, "Tab", "Control+Enter")
    wait_for_another(tab, first)

    second = number(tab)
    type_keys(tab, "r", "2")  # unclear
    wait_for_another(tab, second)
    third = number(tab)
    type_keys(tab, "u")
    wait_for_another(tab, third)
    assert number(tab) == second
    type_keys(tab, "Tab", "pour the batter", "Escape", "r", "3")  # too short
    wait_for_another(tab, second)
    assert number(tab) == third
    type_keys(tab, "Tab", "mix one two three four five six seven eight nine ten", "Control+Enter")
    assert "11 words: write at most 10" in tab.locator("#note-0").inner_text()
    type_keys(tab, "Control+a", "mix it", *THROUGH, "Control+Enter")
    tab.get_by_text("No pair is left for you").wait_for()
    assert tab.evaluate("document.querySelectorAll('script:not([src])').length") == 0

    one, two, three = exported(browser, task, url, tmp_path / "answers.jsonl")
    assert (one.annotator, one.keystep, one.kind) == ("Åsa <b>Öz</b>", "whisk eggs in a bowl", "work")
    ingredients, tools = one.differences["Ingredients"], one.differences["Tools/Equipment"]
    assert (ingredients.text, ingredients.score) == ("quail eggs <script>alert(1)</script>", 3)
    assert (tools.text, tools.score) == ("a steel fork", 2)
    assert {own.score for name, own in one.differences.items() if name not in ("Ingredients", "Tools/Equipment")} == {5}
    assert (two.rejected, two.differences) == ("too short", {}) and three.keystep == "mix it"
    assert [(answer.reference, answer.candidate) for answer in (one, two, three)] == pairs[:3]


def test_training_shows_the_known_scores(
    serve: Callable[..., Server], tab: "Page", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:2], training=pairs[2:3])
    begin(tab, serve("--annotate", str(task)).url, "Ann")
    first = number(tab)
    assert tab.get_by_text("Training.").is_visible()
    assert "Ann: 0 of 2 done" in tab.locator(".annotate-progress").inner_text()
    with tab.expect_popup() as opened:
        tab.locator("a", has_text="guidelines").click()
    guidelines = opened.value
    assert "Substitution of tool used for the same purpose" in guidelines.locator("main").inner_text()
    assert "Watch the two videos carefully" in guidelines.locator("main").inner_text()
    guidelines.close()
    tab.locator("#form").focus()
    type_keys(tab, "Tab", "whisk the eggs", *THROUGH, "Control+Enter")
    tab.locator("#feedback[open]").wait_for()
    lines = [line.inner_text().split("\t") for line in tab.locator("#feedback tbody tr").all()]
    assert lines == [["Ingredients", "5", "3", "✗ too far"], ["Action /steps", "5", "5", "✓ close enough"]]
    type_keys(tab, "Enter")
    wait_for_another(tab, first)
    assert tab.get_by_text("Training.").count() == 0


def test_the_page_has_no_clip_names_and_its_media_are_those_of_the_person(
    serve: Callable[..., Server], tab: "Page", browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:1])
    url = serve("--annotate", str(task)).url
    begin(tab, url, "Ann")
    page = tab.content()
    assert not [clip for clip in pairs[0] if clip in page]
    address = tab.locator("video").first.get_attribute("src")
    assert tab.context.request.get(url + str(address)).status == 200
    with browser.new_context() as other:
        assert other.request.get(url + str(address)).status == 401
        made = other.request.post(f"{url}/annotate/enter", data={"name": "Bob"})
        assert made.ok and other.request.get(url + str(address)).status == 404


def test_a_link_opens_the_pages_also_from_a_foreign_page(
    serve: Callable[..., Server], tab: "Page", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:1])
    url = serve("--annotate", str(task)).url
    (personal,) = link(task, url, "add", "Kim")
    mail = f"<a href='{personal}'>annotate</a>"
    tab.route("http://mail.example/", lambda route: route.fulfill(body=mail, content_type="text/html"))
    tab.goto("http://mail.example/")
    tab.get_by_text("annotate").click()
    tab.locator("#form").wait_for()
    (cookie,) = tab.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and not cookie["secure"]
    assert tab.url == f"{url}/annotate"


def test_what_was_typed_survives_a_server_that_is_killed(
    world: Path, browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:1])
    server = Server(world, tmp_path / "cache", "--annotate", str(task))
    port = int(server.url.rsplit(":", 1)[1])
    with browser.new_context() as context:
        tab = context.new_page()
        begin(tab, server.url, "Ann")
        number(tab)
        type_keys(tab, "Tab", "whisk the eggs")
        tab.get_by_text("✓ saved").wait_for()
        server.kill()
        type_keys(tab, "Tab", "typed without a server", "Tab", "4")
        tab.get_by_text("✗ not saved: the server does not answer. Kept in this browser, trying again").wait_for()
        server.start(port)
        tab.get_by_text("✓ saved").wait_for()
        server.kill()
        type_keys(tab, "Tab", "and once more", "Tab", "3")
        tab.get_by_text("✗ not saved").wait_for()
        tab.close()  # the tab is closed without a server
        server.start(port)
        tab = context.new_page()
        tab.goto(f"{server.url}/annotate")
        tab.get_by_text("✓ saved").wait_for()
        assert tab.locator("#text-1").input_value() == "typed without a server"
        assert tab.locator("#text-2").input_value() == "and once more"
        form = context.request.get(f"{server.url}/annotate", headers={"Accept": "application/json"}).json()["form"]
    server.kill()
    assert form["texts"] == {"Ingredients": "typed without a server", "Tools/Equipment": "and once more"}
    assert form["scores"] == {"Ingredients": 4, "Tools/Equipment": 3} and form["keystep"] == "whisk the eggs"


async def label(browser: "AsyncBrowser", personal: str, name: str, done: list[Typed]) -> None:
    """Label all pairs of a person; go on whatever happens to the server."""
    from playwright.async_api import Error

    url = personal.rsplit("/annotate/", 1)[0] + "/annotate"
    context = await browser.new_context()
    page = await context.new_page()
    address = personal
    while True:
        try:
            if address:
                await page.goto(address)
                address = ""
            await page.locator("#form, section.narrow").first.wait_for(timeout=20_000)
            if await page.get_by_text("No pair is left for you").count():
                await context.close()
                return
            await one_pair(page, name, done)
        except Error:  # the server was killed while a page was loaded: people load it again
            address = url
            await asyncio.sleep(0.5)


async def one_pair(page: "AsyncPage", name: str, done: list[Typed]) -> None:
    await page.wait_for_function("() => document.activeElement.id === 'form'", timeout=20_000)
    assignment = await page.evaluate(f"() => {WORK}.assignment")
    text, score = f"{name} saw {assignment} & more", 1 + assignment % 4
    await page.locator("#keystep").fill("")
    await page.locator("#keystep").press_sequentially("whisk the eggs", delay=20)
    await page.locator("#text-3").fill("")
    await page.locator("#text-3").press_sequentially(text, delay=20)
    await page.keyboard.press("Tab")
    await page.keyboard.press(str(score))
    for other in (1, 2, 4, 5):
        await page.locator(f"#text-{other}").focus()
    await page.locator("#keystep").focus()
    await page.keyboard.press("Control+Enter")
    await page.wait_for_function(
        "before => document.readyState === 'complete' && (!document.querySelector('#work')"
        f" || {WORK}.assignment !== before)",
        arg=assignment,
        timeout=60_000,
    )
    done.append((name, assignment, text, score))


async def together(server: Server, links: dict[str, str], done: list[Typed], kills: list[int]) -> None:
    """Three people label at once, and the server is killed after some submissions and started again."""
    from playwright.async_api import async_playwright

    port = int(server.url.rsplit(":", 1)[1])
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        people = [asyncio.create_task(label(browser, personal, name, done)) for name, personal in links.items()]
        for count in kills:
            while len(done) < count:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start, port)
        await asyncio.wait_for(asyncio.gather(*people), 240)
        await browser.close()


@pytest.mark.slow
def test_three_people_label_ten_pairs_while_the_server_is_killed_twice(
    world: Path, browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:10], people=3)
    server = Server(world, tmp_path / "cache", "--annotate", str(task))
    names = ["Ann", "Bob", "Cid"]
    links = dict(zip(names, link(task, server.url, "add", *names), strict=True))
    done: list[Typed] = []
    with ThreadPoolExecutor(1) as pool:  # the other browser's event loop runs in this thread
        pool.submit(asyncio.run, together(server, links, done, [5, 16])).result()
    found = exported(browser, task, server.url, tmp_path / "answers.jsonl")
    server.kill()
    assert len(found) == 30 and len({(answer.annotator, answer.pair) for answer in found}) == 30
    assert {answer.pair for answer in found} == {" ".join(pair) for pair in pairs[:10]}
    typed = {text: (name, score) for name, _, text, score in done}
    techniques = [(answer.annotator, answer.differences["Technique"]) for answer in found]
    given = {own.text: (name, own.score) for name, own in techniques}
    assert given == typed and len(typed) == 30
    database, copy = Database.open(default_url(task)), Database.open(f"sqlite:///{tmp_path}/copy.db")
    before, after = replayed(database, read_task(task), copy)
    assert before == after


@pytest.mark.parametrize("size", [(1280, 720), (1440, 900), (390, 844)])
def test_the_form_does_not_move_under_the_pointer(
    serve: Callable[..., Server],
    browser: "Browser",
    pairs: list[tuple[str, str]],
    tmp_path: Path,
    size: tuple[int, int],
) -> None:
    """A click on a score counts, although the focus changes the rubric between mouse-down and mouse-up."""
    task = write_task(tmp_path, pairs[:1])
    url = serve("--annotate", str(task)).url
    with browser.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        tab = context.new_page()
        begin(tab, url, "Ann")
        number(tab)
        places = "() => [...document.querySelectorAll('.annotate-row')].map((row) => row.offsetTop)"
        before = tab.evaluate(places)
        for row, category in enumerate(CATEGORIES, 1):
            tab.locator("#keystep").focus()
            score = tab.locator(f"[name='score-{category}'][value='3']")
            score.scroll_into_view_if_needed()
            box = score.bounding_box()
            assert box is not None
            tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 2)
            tab.mouse.down()
            tab.wait_for_timeout(120)
            assert tab.locator(f"[data-rubric='{category}']").is_visible()
            tab.mouse.up()
            assert score.is_checked() and tab.evaluate(places) == before
            assert tab.locator(f"#note-{row}").inner_text() == "✗ Describe the difference, or choose 5"


def test_a_score_that_nobody_chose_is_not_submitted(
    serve: Callable[..., Server], tab: "Page", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:1])
    begin(tab, serve("--annotate", str(task)).url, "Ann")
    number(tab)
    tab.locator("#keystep").fill("whisk the eggs")
    tab.locator("#text-1").click()
    tab.locator("[data-do=toggle]").click()  # plays the clips: the text was not left for another field
    assert tab.locator("fieldset :checked").count() == 0
    tab.locator("#submit").click()
    tab.get_by_text("✗ not submitted: see the marked lines").wait_for()
    assert tab.get_by_text("✗ Describe a difference, or choose 5").count() == 5
    toast, reject = tab.locator("#status").bounding_box(), tab.locator("#reject").bounding_box()
    assert toast is not None and reject is not None and toast["x"] + toast["width"] <= reject["x"], (
        "the toast covers Reject"
    )
    tab.locator("#text-1").click()
    tab.locator("#text-2").click()
    assert tab.locator("[name=score-Ingredients]:checked").input_value() == "5"
    tab.locator("#text-1").press_sequentially("less salt")  # the 5 of the empty text does not stay with a text
    assert tab.locator("[name=score-Ingredients]:checked").count() == 0
    tab.get_by_text("✓ saved").wait_for()
    tab.reload()
    number(tab)
    assert (
        tab.locator("[name=score-Ingredients]:checked").count() == 0
        and tab.locator("#text-1").input_value() == "less salt"
    )
    tab.locator("#text-1").fill("")
    assert tab.locator("[name=score-Ingredients]:checked").input_value() == "5"
    for category in CATEGORIES[1:]:
        tab.locator(f"[name='score-{category}'][value='5']").click()
    tab.locator("#submit").click()
    tab.get_by_text("No pair is left for you").wait_for()
