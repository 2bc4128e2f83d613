"""Notes about a pair: what the database keeps, exports read by other programs, the page and the
card in a browser."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from featurize.video.cut import frame
from stepdiff.app.notes.card import MOST_ANSWER, CardSide, card
from stepdiff.app.notes.notebook import Note, Notebook
from stepdiff.app.notes.routes import CUE, MOST_TEXT, ExportedNote, export, exported
from stepdiff.app.options import AppOptions
from stepdiff.app.server import create_app
from stepdiff.app.site import RefusedError, Site, UnknownError
from stepdiff_core.io.tables import escaped
from store import Store
from tests.app.annotation_tasks import Clock
from tests.app.conftest import PLAYER, READY, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Download, Page

pytestmark = pytest.mark.full
ODD = ('<b>wrist</b> & "elbow", --> \u2013 é 👩‍🍳', "=1+1;", "a\u2028b", "NOTE", "x" * MOST_TEXT)
CUES = """async (text) => {
  const video = document.createElement("video"), track = document.createElement("track");
  track.src = URL.createObjectURL(new Blob([text], {type: "text/vtt"}));
  video.append(track);
  document.body.append(video);
  const loaded = new Promise((done, failed) => { track.onload = done; track.onerror = failed; });
  track.track.mode = "hidden";
  await loaded;
  return [...track.track.cues].map((cue) => {
    const shown = cue.getCueAsHTML();
    return [cue.startTime, cue.endTime, shown.firstChild.title, shown.textContent];
  });
}"""
"""what the browser's own parser makes of a WebVTT file"""


@pytest.fixture(scope="module")
def pair(world: Path) -> tuple[str, str]:
    clips = (
        Store.open(world / "features")
        .catalog("clips")
        .frame()
        .filter(pl.col("step") == "whisk the eggs")
    )
    return clips["key"][0], clips["key"][1]


def test_the_database_keeps_every_text(new_url: Callable[[str], str], tmp_path: Path) -> None:
    url = new_url("notes")
    site = Site(AppOptions(str(Store.open(tmp_path / "features", create=True).path), database=url))
    clock, pair = Clock(), ("a", "b")
    notebook = Notebook(site, clock)
    late = notebook.add(pair, 1, 2.5, "Ann", "late")
    early = notebook.add(pair, 2, 0.5, "Bob", "early")
    notebook.add(("a", "c"), 1, 0.0, "Ann", "another pair")
    clock.now += 60
    changed = notebook.edit(late.id, "Ann", "later")
    with pytest.raises(RefusedError, match="by Bob"):
        notebook.edit(early.id, "Ann", "mine")
    with pytest.raises(RefusedError, match="by Bob"):
        notebook.delete(early.id, "Ann")
    again = Notebook(site)
    assert again.of_pair(pair) == [early, changed]
    assert changed.written == late.written < changed.edited and changed.text == "later"
    swapped = again.of_pair(("b", "a"))
    assert [(note.clip, note.video, note.seconds) for note in swapped] == [
        ("b", 1, 0.5),
        ("a", 2, 2.5),
    ]
    notebook.delete(late.id, "Ann")
    with pytest.raises(UnknownError):
        notebook.edit(late.id, "Ann", "back")
    assert again.of_pair(pair) == [early] and len(again.every()) == 2
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT kind, data FROM notes ORDER BY seq")).all()
    assert [kind for kind, _ in rows] == ["added", "added", "added", "edited", "deleted"]
    assert [json.loads(data).get("text") for _, data in rows] == [
        "late",
        "early",
        "another pair",
        "later",
        None,
    ]
    for statement in ("UPDATE notes SET data = '{}'", "DELETE FROM notes"):
        with (
            pytest.raises(DBAPIError, match="notes are never changed"),
            engine.begin() as connection,
        ):
            connection.execute(text(statement))
    engine.dispose()
    notebook.close()
    again.close()


def test_exports_read_back(world: Path, pair: tuple[str, str], tmp_path: Path, tab: "Page") -> None:
    site = Site(AppOptions(str(world / "features"), database=f"sqlite:///{tmp_path}/notes.db"))
    notebook = Notebook(site)
    for place, odd in enumerate(ODD):
        notebook.add(pair, 1 if place % 2 else 2, 0.123 * place, f"Ann <{place}> & Co", odd)
    clips = site.clips(pair)
    notes = exported(site, notebook.every())
    assert {note.text for note in notes} == set(ODD)
    for note in notes:
        clip = clips[note.video - 1]
        assert (note.clip, note.file) == (clip.key, clip.video)
        assert note.file_seconds == pytest.approx(note.seconds + (clip.start or 0))
    rows = list(csv.DictReader(io.StringIO(export("csv", notes)[1].decode(), newline="")))
    assert rows == [
        {name: escaped(str(value)) for name, value in asdict(note).items()} for note in notes
    ]
    assert json.loads(export("json", notes)[1]) == [asdict(note) for note in notes]
    archive = zipfile.ZipFile(io.BytesIO(export("webvtt", notes)[1]))
    assert len(archive.namelist()) == 2
    tab.goto("about:blank")
    read = [
        cue
        for name in archive.namelist()
        for cue in tab.evaluate(CUES, archive.read(name).decode())
    ]
    expected = [[n.file_seconds, (n.file_seconds or 0) + CUE, n.author, n.text] for n in notes]
    for cue, note in zip(sorted(read), sorted(expected, key=lambda cue: cue[0] or 0), strict=True):
        assert cue == [pytest.approx(note[0]), pytest.approx(note[1]), *note[2:]]


FORMULAS = (
    "=1+1",
    "+1",
    "-1+2",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "'=1",
    "''@x",
)


def test_no_text_of_the_csv_is_a_formula() -> None:
    notes = [ExportedNote("id", odd, odd, 1, -1.5, odd, odd, "now", file=odd) for odd in FORMULAS]
    rows = csv.DictReader(io.StringIO(export("csv", notes)[1].decode(), newline=""))
    for formula, row in zip(FORMULAS, rows, strict=True):
        assert [row[name] for name in ("reference", "candidate", "author", "text", "file")] == [
            f"'{formula}"
        ] * 5
        assert row["seconds"] == "-1.5"


def test_requests_out_of_bounds_store_nothing(
    world: Path, pair: tuple[str, str], tmp_path: Path
) -> None:
    site = Site(
        AppOptions(
            str(world / "features"), database=f"sqlite:///{tmp_path}/notes.db", cache=str(tmp_path)
        )
    )
    client = TestClient(
        create_app(site), "http://127.0.0.1", headers={"Accept": "application/json"}
    )
    sound: dict[str, Any] = dict(zip(("reference", "candidate"), pair, strict=True))
    sound |= {"video": 1, "seconds": 1.0, "author": "Ann", "text": "  two \n words "}
    for status, change in (
        (422, {"text": "x" * (MOST_TEXT + 1)}),
        (422, {"text": " \n"}),
        (422, {"text": "a\0b"}),
        (422, {"author": "x" * 101}),
        (422, {"video": 3}),
        (422, {"seconds": -1}),
        (422, {"id": "mine"}),
        (400, {"seconds": 99.0}),
        (404, {"candidate": "none"}),
    ):
        assert client.post("/notes", json=sound | change).status_code == status, change
    assert (
        client.post("/notes", json=sound, headers={"Origin": "http://evil.example"}).status_code
        == 403
    )
    query = urlencode({name: sound[name] for name in ("reference", "candidate")})
    assert client.get(f"/notes?{query}").json() == {"notes": []}
    note = client.post("/notes", json=sound).json()
    assert note["text"] == "two words" and client.get(f"/notes?{query}").json() == {"notes": [note]}
    body = {"author": "Bob", "text": "x"}
    assert client.post(f"/notes/{note['id']}/edit", json=body).status_code == 403


@pytest.fixture
def server(world: Path, tmp_path: Path) -> Iterator[Server]:
    """A server with a database of its own, which a test may kill."""
    server = Server(world, tmp_path / "cache", "--database", f"sqlite:///{tmp_path}/notes.db")
    yield server
    server.kill()


def test_notes_and_a_card_in_the_browser(
    server: Server, pair: tuple[str, str], tmp_path: Path, browser: "Browser"
) -> None:
    address = f"/pair?reference={pair[0]}&candidate={pair[1]}"
    with browser.new_context(viewport={"width": 360, "height": 800}) as context:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(server.url + address)
        page.get_by_text("No notes yet.").wait_for()
        page.wait_for_function(f"() => {READY}")
        for seconds, video, words in (
            (2.0, 2, ODD[0]),
            (1.0, 1, "wrist too stiff"),
            (1.5, 1, "slow"),
            (1.7, 1, "fast"),
        ):
            page.evaluate(f"() => {{ {PLAYER}.pause(); {PLAYER}.seek({seconds}); }}")
            write(page, words, video)
            page.locator("#notes .text").get_by_text(words, exact=True).wait_for()
        server.kill()
        write(page, "lost?", 1)
        page.get_by_text("✗ not saved: the server does not answer").wait_for()
        assert page.get_by_label("Text of the note").input_value() == "lost?"
        page.get_by_role("button", name="Show pairs").click()
        page.locator(
            "#elsewhere", has_text="the server does not answer: is stepdiff app running?"
        ).wait_for()
        server.start(int(server.url.rpartition(":")[2]))
        page.get_by_label("Text of the note").press("Enter")
        page.locator("#notes .text").get_by_text("lost?", exact=True).wait_for()
        page.reload()
        page.get_by_role("button", name="Edit the note: slow").click()
        page.get_by_label("Text of the note").fill("slower")
        page.keyboard.press("Enter")
        page.get_by_text("edited").wait_for()
        page.get_by_role("button", name="Delete the note: fast").click()
        page.get_by_text("note deleted").wait_for()
        expected = ["wrist too stiff", "slower", "lost?", ODD[0]]
        assert page.locator("#notes .text").all_text_contents() == expected
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.get_by_role("button", name="Show 0:01.00 of Video 1").click()
        assert page.evaluate(
            f"() => {PLAYER}.videos.map((video) => video.currentTime)"
        ) == pytest.approx([1, 1])
        check_sight(page)
        ticks = page.get_by_role("checkbox")
        assert [tick.is_checked() for tick in ticks.all()] == [True, True, False, False]
        ticks.nth(1).press("Space")
        ticks.nth(2).check()
        ticks.nth(3).check()
        assert ticks.nth(1).is_disabled()
        with page.expect_download() as download:
            page.keyboard.press("c")
        check_card(context.new_page(), download.value, tmp_path / "card.html")


def check_sight(page: "Page") -> None:
    """The clips are in sight where their notes are read, and shown where the offset of one hid the
    moment of a note."""
    page.evaluate(f"() => {PLAYER}.seekEach([0.5, 1.5])")
    page.get_by_role("button", name="Show 0:02.00 of Video 2").scroll_into_view_if_needed()
    page.locator(".stage.small").wait_for()
    before = page.evaluate("scrollY")
    page.get_by_role("button", name="Show 0:01.00 of Video 1").click()
    assert page.evaluate(
        f"() => {PLAYER}.videos.map((video) => video.currentTime)"
    ) == pytest.approx([1, 2])
    page.evaluate(f"() => {PLAYER}.seekEach([2, 0.5])")
    page.get_by_role("button", name="Show 0:01.00 of Video 1").click()
    assert page.evaluate(f"() => [{PLAYER}.videos[0].currentTime, {PLAYER}.offsets]") == [
        pytest.approx(1),
        [0, 0],
    ]
    assert page.evaluate("scrollY") == before
    for video in page.locator("video").all():
        box = video.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] < 140
    page.locator(".stage.small #note-here").click()
    assert page.get_by_label("Text of the note").is_visible()
    page.keyboard.press("Escape")


def write(page: "Page", words: str, video: int) -> None:
    page.keyboard.press("n")
    page.keyboard.type(words)
    page.get_by_label(f"Video {video} at").check()
    page.get_by_label("Your name").fill("Ann")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the second one stores nothing


def check_card(page: "Page", download: "Download", file: Path) -> None:
    """The card has the ticked notes, plays without a server, and begins again after its end."""
    download.save_as(file)
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=['\"](?!data:)|url\(|@import|https?://", source)
    page.goto(f"file://{file}")
    rows = page.get_by_role("listitem").all_inner_texts()
    assert rows == [
        "Video 1, 0:01 wrist too stiff Ann",
        "Video 1, 0:01.7 lost? Ann",
        f"Video 2, 0:02 {ODD[0]} Ann",
    ]
    captions = [" ".join(text.split()) for text in page.locator("figcaption").all_inner_texts()]
    assert captions == ["Video 1 at 0:01", "Video 2 at 0:01"]
    page.wait_for_function(f"() => {PLAYER}.playing")
    lengths = page.evaluate(f"() => {PLAYER}.videos.map((video) => video.duration)")
    assert lengths == pytest.approx([2.5, 2.5], abs=0.1)
    page.evaluate(f"() => {PLAYER}.seek(2)")
    page.wait_for_function(f"() => {PLAYER}.playing && {PLAYER}.time < 1.5")


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 90 x 160 pixels and 10 frames/s; frame n is grey of level 8 n."""
    path = tmp_path_factory.mktemp("portrait") / "portrait.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 90, 160, "yuv420p"
        for level in range(0, 240, 8):
            target.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(
                        np.full((160, 90, 3), level, np.uint8), format="rgb24"
                    )
                )
            )
        target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("start", "second", "number"),
    [(0.0, 0.0, 0), (0.0, 1.09, 10), (0.55, 0.56, 6), (1.0, 2.99, 29)],
)
def test_a_frame_is_the_last_one_that_is_not_later(
    portrait: Path, tmp_path: Path, start: float, second: float, number: int
) -> None:
    frame(portrait, start, 3.0, second, 540, tmp_path / "frame.jpeg")
    assert round(float(np.asarray(Image.open(tmp_path / "frame.jpeg")).mean()) / 8) == number


@pytest.mark.parametrize(
    ("steps", "title"),
    [
        (["add BBQ sauce", "add BBQ sauce"], "Add BBQ sauce"),
        (["add BBQ sauce", "stir"], "Two clips"),
        (["stir", None], "Two clips"),
        ([None, None], "Two clips"),
    ],
)
def test_the_title_of_a_card_is_the_step_of_both_clips(
    portrait: Path, tmp_path: Path, steps: list[str | None], title: str
) -> None:
    store = Store.open(tmp_path / "features", create=True)
    clips = {
        "key": ["a", "b"],
        "video": portrait.name,
        "start": 0.0,
        "end": 1.0,
        "step": pl.Series(steps, dtype=pl.String),
    }
    store.catalog("clips").append(pl.DataFrame(clips))
    notes, cache = f"sqlite:///{tmp_path}/notes.db", str(tmp_path / "cache")
    site = Site(AppOptions(str(store.path), str(portrait.parent), database=notes, cache=cache))
    client = TestClient(create_app(site), "http://127.0.0.1")
    sent = {"reference": "a", "candidate": "b", "moments": [0.0, 0.5]}
    assert f"<h1>{title}</h1>" in client.post("/notes/card", json=sent).text


@pytest.mark.parametrize("size", ["A4", "Letter"])
@pytest.mark.parametrize("word", ["word ", "wrist-", "\u6253\u86cb"])
def test_a_card_prints_on_one_page(
    portrait: Path, tmp_path: Path, tab: "Page", size: str, word: str
) -> None:
    def longest(most: int) -> str:
        return (word * most)[:most]

    side = CardSide(longest(200), portrait, 0.0, 3.0, 1.0)
    notes = [
        Note("", "a", "b", video, 1.0, longest(100), longest(MOST_TEXT), "") for video in (1, 2, 1)
    ]
    page = card("Whisk the eggs", (side, side), notes, longest(500), longest(MOST_ANSWER))
    (tmp_path / "card.html").write_text(page, encoding="utf-8")
    tab.goto(f"file://{tmp_path}/card.html")
    printed = tab.pdf(format=size)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
