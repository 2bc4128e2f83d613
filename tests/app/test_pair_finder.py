"""The search for pairs against a naive one, and the pages of a pair in a browser: app.pair.finder."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import polars as pl
import pytest

from app.pair import finder as finder_module
from app.pair.alike import MOST_KEPT, Kept, KeptOdds
from app.pair.clips import columns, shown
from app.pair.finder import TIMES, Finder, Result, Search, chosen
from app.pair.loading import RunHead
from app.pair.stored import Stored
from app.site import Site, UnknownError
from tests.app.conftest import Server
from tests.app.pair_made import write_runs

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEW = "efficientnet-lite0"


@pytest.fixture(scope="module")
def made(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of runs and of predictions."""
    return write_runs(world, tiny_lm, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def site(world: Path, tmp_path: Path) -> Site:
    return Site.open(str(world / "features"), str(world / "kitchen"), cache=str(tmp_path))


@pytest.fixture
def finder(site: Site) -> Finder:
    return Finder(site, Stored(site), Kept(MOST_KEPT))


def naive(site: Site, step: str) -> list[tuple[float, frozenset[str]]]:
    """Return all pairs of a step with their cosine, the most different first."""
    clips = site.store.catalog("clips").frame().filter(pl.col("step") == step)
    vectors = site.store.view("clips", VIEW).read("embedding", keys=clips["key"].to_list(), dtype="float32")
    found = []
    for one, other in combinations(range(len(clips)), 2):
        if clips["video"][one] != clips["video"][other]:
            cosine = vectors[one] @ vectors[other] / np.linalg.norm(vectors[one]) / np.linalg.norm(vectors[other])
            found.append((float(cosine), frozenset((clips["key"][one], clips["key"][other]))))
    return sorted(found, key=lambda pair: pair[0])


def sets(result: Result) -> list[frozenset[str]]:
    return [frozenset((pair.reference, pair.candidate)) for pair in result.pairs]


@pytest.mark.parametrize("order", ["different", "alike"])
def test_the_pairs_of_a_small_step_are_those_of_a_comparison_of_all_its_pairs(
    site: Site, finder: Finder, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder_module, "TIMES", 100)
    result = finder.search(Search("whisk the eggs", order=order, by=f"cosine:{VIEW}"), [])  # type: ignore[arg-type]
    expected = naive(site, "whisk the eggs")[:: 1 if order == "different" else -1][: len(result.pairs)]
    assert len(expected) > 10 and sets(result) == [pair for _, pair in expected]
    assert [pair.score for pair in result.pairs] == pytest.approx([cosine for cosine, _ in expected], abs=1e-6)
    assert result.note.startswith(f"{len(naive(site, 'whisk the eggs'))} pairs of all 12 clips")


def test_a_clip_is_not_more_often_in_a_list_than_stated() -> None:
    pairs = list(combinations(range(9), 2))
    scores = np.random.default_rng(0).random(len(pairs))
    for highest in (False, True):
        found = [pairs[place] for place in chosen(pairs, scores, highest)]
        assert max(np.bincount(np.array(found).reshape(-1))) == TIMES
        best = int(np.argmax(scores) if highest else np.argmin(scores))
        assert found[0] == pairs[best]


def test_two_clips_of_one_video_are_no_pair(site: Site, finder: Finder) -> None:
    videos = dict(site.store.catalog("clips").frame().select("row", "video").iter_rows())
    pairs, _ = finder.candidates("", VIEW)
    assert len(pairs) and all(videos[one] != videos[other] for one, other in pairs.tolist())
    steps = dict(site.store.catalog("clips").frame().select("row", "step").iter_rows())
    assert all(steps[one] == steps[other] for one, other in pairs.tolist())


def test_of_large_steps_and_catalogs_a_sample_is_compared_and_the_note_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder_module, "MOST_CLIPS", 6)
    monkeypatch.setattr(finder_module, "MOST_SCORED", 4)
    found = Finder(site, Stored(site), Kept(MOST_KEPT))
    pairs, note = found.candidates("whisk the eggs", VIEW)
    assert len(np.unique(pairs)) <= 6 and "6 clips of 12, drawn at random" in note
    scored, note = found.scored_pairs("whisk the eggs", VIEW)
    assert len(scored) == 4 and note.startswith("4 pairs, drawn at random from")
    monkeypatch.setattr(finder_module, "MOST_ROWS", 16)
    monkeypatch.setattr(finder_module, "WINDOWS", 4)
    small = Finder(site, Stored(site), Kept(1))
    assert len(small.sample().rows) == 16 and sum(count for _, count in small.steps()) == 16
    assert "the steps of 16 of 36 clips were read" in small.candidates("", VIEW)[1]


def test_equal_searches_have_equal_results(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder_module, "MOST_CLIPS", 6)
    monkeypatch.setattr(finder_module, "MOST_SCORED", 4)
    one, other = (Finder(site, Stored(site), Kept(1)) for _ in range(2))
    for search in (Search(), Search("whisk the eggs", order="alike")):
        assert one.search(search, []) == other.search(search, []) == one.search(search, [])
    assert one.scored_pairs("whisk the eggs", VIEW) == other.scored_pairs("whisk the eggs", VIEW)


def test_a_head_scores_the_pairs_first(site: Site) -> None:
    kept: KeptOdds = Kept(MOST_KEPT)
    finder, head = Finder(site, Stored(site), kept), RunHead("small", 0, "VCLM", "tiny", VIEW)
    search = Search("whisk the eggs", "Actions", "alike", "head:small")
    assert finder.search(search, [head]).head == "small"
    pairs, _ = finder.scored_pairs("whisk the eggs", VIEW)
    for place, pair in enumerate(pairs):
        kept.put((head, pair), {"Actions": place / 10})
    result = finder.search(search, [head])
    assert not result.head and sets(result)[0] == frozenset(pairs[-1])
    assert finder.search(Search("whisk the eggs", "Visuals", "alike", "head:small"), [head]).head == "small"


@pytest.mark.parametrize(
    "search", [Search("no step"), Search(by="cosine:none"), Search(by="head:none"), Search(by="x")]
)
def test_an_unknown_name_is_refused(finder: Finder, search: Search) -> None:
    with pytest.raises(UnknownError):
        finder.search(search, [])


def test_the_columns_of_both_clips_are_compared(site: Site) -> None:
    frame = site.store.catalog("clips").frame().filter(pl.col("step") == "whisk the eggs")
    one, other = frame["key"][0], frame["key"][1]
    found = {column.name: column for column in columns(site, (one, other))}
    assert set(found) == set(frame.columns) - {"key", "row"}
    assert found["video"].differs and not found["step"].differs
    assert found["start"].reference == str(frame["start"][0])
    assert not any(column.differs for column in columns(site, (one, one)))
    assert shown(site, site.clip(one)).picture.rate == 12
    bare = shown(Site.open(str(site.store.path)), site.clip(one))
    assert bare.missing == "no pictures: start the server with --videos FOLDER" and bare.path == frame["video"][0]


def ordered(address: str) -> tuple[str, str]:
    query = dict(parse_qsl(urlsplit(address).query))
    return query["reference"], query["candidate"]


def test_a_list_is_walked_by_keys_and_clips_are_swapped(
    serve: Callable[..., Server], tab: "Page", made: tuple[Path, Path]
) -> None:
    server = serve("--runs", str(made[0]), "--predictions", str(made[1]))
    tab.goto(f"{server.url}/pair")
    tab.get_by_label("Step").select_option("whisk the eggs")
    tab.get_by_label("Order").select_option("alike")
    tab.get_by_role("button", name="Find").click()
    tab.wait_for_url("**step=whisk*")
    pairs = [ordered(link.get_attribute("href") or "") for link in tab.locator(".pair-list a").all()]
    assert len(pairs) >= 5
    tab.locator(".pair-list a").first.click()
    tab.get_by_text(f"pair 1 of {len(pairs)}").wait_for()
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("n")
    tab.get_by_text(f"pair 2 of {len(pairs)}").wait_for()
    assert ordered(tab.url) == pairs[1]
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("x")
    tab.wait_for_url(f"**reference={pairs[1][1]}*")
    assert ordered(tab.url) == pairs[1][::-1]
    captions = tab.locator("figcaption").all_text_contents()
    assert captions == [f"Video 1 {pairs[1][1]}", f"Video 2 {pairs[1][0]}"]
    assert "one" in (tab.locator("figure").first.get_attribute("class") or "")
    tab.get_by_text(f"pair 2 of {len(pairs)}").wait_for()  # the list is still in the address
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("n")
    tab.get_by_text(f"pair 3 of {len(pairs)}").wait_for()


def test_questions_bars_and_captions_of_a_head_in_the_browser(
    serve: Callable[..., Server], tab: "Page", made: tuple[Path, Path]
) -> None:
    server = serve("--runs", str(made[0]), "--predictions", str(made[1]))
    tab.goto(f"{server.url}/pair?step=whisk+the+eggs")
    tab.locator(".pair-list a").first.click()
    tab.wait_for_url(re.compile("reference="))  # and for its scripts, which hear the selection
    tab.locator("#head").select_option("small")
    # The whole text: the page begins with "not in memory". The load imports torch, as long as the search below.
    tab.locator("#progress", has_text=re.compile("^in memory$")).wait_for(timeout=120_000)
    tab.get_by_role("button", name="mistake").click()
    tab.locator(".note", has_text="first word after").wait_for()
    assert tab.locator(".answer").text_content()
    box = tab.locator(".pair-answers article").bounding_box()
    assert box is not None and 0 <= box["y"] and box["y"] + box["height"] <= 720, "the answer is outside the window"
    tab.keyboard.press("q")
    tab.keyboard.type("Why?")
    tab.keyboard.press("Enter")
    tab.locator("article", has_text="Why?").locator(".note", has_text="in all").wait_for()
    assert tab.evaluate("document.activeElement.id") == "question"
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement === document.body")
    asked = tab.locator(".asked").all_text_contents()
    assert asked[0] == "Why?" and len(asked) == 2  # the newest first
    tab.get_by_role("button", name="Compute with the model").click()
    tab.locator(".pair-alike svg").nth(4).wait_for()
    odds = tab.locator(".pair-odds").all_text_contents()
    assert len(odds) == 5 and all(text[0] in "+−" for text in odds)
    verdicts = zip(odds, tab.locator(".pair-verdict").all_text_contents(), strict=True)
    assert all((verdict == "would decline") == odd.startswith("+") for odd, verdict in verdicts if odd != "+0.00")
    tab.get_by_role("button", name="Write with the model").click()
    tab.locator("#written-by", has_text="by small").wait_for()
    answers = tab.locator(".pair-answers article").all_inner_texts()
    tab.reload()
    assert tab.locator(".pair-answers article").all_inner_texts() == answers and "in all" in answers[0]
    tab.get_by_role("button", name="Clear the answers").click()
    tab.reload()
    tab.locator(".pair-alike").wait_for()
    assert not tab.locator(".pair-answers article").count() and tab.locator("#forget").is_hidden()


def test_a_head_scores_pairs_in_the_browser(serve: Callable[..., Server], tab: "Page", made: tuple[Path, Path]) -> None:
    server = serve("--runs", str(made[0]), "--predictions", str(made[1]))
    tab.goto(f"{server.url}/pair?step=whisk+the+eggs&by=head:small&category=Actions")
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("s")
    tab.locator(".pair-list").wait_for(timeout=120_000)
    scores = [float(text) for text in tab.locator(".pair-list span").all_text_contents()]
    assert len(scores) > 5 and scores == sorted(scores)
