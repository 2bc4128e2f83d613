"""People annotate and one of them decides, in a real browser, also while the server is killed."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stepdiff.annotate.forms.answers import read_answers, read_collected
from stepdiff.annotate.forms.form import Answer, read_task
from stepdiff.app.annotating.database import Database, default_url
from store import Store
from tests.app.annotation_tasks import CATEGORIES, EMPTY, replayed, write_task
from tests.app.conftest import ROOT, Server, serious_findings
from tests.app.test_annotate_hostile import Place, work
from tests.conftest import CHROMIUM

if TYPE_CHECKING:
    from playwright.async_api import Browser as AsyncBrowser
    from playwright.async_api import Page as AsyncPage
    from playwright.sync_api import Browser, Page
    from starlette.testclient import TestClient

pytestmark = pytest.mark.full
Typed = tuple[str, int, str, int]  # name, assignment, text, score
WORK = "JSON.parse(document.querySelector('#work').textContent)"
THROUGH = ["Tab"] * 9  # from the keystep to the text of the last category
FOCUS = (
    "() => document.activeElement.id || document.activeElement.name + ' ' + "
    "document.activeElement.value"
)


@pytest.fixture(scope="module")
def clips(world: Path) -> list[str]:
    """Clips of the world, those of one step next to each other."""
    return (
        Store.open(world / "features").catalog("clips").frame().sort("step", "key")["key"].to_list()
    )


@pytest.fixture
def pairs(clips: list[str]) -> list[tuple[str, str]]:
    return [(clips[place], clips[place + 1]) for place in range(0, 24, 2)]


@pytest.fixture(scope="module")
def shared(
    serve: Callable[..., Server], clips: list[str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The address of a task of one pair for more people than there are, who enter a name."""
    task = write_task(tmp_path_factory.mktemp("shared"), [(clips[0], clips[1])], people=9)
    return serve("--annotate", str(task)).url


def link(task: Path, url: str, verb: str, *people: str) -> list[str]:
    """Return the links that `stepdiff people` prints."""
    command = [
        sys.executable,
        "-m",
        "stepdiff.app.people",
        verb,
        "--annotate",
        str(task),
        "--url",
        url,
        "--json",
    ]
    done = subprocess.run([*command, *people], cwd=ROOT, check=True, capture_output=True, text=True)
    return [person["link"] for person in json.loads(done.stdout)["people"]]


def open_admin(page: "Page", task: Path, url: str) -> None:
    page.goto(link(task, url, "admin")[0])
    page.wait_for_url("**/annotate/admin")


def exported(browser: "Browser", task: Path, url: str, out: Path) -> list[Answer]:
    """Return the answers that the admin page exports."""
    with browser.new_context() as context:
        open_admin(context.new_page(), task, url)
        out.write_bytes(context.request.get(f"{url}/annotate/admin/export/answers").body())
    return list(read_answers(out))


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
    serve: Callable[..., Server],
    tab: "Page",
    browser: "Browser",
    pairs: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path, pairs[:3], people=1)
    url = serve("--annotate", str(task)).url
    begin(tab, url, "Åsa <b>Öz</b>")
    tab.wait_for_function("() => document.querySelector('[data-player]').player?.playing")
    first = number(tab)
    type_keys(tab, "Tab", "whisk  eggs in a bowl", "Tab")
    assert tab.locator("#note-0").inner_text() == "5/9 words"
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
    # one 5 is chosen, another one set by a text that was left empty
    type_keys(tab, "Tab", "5", "Tab", "Tab")
    assert (
        tab.evaluate(FOCUS) == "score-Actions 5"
        and tab.locator("[name=score-Actions][value='5']").is_checked()
    )
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
    assert "11 words: write at most 9" in tab.locator("#note-0").inner_text()
    type_keys(tab, "Control+a", "mix it", *THROUGH, "Control+Enter")
    tab.get_by_text("No pair is left for you").wait_for()
    assert tab.evaluate("document.querySelectorAll('script:not([src])').length") == 0

    one, two, three = exported(browser, task, url, tmp_path / "answers.jsonl")
    assert (one.annotator, one.keystep, one.kind) == (
        "Åsa <b>Öz</b>",
        "whisk eggs in a bowl",
        "work",
    )
    ingredients, tools = one.differences["Ingredients"], one.differences["Tools/Equipment"]
    assert (ingredients.text, ingredients.score) == ("quail eggs <script>alert(1)</script>", 3)
    assert (tools.text, tools.score) == ("a steel fork", 2)
    assert {
        own.score
        for name, own in one.differences.items()
        if name not in ("Ingredients", "Tools/Equipment")
    } == {5}
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
    assert (
        "Substitution of tool used for the same purpose" in guidelines.locator("main").inner_text()
    )
    assert "Watch the two videos carefully" in guidelines.locator("main").inner_text()
    assert "see the guidelines" not in guidelines.locator("main").inner_text()
    guidelines.close()
    tab.locator("#form").focus()
    type_keys(tab, "Tab", "whisk the eggs", *THROUGH, "Control+Enter")
    tab.locator("#feedback[open]").wait_for()
    lines = [line.inner_text().split("\t") for line in tab.locator("#feedback tbody tr").all()]
    assert lines == [
        ["Ingredients", "5", "3", "✗ too far"],
        ["Action /steps", "5", "5", "✓ close enough"],
    ]
    assert (
        tab.locator("#feedback [data-text]").inner_html().strip()
        == "<p>Eggs were <em>added</em>.</p>"
    )
    type_keys(tab, "Enter")
    wait_for_another(tab, first)
    assert tab.get_by_text("Training.").count() == 0


def test_the_page_has_no_clip_names_and_only_own_media(
    shared: str, tab: "Page", browser: "Browser", clips: list[str]
) -> None:
    begin(tab, shared, "Ann")
    page = tab.content()
    assert not [clip for clip in clips[:2] if clip in page]
    address = f"{shared}{tab.locator('video').first.get_attribute('src')}"
    assert tab.context.request.get(address).status == 200
    with browser.new_context() as other:
        assert other.request.get(address).status == 401
        made = other.request.post(f"{shared}/annotate/enter", data={"name": "Bob"})
        assert made.ok and other.request.get(address).status == 404


def test_a_link_opens_the_pages_also_from_a_foreign_page(
    serve: Callable[..., Server], tab: "Page", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:1])
    url = serve("--annotate", str(task)).url
    (personal,) = link(task, url, "add", "Kim")
    mail = f"<a href='{personal}'>annotate</a>"
    tab.route(
        "http://mail.example/", lambda route: route.fulfill(body=mail, content_type="text/html")
    )
    tab.goto("http://mail.example/")
    tab.get_by_text("annotate").click()
    tab.locator("#form").wait_for()
    (cookie,) = tab.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and not cookie["secure"]
    assert tab.url == f"{url}/annotate"


def test_typed_text_survives_a_kill(
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
        tab.get_by_text(
            "✗ not saved: the server does not answer. Kept in this browser, trying again"
        ).wait_for()
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
        form = context.request.get(
            f"{server.url}/annotate", headers={"Accept": "application/json"}
        ).json()["form"]
    server.kill()
    assert form["texts"] == {
        "Ingredients": "typed without a server",
        "Tools/Equipment": "and once more",
    }
    assert (
        form["scores"] == {"Ingredients": 4, "Tools/Equipment": 3}
        and form["keystep"] == "whisk the eggs"
    )


def test_changes_are_kept_while_the_server_refuses_them(
    serve: Callable[..., Server], browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    url = serve("--annotate", str(write_task(tmp_path, pairs[:1]))).url
    with browser.new_context() as context:
        tab = context.new_page()
        begin(tab, url, "Ann")
        # a script that begins later would send what is kept, and no route waits for it
        tab.wait_for_load_state()
        own = context.request.get(f"{url}/annotate", headers={"Accept": "application/json"}).json()
        name = f"stepdiff {own['person_id']} 99"
        tab.evaluate(
            "name => localStorage.setItem(name, JSON.stringify({changes: {keystep: 'whisk'}}))",
            name,
        )
        for status in (403, 413, 404):
            tab.route(
                "**/work/99/save",
                lambda route, *, status=status: route.fulfill(status=status, json={}),
            )
            with tab.expect_response("**/work/99/save"):  # else the next route could answer it
                tab.reload()
        tab.wait_for_function("name => localStorage.getItem(name) === null", arg=name)


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
            await page.locator("#form, section.narrow").first.wait_for(timeout=60_000)
            if await page.get_by_text("No pair is left for you").count():
                await context.close()
                return
            await one_pair(page, name, done)
        except Error:  # the server was killed while a page was loaded: people load it again
            address = url
            await asyncio.sleep(0.5)


async def one_pair(page: "AsyncPage", name: str, done: list[Typed]) -> None:
    await page.wait_for_function("() => document.activeElement.id === 'form'", timeout=60_000)
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
        timeout=120_000,
    )
    done.append((name, assignment, text, score))


async def together(
    server: Server, links: dict[str, str], done: list[Typed], kills: list[int]
) -> None:
    """Three people label at once, and the server is killed after some submissions and started
    again."""
    from playwright.async_api import async_playwright

    port = int(server.url.rsplit(":", 1)[1])
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        people = [
            asyncio.create_task(label(browser, personal, name, done))
            for name, personal in links.items()
        ]
        for count in kills:
            while len(done) < count:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start, port)
        await asyncio.wait_for(asyncio.gather(*people), 840)
        await browser.close()


@pytest.mark.timeout(900)
def test_people_label_during_kills(
    world: Path, browser: "Browser", pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = write_task(tmp_path, pairs[:6], people=3)
    server = Server(world, tmp_path / "cache", "--annotate", str(task))
    names = ["Ann", "Bob", "Cid"]
    links = dict(zip(names, link(task, server.url, "add", *names), strict=True))
    done: list[Typed] = []
    with ThreadPoolExecutor(1) as pool:  # the other browser's event loop runs in this thread
        pool.submit(asyncio.run, together(server, links, done, [4, 10])).result()
    found = exported(browser, task, server.url, tmp_path / "answers.jsonl")
    server.kill()
    assert len(found) == 18 and len({(answer.annotator, answer.pair) for answer in found}) == 18
    assert {answer.pair for answer in found} == {" ".join(pair) for pair in pairs[:6]}
    typed = {text: (name, score) for name, _, text, score in done}
    techniques = [(answer.annotator, answer.differences["Technique"]) for answer in found]
    given = {own.text: (name, own.score) for name, own in techniques}
    assert given == typed and len(typed) == 18
    database, copy = (
        Database.open(default_url(task)),
        Database.open(f"sqlite:///{tmp_path}/copy.db"),
    )
    before, after = replayed(database, read_task(task), copy)
    assert before == after


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)])
def test_the_form_does_not_move_under_the_pointer(
    shared: str, browser: "Browser", size: tuple[int, int]
) -> None:
    """A click on a score counts, although the focus changes the rubric between mouse-down and
    mouse-up."""
    with browser.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        tab = context.new_page()
        begin(tab, shared, f"Mo{size[0]}")
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
            tab.locator(f"[data-rubric='{category}']").wait_for()
            tab.mouse.up()
            assert score.is_checked() and tab.evaluate(places) == before
            assert (
                tab.locator(f"#note-{row}").inner_text() == "✗ Describe the difference, or choose 5"
            )


def test_a_score_that_nobody_chose_is_not_submitted(shared: str, tab: "Page") -> None:
    begin(tab, shared, "Lee")
    number(tab)
    tab.locator("#keystep").fill("whisk the eggs")
    tab.locator("#text-1").click()
    # plays the clips: the text was not left for another field
    tab.locator("[data-do=toggle]").click()
    assert tab.locator("fieldset :checked").count() == 0
    tab.locator("#submit").click()
    tab.get_by_text("✗ not submitted: see the marked lines").wait_for()
    assert tab.get_by_text("✗ Describe a difference, or choose 5").count() == 5
    toast, reject = tab.locator("#status").bounding_box(), tab.locator("#reject").bounding_box()
    assert (
        toast is not None and reject is not None and toast["x"] + toast["width"] <= reject["x"]
    ), "the toast covers Reject"
    tab.locator("#text-1").click()
    tab.locator("#text-2").click()
    assert tab.locator("[name=score-Ingredients]:checked").input_value() == "5"
    # the 5 of the empty text does not stay with a text
    tab.locator("#text-1").press_sequentially("less salt")
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


SCHEMES = [("light", 1280, 720), ("dark", 1280, 720), ("light", 390, 844)]


def answer(client: "TestClient", score: int, text: str, rejected: str | None = None) -> None:
    """Submit the next pair."""
    changes = {
        "keystep": "whisk the eggs",
        "texts": EMPTY | {"Ingredients": text},
        "scores": {"Ingredients": score},
    }
    body = {"number": 1, "changes": changes, "rejected": rejected, "seconds": 4.0}
    assert client.post(f"/annotate/work/{work(client)['assignment']}/submit", json=body).json()[
        "done"
    ]


def collected(admin: "TestClient", out: Path, form: str = "answers") -> list[Answer]:
    out.write_bytes(admin.get(f"/annotate/admin/export/{form}").content)
    return read_collected(out)


@pytest.fixture
def place(world: Path, tmp_path: Path) -> Place:
    """A task of six pairs for two people each; Ann and Bob submitted three of them."""
    made = Place(world, tmp_path / "one", people=2)
    ann, bob = made.visit("Ann"), made.visit("Bob")
    for client, scores in ((ann, (1, 4, 5)), (bob, (4, 4, 3))):
        for score in scores:
            answer(client, score, f"eggs {score}" if score < 5 else "")
    return made


def test_progress_and_agreement_are_those_of_the_answers(place: Place) -> None:
    work(place.visit("Ann"))
    page = place.visit("admin").get("/annotate/admin").json()
    assert page["totals"] == {
        "pairs": 6,
        "complete": 3,
        "wanted": 12,
        "submitted": 6,
        "open": 1,
        "adjudicated": 0,
    }
    rows = {row["person"]["name"]: row for row in page["people"]}
    assert list(rows) == ["Ann", "Bob"] and rows["Ann"]["open"] == 1
    assert [row["done"] for row in rows.values()] == [3, 3]
    ingredients = page["agreement"]["categories"]["Ingredients"]
    assert (ingredients["items"], ingredients["pairwise"], ingredients["distance"]) == (
        3,
        pytest.approx(1 / 3),
        2.5,
    )
    assert page["agreement"]["categories"]["Visuals"]["pairwise"] == 1
    pairs = place.visit("admin").get("/annotate/admin/pairs").json()["rows"]
    assert [row["submitted"] for row in pairs] == [["Ann", "Bob"]] * 3 + [[]] * 3
    assert [row["open"] for row in pairs] == [[], [], [], ["Ann"], [], []]


def test_a_decision_about_a_disagreement_wins_in_the_files(place: Place, tmp_path: Path) -> None:
    admin = place.visit("admin")
    rows = admin.get("/annotate/admin/disagreements").json()["rows"]
    names = [" ".join(pair) for pair in place.pairs]
    assert [(row["pair"], row["spread"], row["widest"]) for row in rows] == [
        (names[0], 3, "Ingredients"),
        (names[2], 2, "Ingredients"),
    ]
    shown = admin.get("/annotate/admin/pair", params={"id": names[0]}).json()
    assert shown["next"] == names[2] and shown["suggested"]["scores"]["Ingredients"] == 2
    assert shown["suggested"]["texts"] == {"Ingredients": "eggs 1"}
    body = {"pair": names[0], **shown["suggested"], "left": "reference"}
    refused = admin.post("/annotate/admin/adjudicate", json={**body, "texts": {}, "keystep": " "})
    assert refused.status_code == 400 and refused.json()["fields"] == {
        "keystep": "Write the keystep that both clips show, in at most 9 words.",
        "category Ingredients": (
            "Ingredients: describe the difference, or choose score 5 (not different)."
        ),
    }
    for text in ("quail eggs", "quail eggs, not hen eggs"):
        assert (
            admin.post(
                "/annotate/admin/adjudicate", json={**body, "texts": {"Ingredients": text}}
            ).status_code
            == 200
        )
    assert place.count("adjudicated") == 2, "the first decision stays in the history"
    rows = admin.get("/annotate/admin/disagreements").json()["rows"]
    assert [(row["pair"], row["adjudicated"]) for row in rows] == [
        (names[2], False),
        (names[0], True),
    ]
    found = collected(admin, tmp_path / "answers.jsonl")
    assert len(found) == 7 and (found[-1].kind, found[-1].annotator) == ("adjudication", "admin")
    diffcap = admin.get("/annotate/admin/export/diffcap").text.splitlines()
    assert {"reference": place.pairs[0][0], "candidate": place.pairs[0][1]}.items() <= json.loads(
        diffcap[0]
    ).items()
    assert json.loads(diffcap[0])["text"] == ["quail eggs, not hen eggs"]


def test_a_suggested_decision_can_be_confirmed_as_it_is(place: Place, tmp_path: Path) -> None:
    ann, bob = place.visit("Ann"), place.visit("Bob")
    for client in (ann, bob):  # a pair that all of them reject, and one that half of them do
        answer(client, 5, "", "too short")
    answer(ann, 2, "salt", "unclear")
    answer(bob, 2, "salt")
    admin = place.visit("admin")
    names = [" ".join(pair) for pair in place.pairs]
    for name in names[:5]:
        suggested = admin.get("/annotate/admin/pair", params={"id": name}).json()["suggested"]
        sent = admin.post("/annotate/admin/adjudicate", json={"pair": name, **suggested})
        assert sent.status_code == 200, (suggested, sent.json())
        if suggested["rejected"] is None:
            again = admin.get("/annotate/admin/pair", params={"id": name}).json()["suggested"]
            assert again == suggested
    decided = {
        own.pair: own
        for own in collected(admin, tmp_path / "a.jsonl")
        if own.kind == "adjudication"
    }
    assert [decided[name].rejected for name in names[:5]] == [
        None,
        None,
        None,
        "too short",
        "unclear",
    ]
    assert [decided[name].differences["Ingredients"].text for name in names[:3]] == [
        "eggs 1",
        "eggs 4",
        "eggs 3",
    ]


def test_files_hold_the_same_answers_and_label_studio_comes_back(
    place: Place, world: Path, tmp_path: Path
) -> None:
    admin = place.visit("admin")
    found = collected(admin, tmp_path / "answers.jsonl")
    assert collected(admin, tmp_path / "answers.csv", "csv") == found
    assert "<View>" in admin.get("/annotate/admin/export/label-studio-config").text
    tasks = json.loads(admin.get("/annotate/admin/export/label-studio").content)
    assert len(tasks) >= 6, "also pairs that nobody answered"
    other = Place(world, tmp_path / "other", people=2)
    receiver = other.visit("admin")
    first = receiver.post("/annotate/admin/import", json={"tasks": tasks}).json()
    assert first == {"done": "6 answers taken", "taken": 6, "left_out": {}, "refused": []}
    before = other.count()
    again = receiver.post("/annotate/admin/import", json={"tasks": tasks}).json()["done"]
    assert (
        again == "0 answers taken; 6 left out: answered by the same person already"
        and other.count() == before
    )
    copies = collected(receiver, tmp_path / "copies.jsonl")
    assert sorted(map(repr, copies)) == sorted(map(repr, found))
    third = json.loads(json.dumps(tasks).replace('"Ann"', '"Cid"'))
    assert (
        "answered by enough people already"
        in receiver.post("/annotate/admin/import", json={"tasks": third}).json()["done"]
    )
    page = receiver.get("/annotate/admin").json()
    assert page["totals"]["complete"] == 3 and page["people"][0]["person"]["origin"] == "import"


def of_label_studio(admin: "TestClient", keysteps: list[str]) -> list[dict[str, Any]]:
    """Tasks of a pair each with one annotation made in Label Studio: the keystep, and score 5
    everywhere."""
    tasks = json.loads(admin.get("/annotate/admin/export/label-studio").content)
    made = []
    for who, (task, keystep) in enumerate(zip(tasks, keysteps, strict=False), 1):
        result = {
            "from_name": "keystep",
            "to_name": "video1",
            "type": "textarea",
            "value": {"text": [keystep]},
        }
        annotation = {"completed_by": who, "created_at": "2026-11-28T09:30:00Z", "lead_time": 4.0}
        made.append(
            {
                "data": task["data"],
                "annotations": [{**annotation, "result": [result] if keystep else []}],
            }
        )
    return made


def test_an_import_gives_a_line_for_each_refused_answer(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path, people=2)
    admin = place.visit("admin")
    tasks = of_label_studio(admin, ["", "whisk", "w " * 11, "whisk the eggs"])
    found = admin.post("/annotate/admin/import", json={"tasks": tasks, "first": 101}).json()
    assert (found["taken"], found["left_out"], found["done"]) == (
        2,
        {},
        "2 answers taken; 2 refused",
    )
    assert [line.split(" Correct")[0] for line in found["refused"]] == [
        "the file: task 101: annotation 1: Write the keystep that both clips show, in at most 9 "
        "words.",
        "the file: task 103: annotation 1: The keystep has 11 words; write at most 9.",
    ]
    assert [own.annotator for own in collected(admin, tmp_path / "answers.jsonl")] == ["2", "4"]
    tasks[0] = of_label_studio(admin, ["whisk"])[0]
    tasks[0]["annotations"][0]["completed_by"] = {"email": "x" * 101}
    again = admin.post("/annotate/admin/import", json={"tasks": tasks[:1]}).json()
    assert again["left_out"] == {
        "the annotator's name does not have 1 to 100 printable characters": 1
    }


def test_an_import_on_the_page(
    serve: Callable[..., Server], browser: "Browser", world: Path, tmp_path: Path
) -> None:
    place = Place(world, tmp_path, people=2)
    file = tmp_path / "export.json"
    tasks = of_label_studio(place.visit("admin"), ["whisk", "", "<b>whisk</b>", "w " * 11])
    tasks[0]["data"]["more"] = "\u6253" * 310_000  # the others are sent in a request of their own
    tasks[1]["data"]["more"] = "\u86cb" * 60_000
    file.write_text(json.dumps(tasks))
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        open_admin(page, place.task, url)
        page.locator("#file").set_input_files(file)
        page.get_by_role("button", name="Import", exact=True).click()
        page.locator("#imported li").first.wait_for()
        assert (
            page.locator("#imported p").inner_text()
            == "2 answers taken; 2 refused. Reload the page for new figures."
        )
        lines = page.locator("#imported li").all_inner_texts()
        assert [line.split(": annotation")[0] for line in lines] == [
            "the file: task 2",
            "the file: task 4",
        ]
        file.write_text(json.dumps([*tasks[:1], {"id": 9}]))
        page.locator("#file").set_input_files(file)
        page.get_by_role("button", name="Import", exact=True).click()
        page.get_by_text(
            "Not imported from task 2 on: the file: task 9: data is missing"
        ).first.wait_for()
        assert (
            "1 left out: answered by the same person already."
            in page.locator("#imported p").inner_text()
        )
        assert page.locator("#imported li").count() == 0


def test_a_file_without_answers_is_refused_in_one_line(world: Path, tmp_path: Path) -> None:
    admin = Place(world, tmp_path).visit("admin")
    for form in ("answers", "csv", "diffcap", "diffrank"):
        response = admin.get(f"/annotate/admin/export/{form}")
        assert response.status_code == 400 and "nothing to export" in response.json()["error"]
    assert admin.get("/annotate/admin/export/label-studio").status_code == 200


def test_a_revoked_person_leaves_open_work_to_others(place: Place) -> None:
    ann, admin = place.visit("Ann"), place.visit("admin")
    work(ann)
    rows = admin.get("/annotate/admin").json()["people"]
    person = next(row["person"]["id"] for row in rows if row["person"]["name"] == "Ann")
    assert admin.post("/annotate/admin/people/revoke", json={"person": person}).status_code == 200
    assert ann.get("/annotate").status_code == 401
    page = admin.get("/annotate/admin").json()
    assert page["totals"]["open"] == 0 and page["totals"]["submitted"] == 6
    made = admin.post("/annotate/admin/people/link", json={"person": person}).json()
    assert ann.get(made["address"].removeprefix("http://127.0.0.1")).status_code == 200
    assert work(ann)["person"] == "Ann", "a new link opens the pages again"


def people_of(page: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in page["people"]}


def test_an_excluded_person_counts_nowhere_until_included_again(
    place: Place, tmp_path: Path
) -> None:
    ann, admin = place.visit("Ann"), place.visit("admin")
    work(ann)
    names = [" ".join(pair) for pair in place.pairs]
    before = admin.get("/annotate/admin").json()
    person = {"person": people_of(before)["Ann"]["person"]["id"]}
    assert admin.get("/annotate/admin/export/csv").headers["Left-Out"] == "0"

    assert admin.post("/annotate/admin/people/exclude", json=person).status_code == 200
    page = admin.get("/annotate/admin").json()
    assert (page["totals"]["submitted"], page["totals"]["complete"], page["totals"]["open"]) == (
        3,
        0,
        0,
    )
    assert (
        page["left_out"],
        page["agreement"]["people"],
        page["agreement"]["overall"]["items"],
    ) == (3, 1, 0)
    row = people_of(page)["Ann"]
    assert (
        row["excluded"]
        and row["done"] == 3
        and row["distance"] == people_of(before)["Ann"]["distance"]
    )
    for form in ("answers", "csv", "label-studio"):
        assert {own.annotator for own in collected(admin, tmp_path / form, form)} == {"Bob"}
        assert admin.get(f"/annotate/admin/export/{form}").headers["Left-Out"] == "3"
    assert admin.get("/annotate/admin/disagreements").json()["rows"] == []
    shown = admin.get("/annotate/admin/pair", params={"id": names[0]}).json()
    assert [own["annotator"] for own in shown["answers"]] == ["Bob"]
    refused = ann.get("/annotate")
    assert refused.status_code == 403 and "do not count" in refused.json()["error"]
    answer(place.visit("Cid"), 5, "")
    rows = admin.get("/annotate/admin/pairs").json()["rows"]
    assert [row["submitted"] for row in rows[:2]] == [["Bob", "Cid"], ["Bob"]]
    assert "Ann: excluded, 3 pairs submitted" in listed(place)

    assert admin.post("/annotate/admin/people/include", json=person).status_code == 200
    page = admin.get("/annotate/admin").json()
    assert (page["totals"]["submitted"], page["left_out"], people_of(page)["Ann"]["excluded"]) == (
        7,
        0,
        None,
    )
    assert admin.get("/annotate/admin/pairs").json()["rows"][0]["submitted"] == [
        "Ann",
        "Bob",
        "Cid",
    ]
    assert work(ann)["person"] == "Ann"


def listed(place: Place) -> list[str]:
    run = [sys.executable, "-m", "stepdiff.app.people", "list", "--annotate", str(place.task)]
    return subprocess.run(
        run, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_thumbnails_are_those_of_pairs_and_of_the_admin(place: Place, clips: list[str]) -> None:
    admin, (reference, _) = place.visit("admin"), place.pairs[0]
    page = admin.get("/annotate/admin/pairs", headers={"Accept": "text/html"}).text
    assert f'src="/annotate/admin/thumbnail/{reference}"' in page
    thumbnail = admin.get(f"/annotate/admin/thumbnail/{reference}")
    assert (
        thumbnail.headers["content-type"] == "image/jpeg" and thumbnail.content[:2] == b"\xff\xd8"
    )
    others = set(clips) - {clip for pair in place.pairs for clip in pair}
    assert admin.get(f"/annotate/admin/thumbnail/{min(others)}").status_code == 404
    assert place.visit("Ann").get(f"/annotate/admin/thumbnail/{reference}").status_code == 401


def test_people_are_sorted_and_excluded_with_the_keyboard(
    serve: Callable[..., Server], browser: "Browser", world: Path, tmp_path: Path
) -> None:
    place = Place(world, tmp_path, people=2)
    for name, count in (("Ann", 1), ("Bob", 0), ("Hasty Kim", 6)):
        person = place.visit(name)
        for _ in range(count):
            answer(person, 5, "")
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        page = context.new_page()
        open_admin(page, place.task, url)
        names = page.locator("[data-person] th")

        def press(key: str) -> None:
            """Press a key that loads another page, and wait for its script."""
            with page.expect_navigation():
                page.keyboard.press(key)
            page.wait_for_function("() => document.activeElement !== document.body")

        def tab_to(text: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate("() => document.activeElement.textContent").startswith(text):
                    return
            raise AssertionError(f"the keyboard does not reach {text}")

        assert names.all_inner_texts() == ["Ann", "Bob", "Hasty Kim"]
        tab_to("Flags")
        press("Enter")
        assert names.all_inner_texts()[0] == "Hasty Kim"
        flags = page.locator("[data-person]").first.locator(".annotate-flags li").all_inner_texts()
        assert flags == ["⚑ one score in all categories for 6 of 6 pairs"]
        assert page.evaluate("() => document.activeElement.parentElement.ariaSort") == "descending"
        press("Enter")
        assert names.all_inner_texts()[-1] == "Hasty Kim"
        press("Enter")
        tab_to("Exclude")
        press("Enter")
        assert page.locator("[data-person]").first.get_by_text("✗ excluded").is_visible()
        assert page.evaluate("() => document.activeElement.textContent") == "Include"
        assert page.get_by_text("The files leave out 6 answers of excluded people.").is_visible()
        assert names.all_inner_texts()[0] == "Hasty Kim", "the order stays"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert serious_findings(page) == {}
        press("Enter")
        assert page.evaluate("() => document.activeElement.textContent") == "Exclude"
        assert page.get_by_text("✗ excluded").count() == 0


def test_guidelines_are_markdown_and_html_in_them_stays_text(world: Path, tmp_path: Path) -> None:
    text = "# Tools\n\nA fork is *no* whisk.\n\n- one\n- two\n\n"
    hostile = "<script>alert(1)</script> [x](javascript:alert(2)) ![y](https://evil.example/y.png)"
    place = Place(world, tmp_path)
    packaged = place.visit("Ann").get("/annotate/guidelines", headers={"Accept": "text/html"}).text
    assert (
        "<p>Watch the two videos carefully and write down the main differences between them.</p>"
        in packaged
    )
    place.database.close()
    (tmp_path / "guidelines.md").write_text(text + hostile)
    instructions = "- Watch both clips\n- Follow the guidelines\n- Score"
    keys = f"instructions: {json.dumps(instructions)}\nguidelines: {{file: guidelines.md}}\n"
    place.task.write_text(place.task.read_text() + keys)
    place = Place(world, tmp_path, task=place.task)
    page = place.visit("Ann").get("/annotate/guidelines", headers={"Accept": "text/html"}).text
    assert f"<p>{instructions}</p>" in page
    assert "<h2>Tools</h2>\n<p>A fork is <em>no</em> whisk.</p>\n<ul>\n<li>one</li>" in page
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    assert 'href="javascript' not in page and "<img" not in page


def test_people_are_added_listed_and_revoked_by_command(world: Path, tmp_path: Path) -> None:
    place = Place(world, tmp_path)

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        run = [
            sys.executable,
            "-m",
            "stepdiff.app.people",
            *arguments,
            "--annotate",
            str(place.task),
        ]
        return subprocess.run(run, cwd=ROOT, capture_output=True, text=True)

    made = command("add", "Ann", "Bob", "--url", "https://annotate.example/")
    lines = re.fullmatch(
        r"Ann: https://annotate\.example(/annotate/as/\S{22})\nBob: \S+\n", made.stdout
    )
    assert made.returncode == 0 and lines is not None
    assert place.visit().get(lines[1]).status_code == 200
    again = command("add", "Cid", "Ann")
    assert (again.returncode, again.stdout) == (2, "") and "'Ann' is there already" in again.stderr
    assert command("revoke", "Ann").stdout == "Ann: revoked\n"
    assert place.visit().get(lines[1]).status_code == 401
    listed = ["admin: admin", "Ann: revoked", "Bob: annotator"]
    assert command("list").stdout == "".join(f"{line}, 0 pairs submitted\n" for line in listed), (
        "Cid was not added"
    )
    assert command("revoke", "admin").returncode == 2 and command("add").returncode == 2


def test_the_pages_have_no_serious_finding(
    serve: Callable[..., Server], browser: "Browser", world: Path, tmp_path: Path
) -> None:
    place = Place(world, tmp_path, people=2)
    place.database.close()
    url = serve("--annotate", str(place.task)).url

    def check(page: "Page", name: str) -> None:
        page.locator("main").wait_for()
        assert serious_findings(page) == {}, name

    for place_of, (scheme, width, height) in enumerate(SCHEMES):
        with browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        ) as context:  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{url}/annotate")
            check(page, "enter")
            begin(page, url, f"person {place_of}")
            first = number(page)
            check(page, "work")
            # no score
            type_keys(page, "Tab", "whisk the eggs", "Tab", "two words", "Control+Enter")
            check(page, "a problem")
            type_keys(page, str(place_of + 1), *["Tab"] * 7, "Control+Enter")
            wait_for_another(page, first)
            type_keys(page, "r")
            check(page, "reject")
            open_admin(page, place.task, url)
            for name in ("", "/pairs", "/disagreements", f"/pair?id={' '.join(place.pairs[0])}"):
                page.goto(f"{url}/annotate/admin{name}")
                check(page, f"admin{name[:10]}")


def test_a_decision_is_made_with_the_keyboard(
    serve: Callable[..., Server], browser: "Browser", place: Place, tmp_path: Path
) -> None:
    place.database.close()
    url = serve("--annotate", str(place.task)).url
    with browser.new_context() as context:
        page = context.new_page()
        open_admin(page, place.task, url)
        page.goto(f"{url}/annotate/admin/disagreements")
        with page.expect_navigation():  # until the page's script hears keys
            page.locator("table a").first.click()
        row = page.locator("[data-category=Ingredients]")
        assert (row.locator("select").input_value(), row.locator("input").input_value()) == (
            "2",
            "eggs 1",
        )
        row.locator("[data-take]", has_text="eggs 4").click()  # what a person said
        assert (row.locator("select").input_value(), row.locator("input").input_value()) == (
            "4",
            "eggs 4",
        )
        row.locator("input").fill("")
        page.locator("#keystep").fill("")
        page.keyboard.press("Control+Enter")
        page.get_by_text("✗ not decided: see the marked lines").wait_for()
        assert page.evaluate("document.activeElement.id") == "keystep"
        for field in (page.locator("#keystep"), row.locator("input"), row.locator("select")):
            assert field.get_attribute("aria-invalid") == "true"
            note = page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()
            assert note.startswith(
                ("✗ Write the keystep", "✗ Ingredients: describe the difference")
            )
        page.locator("[data-take=keystep]").first.click()
        assert page.locator("#keystep").input_value() == "whisk the eggs"
        row.locator("input").fill("quail eggs")
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda address: " ".join(place.pairs[2]).replace(" ", "%20") in address)
        page.locator("[data-category=Ingredients] input").fill("more eggs")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/disagreements")
        out = tmp_path / "answers.jsonl"
        out.write_bytes(context.request.get(f"{url}/annotate/admin/export/answers").body())
    decided = [
        own.differences["Ingredients"].text
        for own in read_answers(out)
        if own.kind == "adjudication"
    ]
    assert decided == ["quail eggs", "more eggs"]
