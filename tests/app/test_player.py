"""Two clips under one clock, in a real browser."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from store import Store
from tests.app.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
    """The page of the pair, with both clips loaded."""
    tab.goto(f"{serve().url}/pair?reference={pair[0]}&candidate={pair[1]}")
    tab.wait_for_function("() => document.querySelector('[data-player]').player.length > 0")
    return tab


def test_two_clips_stay_within_50_ms_of_each_other_for_a_loop(opened: "Page") -> None:
    found = opened.evaluate(DRIFT, 9)
    assert found["loops"] >= 1 and found["frames"] > 50
    assert found["most"] < 0.05


def test_keys_play_step_and_change_speed(opened: "Page") -> None:
    opened.wait_for_function(f"() => {PLAYER}.playing")
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
