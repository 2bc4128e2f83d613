"""Two clips under one clock, in a real browser."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import polars as pl
import pytest

from store import Store
from tests.app.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLAYER = "document.querySelector('[data-player]').player"
FRAMES = """async (steps) => {
  const {player} = document.querySelector("[data-player]"), [video] = player.videos;
  const frame = () => new Promise((found) => video.requestVideoFrameCallback((_, data) => found(data.mediaTime)));
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
DRIFT = """async (seconds) => {
  const {player} = document.querySelector("[data-player]"), [a, b] = player.videos, apart = [];
  let loops = 0, before = 0;
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    await new Promise(requestAnimationFrame);
    if (player.time < before - 1) loops++;
    before = player.time;
    if ([a, b].some((video) => video.paused || video.ended || video.seeking)) continue;
    apart.push(Math.abs(a.currentTime - b.currentTime));
  }
  return {loops, frames: apart.length, most: Math.max(...apart)};
}"""


@pytest.fixture(scope="module")
def pair(world: Path) -> list[str]:
    """Two clips of one step with different lengths."""
    clips = Store.open(world / "features").catalog("clips").frame().filter(pl.col("step") == "whisk the eggs")
    clips = clips.with_columns(length=pl.col("end") - pl.col("start")).sort("length")
    return [clips["key"][0], clips["key"][-1]]


@pytest.fixture
def opened(serve: Callable[..., Server], tab: "Page", pair: list[str]) -> "Page":
    """The page of the pair, while both clips play: their first frames are shown, which tells where frames begin."""
    tab.goto(f"{serve().url}/pair?reference={pair[0]}&candidate={pair[1]}")
    tab.wait_for_function(f"() => {PLAYER}.playing && {PLAYER}.videos.every((video) => video.phase !== undefined)")
    return tab


def test_two_clips_stay_within_50_ms_of_each_other_for_a_loop(opened: "Page") -> None:
    found = opened.evaluate(DRIFT, 9)
    assert found["loops"] >= 1 and found["frames"] > 50
    assert found["most"] < 0.05


def test_keys_play_step_and_change_speed(opened: "Page") -> None:
    opened.keyboard.press("Space")
    assert not opened.evaluate(f"{PLAYER}.playing")
    opened.keyboard.press(".")
    assert opened.evaluate(f"{PLAYER}.videos.map((video) => video.paused)") == [True, True]
    opened.keyboard.press("]")
    assert opened.evaluate(f"{PLAYER}.videos.map((video) => video.playbackRate)") == [2, 2]
    opened.keyboard.press("?")
    assert opened.get_by_role("dialog").get_by_text("one frame back").is_visible()


def test_a_frame_step_shows_the_next_frame_of_the_video(opened: "Page") -> None:
    rate = opened.evaluate("Number(document.querySelector('video').dataset.rate)")
    assert rate == 12  # of the sample world
    opened.keyboard.press("Space")
    times = opened.evaluate(FRAMES, [1, 1, 1, -1, -1, 1])
    moves = [(after - before) * rate for before, after in pairwise(times)]
    assert moves == pytest.approx([1, 1, 1, -1, -1, 1], abs=0.02)


def test_a_frame_step_follows_a_clip_that_begins_between_two_frames(opened: "Page") -> None:
    opened.keyboard.press("Space")
    opened.evaluate(f"{PLAYER}.seek(1)")
    opened.evaluate(f"{PLAYER}.videos.forEach((video) => (video.phase = 0.03))")
    opened.keyboard.press(".")
    assert opened.evaluate(f"{PLAYER}.time") == pytest.approx(0.03 + (11 + 1 + 0.5) / 12)


def test_a_filmstrip_has_a_marker_and_seeks(opened: "Page") -> None:
    strip = opened.get_by_role("slider", name="Place in Video 2")
    strip.click(position={"x": strip.bounding_box()["width"] * 0.5, "y": 5})  # type: ignore[index]
    assert not opened.evaluate(f"{PLAYER}.playing")
    place = opened.evaluate(f"{PLAYER}.time / {PLAYER}.videos[1].duration")
    assert place == pytest.approx(0.5, abs=0.02)
    assert strip.get_attribute("aria-valuenow") == "50"
    left = opened.evaluate("document.querySelectorAll('.marker')[1].style.left")
    assert float(left.removesuffix("%")) == pytest.approx(50, abs=2)


def test_clips_of_equal_length_end_together(opened: "Page") -> None:
    opened.keyboard.press("Space")
    opened.keyboard.press("e")
    opened.evaluate(f"{PLAYER}.seek({PLAYER}.length / 2)")
    halves = opened.evaluate(f"{PLAYER}.videos.map((video) => video.currentTime / video.duration)")
    assert halves == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_click_leaves_space_to_the_player_and_reduced_motion_leaves_it_paused(opened: "Page") -> None:
    opened.get_by_role("button", name="Loop").click()
    opened.keyboard.press("Space")
    assert opened.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, False]
    opened.get_by_role("button", name="Loop").focus()  # as with the tab key: the button has its own space
    opened.keyboard.press("Space")
    assert opened.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, True]
    opened.emulate_media(reduced_motion="reduce")
    opened.reload()
    opened.wait_for_function(f"() => {PLAYER}.ready && {PLAYER}.length > 0")
    opened.wait_for_timeout(300)
    assert not opened.evaluate(f"{PLAYER}.playing || {PLAYER}.wanted")


def test_a_clip_that_cannot_be_shown_gives_its_reason_and_the_other_one_plays(
    world: Path, browser: "Browser", tmp_path: Path
) -> None:
    """One video is gone, one is cut short, and one breaks off before the clip, which is found when it is cut."""
    clips = Store.open(world / "features").catalog("clips").frame()
    gone, short, early, there = (clips.filter(pl.col("video") == name) for name in clips["video"].unique().sort()[:4])
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
            for key, reason, path in cases if videos is None else [(first[0], "--videos FOLDER", gone["video"][0])]:
                with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
                    page = context.new_page()
                    errors: list[object] = []
                    page.on("pageerror", lambda error, errors=errors: errors.append(error))
                    page.goto(f"{server.url}/pair?reference={key}&candidate={there['key'][0]}")
                    hint = page.locator(".screen.one .hint")
                    hint.get_by_text(reason).wait_for()
                    assert path in hint.inner_text()
                    assert not page.locator(".screen.one :is(video, img)").filter(visible=True).count()
                    if videos is None:
                        page.wait_for_function(f"() => {PLAYER}.playing && {PLAYER}.videos[1].currentTime > 0.1")
                        page.get_by_role("button", name="Pause").click()
                    page.get_by_role("button", name="Loop").click()
                    assert page.evaluate(f"[{PLAYER}.playing, {PLAYER}.looping]") == [False, False] and not errors
        finally:
            server.kill()


def index_first(path: Path) -> None:
    """Write a video again with its index before its pictures, so that a part of the file can be opened."""
    whole = path.with_suffix(".whole.mp4")
    path.rename(whole)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole.unlink()
