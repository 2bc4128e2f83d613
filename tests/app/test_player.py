"""Two clips under one clock, in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from store import Store
from tests.app.conftest import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
    tab.wait_for_function("document.querySelector('[data-player]').player.length > 0")
    return tab


def test_two_clips_stay_within_50_ms_of_each_other_for_a_loop(opened: "Page") -> None:
    found = opened.evaluate(DRIFT, 9)
    assert found["loops"] >= 1 and found["frames"] > 50
    assert found["most"] < 0.05


def test_keys_play_step_and_change_speed(opened: "Page") -> None:
    player = "document.querySelector('[data-player]').player"
    opened.wait_for_function(f"{player}.playing")
    opened.keyboard.press("Space")
    assert not opened.evaluate(f"{player}.playing")
    before = opened.evaluate(f"{player}.time")
    opened.keyboard.press(".")
    assert opened.evaluate(f"{player}.time") == pytest.approx(min(before + 0.04, opened.evaluate(f"{player}.length")))
    assert opened.evaluate(f"{player}.videos.map((video) => video.paused)") == [True, True]
    opened.keyboard.press("]")
    assert opened.evaluate(f"{player}.videos.map((video) => video.playbackRate)") == [2, 2]
    opened.keyboard.press("?")
    assert opened.get_by_role("dialog").get_by_text("one frame back").is_visible()


def test_clips_of_equal_length_end_together(opened: "Page") -> None:
    player = "document.querySelector('[data-player]').player"
    opened.keyboard.press("Space")
    opened.keyboard.press("e")
    opened.evaluate(f"{player}.seek({player}.length / 2)")
    halves = opened.evaluate(f"{player}.videos.map((video) => video.currentTime / video.duration)")
    assert halves == pytest.approx([0.5, 0.5], abs=0.01)
