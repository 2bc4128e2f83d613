"""The player and its address, accessibility of all pages, and their pictures, in a real browser.

`DEMO=FOLDER pytest tests/app/test_browser.py -k picture_of` writes the pictures of the docs; `make
demo` ran in FOLDER. Without DEMO the pages of a small world are pictured, in a temporary folder,
with no trained head. docs/recording.py records the page of a pair.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image

from retrieval import Alignment, align, read_moments
from stepdiff.annotate import audit
from stepdiff.comparison.clips import read_clip
from stepdiff.comparison.comparing import Comparison, Span
from stepdiff.comparison.models import Difference, Moment
from stepdiff.comparison.report import write_report
from store import Store
from tests.app.annotation_tasks import write_task
from tests.app.conftest import PLAYER, READY, ROOT, Server, serious_findings
from tests.app.pair_heads import write_words
from tests.app.predictions import guesses, random_rows, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.full
# Frames of both videos at a time of the clock are painted when it returns. A video that never
# played may have painted its first frame before anyone asked to hear of it.
STOPPED = """async (time) => {
  const {player} = document.querySelector("[data-player]");
  player.pause();
  const painted = player.videos.map((video) => new Promise((done) => {
    const look = (_, {mediaTime}) =>
      Math.abs(video.currentTime - mediaTime) * video.dataset.rate < 1.01
        ? done() : video.requestVideoFrameCallback(look);
    video.requestVideoFrameCallback(look);
  }));
  player.seek(time);
  await Promise.all(painted);
}"""
FRAMES = """async (steps) => {
  const {player} = document.querySelector("[data-player]"), [video] = player.videos;
  const frame = () => new Promise((shown) =>
    video.requestVideoFrameCallback((_, data) => shown(data.mediaTime)));
  let next = frame();
  player.seek(0.5);
  const times = [await next];
  for (const by of steps) {
    next = frame();
    player.step(by);
    times.push(await next);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def pair(world: Path) -> list[str]:
    """Two clips of one step with different lengths."""
    clips = (
        Store.open(world / "features")
        .catalog("clips")
        .frame()
        .filter(pl.col("step") == "whisk the eggs")
    )
    clips = clips.with_columns(length=pl.col("end") - pl.col("start")).sort("length")
    return [clips["key"][0], clips["key"][-1]]


@pytest.fixture
def opened(serve: Callable[..., Server], tab: "Page", pair: list[str]) -> "Page":
    """The page of the pair, while both clips play: their first frames are shown, which tells where
    frames begin."""
    tab.goto(f"{serve().url}/pair?reference={pair[0]}&candidate={pair[1]}")
    tab.wait_for_function(
        f"() => {PLAYER}.playing && {PLAYER}.videos.every((video) => video.phase !== undefined)"
    )
    return tab


def test_two_clips_stay_together_for_a_loop(opened: "Page") -> None:
    first, second = np.array(opened.evaluate(FOLLOWED, 1)).T
    assert np.median(np.abs(first - second)) < 0.05


def test_keys_play_step_and_change_speed(opened: "Page") -> None:
    opened.keyboard.press("Space")
    assert not opened.evaluate(f"{PLAYER}.playing")
    opened.keyboard.press(".")
    assert opened.evaluate(f"{PLAYER}.videos.map((video) => video.paused)") == [True, True]
    opened.keyboard.press("]")
    assert opened.evaluate(f"{PLAYER}.videos.map((video) => video.playbackRate)") == [2, 2]
    opened.keyboard.press("?")
    assert opened.get_by_role("dialog").get_by_text("one frame back").is_visible()


def test_a_clip_that_has_ended_plays_again_after_a_seek(opened: "Page") -> None:
    opened.keyboard.press("l")
    opened.evaluate(f"{PLAYER}.setSpeed(0.25)")
    opened.evaluate(f"{PLAYER}.seek({PLAYER}.videos[0].duration - 0.05)")
    opened.wait_for_function(f"() => {PLAYER}.videos[0].ended && {PLAYER}.playing")
    opened.evaluate(f"{PLAYER}.seek(0.5)")
    opened.wait_for_function(
        f"() => !{PLAYER}.videos[0].paused && {PLAYER}.videos[0].currentTime > 0.6"
    )


def test_a_frame_step_shows_the_next_frame_of_the_video(opened: "Page") -> None:
    rate = opened.evaluate("Number(document.querySelector('video').dataset.rate)")
    assert rate == 12  # of the sample world
    opened.keyboard.press("Space")
    times = opened.evaluate(FRAMES, [1, 1, 1, -1, -1, 1])
    moves = [(after - before) * rate for before, after in pairwise(times)]
    assert moves == pytest.approx([1, 1, 1, -1, -1, 1], abs=0.02)


def test_a_filmstrip_has_a_marker_and_seeks(opened: "Page") -> None:
    strip = opened.get_by_role("slider", name="Place in Video 2")
    strip.click(position={"x": strip.bounding_box()["width"] * 0.5, "y": 5})  # type: ignore[index]
    assert not opened.evaluate(f"{PLAYER}.playing")
    place = opened.evaluate(f"{PLAYER}.time / {PLAYER}.videos[1].duration")
    assert place == pytest.approx(0.5, abs=0.02)
    assert strip.get_attribute("aria-valuenow") == "50"
    left = opened.evaluate("document.querySelectorAll('.marker')[1].style.left")
    assert float(left.removesuffix("%")) == pytest.approx(50, abs=2)
    for pressed, part in (("End", "100"), ("Home", "0")):
        strip.focus()
        opened.keyboard.press(pressed)
        assert strip.get_attribute("aria-valuenow") == part


def test_clips_of_equal_length_end_together(opened: "Page") -> None:
    opened.keyboard.press("Space")
    opened.keyboard.press("e")
    opened.evaluate(f"{PLAYER}.seek({PLAYER}.length / 2)")
    halves = opened.evaluate(f"{PLAYER}.videos.map((video) => video.currentTime / video.duration)")
    assert halves == pytest.approx([0.5, 0.5], abs=0.01)


def test_both_pictures_are_overlaid_zoomed_and_measured(opened: "Page") -> None:
    tab = opened
    tab.emulate_media(reduced_motion="reduce")
    tab.evaluate(STOPPED, 0.5)
    one, two = tab.locator(".picture").all()

    def pixels() -> np.ndarray:
        with Image.open(io.BytesIO(one.screenshot())) as shot:
            return np.asarray(shot.convert("RGB"), np.int16)[2:-2]  # without the border

    tab.keyboard.press("v")
    assert one.bounding_box() == two.bounding_box()
    opacity = tab.get_by_label("Opacity of Video 2")
    opacity.fill("0")
    first = pixels()
    opacity.fill("0.5")
    half = pixels()
    tab.keyboard.down("y")
    second = pixels()
    tab.keyboard.up("y")
    assert np.array_equal(pixels(), half)
    tab.get_by_role("button", name="Difference").click()
    assert np.abs(first - second).mean() > 5
    # Colours are rounded twice.
    assert np.abs(half - (first + second) / 2).max() <= 2
    assert (np.abs(pixels() - np.abs(first - second)) <= 2).mean() > 0.9999
    tab.keyboard.press("v")

    ends = (
        "(video) => { const {x, y, width} = video.getBoundingClientRect(); return [x, y, width]; }"
    )
    before = tab.locator("video").first.evaluate(ends)
    for picture in (one, two):
        box = picture.bounding_box()
        assert box is not None
        tab.keyboard.press("+")
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 60, box["y"] + 90, steps=4)
    tab.mouse.up()
    after = tab.locator("video").first.evaluate(ends)
    assert after[2] == pytest.approx(before[2] * 1.25**2, rel=1e-3)
    width, height = box["width"], box["height"]
    middle = (1.25**2 - 1) / 2
    assert [after[0] - before[0], after[1] - before[1]] == pytest.approx(
        [-middle * width - 40, -middle * height - 10], abs=1
    )

    tab.keyboard.press("r")
    video = tab.locator("video").nth(1)
    drawn = tab.locator(".measures").nth(1).bounding_box()
    natural = video.evaluate("(video) => [video.videoWidth, video.videoHeight]")
    assert drawn is not None
    shown = min(drawn["width"] / natural[0], drawn["height"] / natural[1])
    x, y = box["x"] + width / 2, box["y"] + height / 2
    tab.mouse.click(x, y - 50)
    tab.mouse.click(x, y)
    said = tab.locator("#measured").text_content()
    assert said is not None and f"length {50 / shown:.0f} px" in said
    tab.mouse.click(x + 50, y + 50 / 3**0.5)
    said = tab.locator("#measured").text_content()
    assert said is not None and said.startswith("Video 2 at 0:00.50: angle ")
    angle = said.rpartition(" ")[2]
    assert float(angle.removesuffix("°")) == pytest.approx(120, abs=1)  # of whole pixels
    tab.get_by_role("button", name="Note of it").click()
    assert tab.get_by_label("Text of the note").input_value() == f"angle {angle}"
    assert tab.get_by_role("radio", name="Video 2").is_checked()
    tab.keyboard.press("Escape")

    tab.locator(".measures").first.focus()
    for pressed in ["Enter", *["ArrowRight"] * 5, "Enter", "Shift+ArrowDown", "Enter"]:
        tab.keyboard.press(pressed)
    assert tab.locator("#measured").text_content() == "Video 1 at 0:00.50: angle 90.0°"
    tab.keyboard.press("Escape")
    assert tab.locator("#measured").text_content() == ""
    tab.get_by_role("button", name="1.6×").click()
    assert tab.locator("video").first.evaluate(ends) == pytest.approx(before)


@pytest.fixture(scope="module")
def alignment(world: Path) -> Alignment:
    """The two clips of different videos whose alignment is least like stretching one of them."""
    store = Store.open(world / "features")
    view, frame = (
        store.view("clips", "efficientnet-lite0"),
        store.catalog("clips").frame(["key", "video"]),
    )
    clips = [(video, read_moments(view, key)) for key, video in frame.iter_rows()]
    aligned = [
        align(one, two) for (video, one), (other, two) in permutations(clips, 2) if video != other
    ]

    def unlike_stretching(alignment: Alignment) -> float:
        (one, two), times = (
            (alignment.first.seconds, alignment.second.seconds),
            np.linspace(0, 1, 50),
        )
        warp = alignment.warp(one[0] + times * (one[-1] - one[0]))
        return float(np.abs(warp - two[0] - times * (two[-1] - two[0])).max())

    most = max(aligned, key=unlike_stretching)
    assert unlike_stretching(most) > 0.5
    return most


FOLLOWED = """async (most) => {
  const {player} = document.querySelector("[data-player]"), [a, b] = player.videos, times = [];
  let loops = 0, before = 0;
  while (loops < most || times.length < 50) {
    await new Promise(requestAnimationFrame);
    if (player.time < before - 1) loops++;
    before = player.time;
    if ([a, b].some((video) => video.paused || video.ended || video.seeking)) continue;
    times.push([a.currentTime, b.currentTime]);
  }
  return times;
}"""
"""plays until both clips began again so often; returns the times of both clips while both play"""


def test_video_2_follows_the_alignment_within_a_frame(
    serve: Callable[..., Server], tab: "Page", alignment: Alignment
) -> None:
    first, second = alignment.first, alignment.second
    tab.goto(f"{serve().url}/pair?reference={first.clip}&candidate={second.clip}")
    tab.locator("[data-costs] rect").first.wait_for()
    assert tab.locator("[data-ribbon] svg > line").count() == len(alignment.path)
    spans = len(alignment.only_first) + len(alignment.only_second)
    assert tab.locator("[data-ribbon] rect").count() == spans
    assert tab.locator("[data-costs] rect").count() == len(first.seconds)
    tab.wait_for_function(f"() => {PLAYER}.playing")
    tab.keyboard.press("w")
    assert tab.get_by_role("button", name="Warp").get_attribute("aria-pressed") == "true"
    times, other = np.array(tab.evaluate(FOLLOWED, 2)).T
    apart = np.abs(alignment.warp(first.seconds[0] + times) - second.seconds[0] - other)
    assert np.median(apart) < 1 / 12, "a frame of the sample world"
    tab.keyboard.press("Space")
    strip = tab.get_by_role("slider", name="Place in Video 1")
    strip.click(position={"x": strip.bounding_box()["width"] * 0.5, "y": 5})  # type: ignore[index]
    time, place = tab.evaluate(f"[{PLAYER}.time, {PLAYER}.videos[1].currentTime]")
    assert place == pytest.approx(
        alignment.warp(first.seconds[0] + time) - second.seconds[0], abs=0.01
    )


def test_a_clip_is_moved_alone_and_both_loop_where_set(opened: "Page") -> None:
    opened.keyboard.press("Space")
    opened.evaluate(f"{PLAYER}.seek(1)")
    strip = opened.get_by_role("slider", name="Place in Video 2")
    box, length = strip.bounding_box(), opened.evaluate(f"{PLAYER}.videos[1].duration")
    for part in (0.6, 0.1):  # later and earlier than Video 1, which has no time before its begin
        strip.click(modifiers=["Shift"], position={"x": box["width"] * part, ("y"): 5})  # type: ignore[index]
        times = opened.evaluate(f"{PLAYER}.videos.map((video) => video.currentTime)")
        assert times == pytest.approx([1, length * part], abs=0.03)
    opened.keyboard.press("o")
    assert opened.evaluate(f"{PLAYER}.time") == 0
    assert opened.evaluate(f"{PLAYER}.videos.map((video) => video.currentTime)") == times
    offsets = [
        float(field.input_value()) for field in opened.get_by_label("begins at, in seconds").all()
    ]
    assert offsets == pytest.approx(times, abs=0.01)
    for time, name in ((0.3, "i"), (0.9, "u")):
        opened.evaluate(f"{PLAYER}.seek({time})")
        opened.keyboard.press(name)
    opened.keyboard.press("Space")
    played = [
        opened.evaluate(f"new Promise(requestAnimationFrame).then(() => {PLAYER}.time)")
        for _ in range(40)
    ]
    assert (
        0.29 < min(played)
        and max(played) < 1.2
        and any(after < before for before, after in pairwise(played))
    )
    opened.keyboard.press("Space")
    opened.keyboard.press("0")
    assert opened.evaluate(f"[{PLAYER}.offsets, {PLAYER}.ranges]") == [
        [0, 0],
        [[None, None], [None, None]],
    ]


PLAYED = """async (frames) => {
  const {player} = document.querySelector("[data-player]"), shown = [];
  while (shown.length < frames || player.time > player.begin + 0.3) {
    await new Promise(requestAnimationFrame);
    if (player.videos.some((video) => video.seeking)) continue;
    shown.push([player.time, ...player.videos.map((video) => video.currentTime)]);
  }
  return shown;
}"""
"""[clock, time of Video 1, time of Video 2] of pictures, to the begin of a loop"""


def test_loop_warp_and_address_obey_in_and_out_of_each_clip(opened: "Page") -> None:
    """With the keyboard alone."""
    times = f"{PLAYER}.videos.map((video) => video.currentTime)"

    def press(video: int, name: str, clock: float) -> None:
        opened.evaluate(f"{PLAYER}.seek({clock})")
        opened.get_by_role("group", name=f"In, out and begin of Video {video}").get_by_role(
            "button", name=name
        ).focus()
        opened.keyboard.press("Enter")

    opened.keyboard.press("Space")
    press(1, "In", 0.4)
    # one is for both
    assert opened.evaluate(f"[{PLAYER}.begin, {PLAYER}.offsets]") == [0.4, [0, 0]]
    press(2, "In", 1.0)
    assert opened.evaluate(times) == pytest.approx([0.4, 1.0], abs=0.002), "both begin together"
    press(1, "Out", 0.8)
    press(2, "Out", 1.6)
    shown = (
        opened.get_by_role("group", name="In, out and begin of Video 2")
        .get_by_role("button")
        .all_inner_texts()
    )
    assert shown == ["In 1.00", "Out 2.20"]
    for video, words in ((1, "0.4,0.8"), (2, "1,2.2")):
        ends = [opened.evaluate(f"{PLAYER}.ranges[{video - 1}][{end}]") for end in (0, 1)]
        assert ends == pytest.approx([float(each) for each in words.split(",")], abs=0.002)
    opened.keyboard.press("Escape")
    for warped in (False, True):
        if warped:
            opened.keyboard.press("w")
        opened.evaluate(f"{PLAYER}.seek({PLAYER}.begin); {PLAYER}.play()")
        clock, one, two = np.array(opened.evaluate(PLAYED, 100)).T
        assert one.min() > 0.35 and two.min() > 0.95
        # A picture may be past the point where the browser draws few: it is held in the next one.
        assert np.quantile(one, 0.8) < 0.85 and np.quantile(two, 0.9) < 2.25, (
            "a clip goes on after its out point"
        )
        if not warped:
            assert np.median(one[clock > 1.1]) == pytest.approx(0.8, abs=0.002), (
                "Video 1 waits for Video 2"
            )
        opened.evaluate(f"{PLAYER}.pause()")
    opened.keyboard.press("w")
    opened.evaluate(f"{PLAYER}.seek(0.5)")
    opened.wait_for_url("**time=0.5*")
    ranges = opened.evaluate(f"{PLAYER}.ranges")
    opened.reload()
    opened.wait_for_function(f"() => {READY} && {PLAYER}.time > 0")
    assert np.array(opened.evaluate(f"{PLAYER}.ranges")) == pytest.approx(
        np.array(ranges), abs=0.001
    )
    offsets, before = opened.evaluate(f"{PLAYER}.offsets"), opened.evaluate(times)
    opened.keyboard.press("x")
    opened.wait_for_function(f"() => {READY} && {PLAYER}.ranges[0][1] > 2 && {PLAYER}.time > 0")
    assert np.array(opened.evaluate(f"{PLAYER}.ranges")) == pytest.approx(
        np.array(ranges[::-1]), abs=0.001
    )
    assert opened.evaluate(f"{PLAYER}.offsets") == pytest.approx(offsets[::-1], abs=0.001)
    assert opened.evaluate(times) == pytest.approx(before[::-1], abs=0.002)
    opened.keyboard.press("i")
    opened.keyboard.press("i")  # the second time takes it back
    assert opened.evaluate(f"{PLAYER}.ranges.map(([first]) => first)") == [None, None]


def test_the_address_opens_what_another_person_sees(opened: "Page", browser: "Browser") -> None:
    opened.wait_for_function(f"() => {PLAYER}.alignment")
    opened.keyboard.press("Space")
    opened.get_by_label("Video 2 begins at").fill("0.25")
    opened.keyboard.press("Enter")
    opened.keyboard.press("Escape")
    for pressed in ("[", "l", "w"):
        opened.keyboard.press(pressed)
    for time, pressed in ((0.5, "i"), (1.5, "u")):
        opened.evaluate(f"{PLAYER}.seek({time})")
        opened.keyboard.press(pressed)
    opened.evaluate(f"{PLAYER}.seek(1.25)")
    opened.wait_for_url("**time=1.25*")
    times = f"{PLAYER}.videos.map((video) => video.currentTime)"
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(opened.url)
        page.wait_for_function(f"() => {READY} && {PLAYER}.alignment && {PLAYER}.time > 0")
        state, other = (each.evaluate(f"{PLAYER}.state") for each in (page, opened))
        assert np.array(state.pop("ranges")) == pytest.approx(
            np.array(other.pop("ranges")), abs=0.001
        )
        assert state == other
        assert (
            state["speed"] == 0.5
            and state["warped"]
            and not state["looping"]
            and state["offsets"] == [0, 0.25]
        )
        assert page.evaluate(times) == pytest.approx(opened.evaluate(times), abs=0.002)
        page.goto(
            opened.url.replace("time=1.25", "time=x")
            .replace("in=0.5", "in=-1")
            .replace("speed=0.5", "speed=9")
        )
        page.wait_for_function(f"() => {PLAYER}.playing")
        assert page.evaluate(f"[{PLAYER}.speed, {PLAYER}.ranges[0]]") == [1, [None, 1.5]]


def test_space_plays_after_a_click_and_reduced_motion_pauses(opened: "Page") -> None:
    opened.get_by_role("button", name="Loop").click()
    opened.keyboard.press("Space")
    assert opened.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, False]
    # as with the tab key: the button has its own space
    opened.get_by_role("button", name="Loop").focus()
    opened.keyboard.press("Space")
    assert opened.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, True]
    opened.emulate_media(reduced_motion="reduce")
    opened.reload()
    opened.wait_for_function(f"() => {READY} && {PLAYER}.length > 0")
    assert not opened.evaluate(f"{PLAYER}.playing || {PLAYER}.wanted")


def test_a_clip_that_cannot_be_shown_gives_its_reason(
    world: Path, browser: "Browser", tmp_path: Path
) -> None:
    """One video is gone, one is cut short, and one breaks off before the clip, which is found when
    it is cut."""
    clips = Store.open(world / "features").catalog("clips").frame()
    gone, short, early, there = (
        clips.filter(pl.col("video") == name) for name in clips["video"].unique().sort()[:4]
    )
    (tmp_path / "features").symlink_to(world / "features")
    shutil.copytree(world / "kitchen/videos", tmp_path / "kitchen/videos")
    paths = [tmp_path / "kitchen" / one["video"][0] for one in (gone, short, early)]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-9000])
    index_first(paths[2])
    paths[2].write_bytes(paths[2].read_bytes()[:100_000])
    reasons = [
        " is not a file in the folder of videos",
        f"{paths[1]} is cut short",
        " has no frame ",
    ]
    first, last = ([one["key"][at] for one in (gone, short, early)] for at in (0, -1))
    cases = [*zip([first[0], first[1], last[2]], reasons, map(str, paths), strict=True)]
    for videos in (None, ""):
        server = Server(tmp_path, tmp_path / "cache", videos=videos)
        try:
            for key, reason, path in (
                cases if videos is None else [(first[0], "--videos FOLDER", gone["video"][0])]
            ):
                with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
                    page = context.new_page()
                    errors: list[object] = []
                    page.on("pageerror", lambda error, errors=errors: errors.append(error))
                    page.goto(f"{server.url}/pair?reference={key}&candidate={there['key'][0]}")
                    hint = page.locator(".screen.one .hint")
                    hint.get_by_text(reason).wait_for()
                    assert path in hint.inner_text()
                    assert (
                        not page.locator(".screen.one :is(video, img)").filter(visible=True).count()
                    )
                    if videos is None:
                        page.wait_for_function(
                            f"() => {PLAYER}.playing && {PLAYER}.videos[1].currentTime > 0.1"
                        )
                        page.get_by_role("button", name="Pause").click()
                    page.get_by_role("button", name="Loop").click()
                    assert (
                        page.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, False]
                        and not errors
                    )
        finally:
            server.kill()


def index_first(path: Path) -> None:
    """Write a video again with its index before its pictures, so that a part of the file can be
    opened."""
    whole = path.with_suffix(".whole.mp4")
    path.rename(whole)
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole.unlink()


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_of_a_comparison_plays_and_prints(
    world: Path, tab: "Page", tmp_path: Path, width: int
) -> None:
    one, two = (
        read_clip(f"{world}/kitchen/videos/kitchen_000{number}.mp4@0.5-3") for number in (0, 1)
    )
    said = [Difference("Tools/Equipment", "In Video 2, a fork, and a red pan.", -1.0, "")]
    moments = [Moment(2, "red pan", 9.1, 8.8, (2.0,))]
    clearest = {"fork": (None, 1.5), "red pan": (1.0, 2.0)}
    only: tuple[list[Span], list[Span]] = ([(0.5, 1.0)], [])
    write_report(
        tmp_path / "page.html", Comparison((one, two), "words", said, moments, 0.5, clearest, only)
    )
    tab.set_viewport_size({"width": width, "height": 844})
    tab.goto(f"file://{tmp_path}/page.html")
    tab.wait_for_function(
        f"() => {PLAYER}.playing && {PLAYER}.videos.every((video) => video.currentTime > 0.2)"
    )
    boxes = [video.bounding_box() for video in tab.locator("video").all()]
    assert (
        boxes[0]
        and boxes[1]
        and boxes[0]["y"] == boxes[1]["y"]
        and boxes[1]["x"] + boxes[1]["width"] <= width
    )
    tab.evaluate(f"{PLAYER}.seek({PLAYER}.length - 0.2)")
    tab.wait_for_function(f"() => {PLAYER}.playing && {PLAYER}.time < 1")
    tab.keyboard.press("Space")
    before = tab.evaluate(f"{PLAYER}.time")
    tab.keyboard.press(".")
    assert 0 < tab.evaluate(f"{PLAYER}.time") - before <= 1.5 / 12
    times = f"{PLAYER}.videos.map((video) => video.currentTime)"
    # a word of one clip leaves both in step
    for word, shown in (("fork", [1.0, 1.0]), ("red pan", [0.5, 1.5])):
        tab.get_by_role("link", name=word).click()
        assert tab.evaluate(times) == pytest.approx(shown, abs=0.01)
    findings = serious_findings(tab, ("moderate", "serious", "critical"))
    assert findings == {} and tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator("main").evaluate("(main) => (main.style.paddingBottom = '2000px')")
    tab.evaluate("scrollTo(0, 1500)")
    tab.locator(".stage.small").wait_for()  # the reader prints from the end of the page
    top = tab.evaluate("scrollY")
    tab.get_by_role("link", name="fork").evaluate("(word) => word.click()")
    assert tab.evaluate("scrollY") == top, "the small player is in sight"
    tab.emulate_media(media="print")
    assert tab.locator(".stage").evaluate("(stage) => getComputedStyle(stage).position") == "static"
    stage, room, words = (
        tab.locator(part).first.bounding_box() for part in (".stage", ":has(> .stage)", "main h2")
    )
    assert stage and room and words and stage["y"] + stage["height"] <= words["y"]
    assert room["height"] == pytest.approx(stage["height"], abs=1), "an empty block"
    shown = [
        tab.locator(f".screen :is({kind})").filter(visible=True).count()
        for kind in ("img", "video, button")
    ]
    assert shown == [2, 0]


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
}
FILES = ("audit",)
SMALLEST = """() => Math.min(...[...document.querySelectorAll(".points :is(button, input)")]
  .map((each) => each.getBoundingClientRect().height))"""
BROKEN = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const unseen = element.closest("code, script, option, .visually-hidden, .unseen");
    if (!element.checkVisibility() || unseen) continue;
    for (const {0: word, index} of node.data.matchAll(/\\p{L}{2,20}/gu)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (lines.size > 1) found.push(word);
    }
  }
  return found;
}"""
"""the words of up to 20 letters that the page shows on more than one line"""


@pytest.fixture(scope="module")
def site(
    serve: Callable[..., Server], world: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The address of each page."""
    folder = tmp_path_factory.mktemp("answers")
    store, videos = world / "features", world / "kitchen"
    clips = Store.open(store).catalog("clips").frame()["key"].to_list()
    for task in ("diffcap", "diffmcq", "diffrank"):
        rows = random_rows(task, 6, clips=clips)
        for seed, name in enumerate(("one", "two")):
            write(folder, f"{task}_{name}", task, rows, guesses(task, rows, seed), control="none")
    task = write_task(folder / "task", [(clips[0], clips[1])])
    write_words(world, folder / "runs" / "words")
    url = serve(
        "--predictions", str(folder), "--annotate", str(task), "--runs", str(folder / "runs")
    ).url
    assert audit.main(
        [str(videos / "pairqa_train.jsonl"), "--out", str(folder / "audit.html"), "--samples", "6"]
        + ["--store", str(store), "--videos", str(videos)]
    ) in (0, 1)
    return {
        name: url + address.format(*clips) for name, address in PAGES.items() if name not in FILES
    } | {name: f"file://{folder / name}.html" for name in FILES}


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "dark"), ("phone", "light")])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_finding(
    site: dict[str, str], browser: "Browser", name: str, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    with browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme
    ) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(site[name])
        if name == "open row":
            page.locator("[data-row]").first.click()
            page.locator("#drawer").wait_for()
        if name == "pair":
            assert page.evaluate(SMALLEST) >= 24, "a target is less than 24 pixels high"
            page.locator("#words a").first.click()
            page.locator(".tracks .moment").first.wait_for()
            page.keyboard.press("n")
            page.get_by_label("Text of the note").wait_for()
        if name == "annotate":
            page.get_by_role("textbox").first.fill("Ann")
            page.keyboard.press("Enter")
            page.locator(".annotate").wait_for()
        page.locator("main").wait_for()
        page.wait_for_load_state("load")
        assert serious_findings(page) == {}
        if name == "compare" and size == "desktop":
            page.set_viewport_size({"width": 1024, "height": height})
            names = [method.bounding_box() for method in page.locator(".method").all()]
            assert min(box["width"] for box in names if box) > 160, "a column of 15 characters"
            page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            "the page is wider than its window"
        )
        assert page.evaluate(BROKEN) == []


DEMO = os.environ.get("DEMO")
SHOWN = """() => document.fonts.status === "loaded"
  && [...document.images].every((image) => image.complete || image.loading === "lazy")
  && [...document.querySelectorAll("video")].every(
    (video) => video.preload === "none" || video.readyState > 1 || video.error
  )"""
"""whether everything that the page shows is there"""


@pytest.fixture(scope="module")
def shot_data(world: Path) -> Path:
    """The folder with `kitchen` and `features`."""
    return world if DEMO is None else Path(DEMO).resolve() / "data"


@pytest.fixture(scope="module")
def shot_pair(shot_data: Path) -> tuple[str, str]:
    """Two clips of one step."""
    clips = Store.open(shot_data / "features").catalog("clips").frame(["key", "step"])
    of_step = clips.filter(pl.col("step") == "whisk the eggs")["key"]
    return of_step[2], of_step[5]


@pytest.fixture(scope="module")
def shot_url(
    shot_data: Path, shot_pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server with everything that can be shown."""
    folder = tmp_path_factory.mktemp("shown")
    predictions = shot_data / "demo"
    if DEMO is None:
        predictions = folder
        clips = Store.open(shot_data / "features").catalog("clips").frame(["key"])["key"].to_list()
        for seed, name in enumerate(("one", "two")):
            rows = random_rows("diffmcq", 6, clips=clips)
            write(
                folder,
                f"diffmcq_{name}",
                "diffmcq",
                rows,
                guesses("diffmcq", rows, seed),
                control="none",
            )
    options = [
        "--predictions",
        str(predictions),
        "--annotate",
        str(write_task(folder / "task", [shot_pair])),
    ]
    options += [] if DEMO is None else ["--runs", str(shot_data.parent / "runs")]
    server = Server(shot_data, folder / "cache", *options)
    yield server.url
    server.kill()


@pytest.fixture
def shoot(browser: "Browser", shot_url: str, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return a function that opens a page, lets `ready` act on it, and writes its picture."""
    folder = tmp_path if DEMO is None else ROOT / "docs" / "pages"
    with browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="light"
    ) as context:
        page = context.new_page()

        def take(name: str, path: str, ready: Callable[["Page"], object]) -> None:
            page.goto(shot_url + path)
            ready(page)
            page.wait_for_function(SHOWN)
            folder.mkdir(exist_ok=True)
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=82)
            with Image.open(folder / f"{name}.jpg") as picture:
                assert picture.size == (1280, 800)
                assert len(np.unique(picture.convert("L").resize((64, 40)))) > 20, (
                    "the page is empty"
                )

        yield take


def test_picture_of_explore(shoot: Callable[..., None], shot_pair: tuple[str, str]) -> None:
    def ready(page: "Page") -> None:
        page.get_by_text("of the variance").wait_for(timeout=60_000)
        shown = (
            "() => [...document.querySelectorAll('.explore-tile img')].slice(0, 16).every((each) "
            "=> each.naturalWidth)"
        )
        page.wait_for_function(shown, timeout=60_000)

    shoot("explore", "/explore", ready)


def test_picture_of_compare(shoot: Callable[..., None]) -> None:
    shoot(
        "compare",
        "/compare/diffmcq?strips=1",
        lambda page: page.locator("[data-row]").first.wait_for(),
    )


def test_picture_of_annotate(shoot: Callable[..., None]) -> None:
    def ready(page: "Page") -> None:
        page.get_by_role("textbox").first.fill("Ann")
        page.keyboard.press("Enter")
        page.get_by_text("very different").first.wait_for()

    shoot("annotate", "/annotate", ready)
