"""The words that a pair gives evidence for, on its page, as JSON, and below the answers of a head that reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest

from app.kept import Kept
from app.pair.asking import answer
from app.pair.loading import Runs
from app.pair.worker import Job
from app.site import Site
from heads import ask
from heads.data.packing import Turn
from heads.models.video_lm import VideoLM
from tasks.testsets import Pair, read_test_set
from tests.app.conftest import Server
from tests.app.pair_made import write_head, write_words

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def runs(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of words, and a head that answers questions with a copy of it."""
    folder = tmp_path_factory.mktemp("words") / "runs"
    write_words(world, folder / "words")
    write_head(world, tiny_lm, folder / "reads", evidence=folder / "words")
    return folder


@pytest.fixture(scope="module")
def pair(world: Path, runs: Path) -> Pair:
    """Two clips, each with words of its own."""
    evidence = Runs(Site.open(str(world / "features"), runs=str(runs))).evidence("words")
    rows = read_test_set("diffcap", world / "kitchen/diffcap_test.jsonl")
    return next(each for row in rows if all(evidence.why(*(each := (row.reference, row.candidate)))))


@pytest.fixture
def server(serve: Callable[..., Server], runs: Path) -> Server:
    return serve("--runs", str(runs), "--device", "cpu")


def address(pair: Pair, path: str = "/pair", **more: str) -> str:
    return f"{path}?{urlencode({'reference': pair[0], 'candidate': pair[1], **more})}"


def read(server: Server, path: str) -> dict[str, Any]:
    with urlopen(Request(server.url + path, headers={"Accept": "application/json"}), timeout=60) as response:
        return dict(json.load(response))


def test_the_words_of_a_pair_are_those_of_heads_ask(server: Server, world: Path, runs: Path, pair: Pair) -> None:
    data = read(server, address(pair, "/pair/words", head="words"))
    options = ask.AskOptions(*pair, why=True, words=str(runs / "words"), store=str(world / "features"))
    assert data["head"] == "words" and data["problem"] == ""
    for key, clip, reasons in zip(pair, data["clips"], ask.run(options)["why"], strict=True):
        start, end = map(float, key.split("_")[2:])
        assert clip["length"] == pytest.approx(end - start)
        assert clip["times"] == pytest.approx(np.linspace(0, end - start, 8))
        for word, reason in zip(clip["words"], reasons, strict=True):
            assert {name: word[name] for name in ("term", "evidence", "other", "moments")} == {
                name: reason[name] for name in ("term", "evidence", "other", "moments")
            }
            assert word["seconds"] == clip["times"][int(np.argmax(reason["moments"]))]
            assert round(start + word["seconds"], 2) in reason["seconds"]


def test_a_head_of_words_answers_no_questions_and_a_copy_of_it_is_listed_once(server: Server, pair: Pair) -> None:
    data = read(server, address(pair))
    assert [head["name"] for head in data["heads"]] == ["reads"] and data["words"] == ["words"]
    with pytest.raises(HTTPError, match="404"):
        read(server, address(pair, "/pair/words", head="reads"))


def test_without_a_head_of_words_the_copy_of_a_run_is_listed(world: Path, runs: Path, tmp_path: Path) -> None:
    def names(folder: Path) -> list[str]:
        return Runs(Site.open(str(world / "features"), runs=str(folder))).words()

    shutil.copytree(runs / "reads", tmp_path / "group" / "reads")
    assert names(tmp_path / "group") == ["reads/words"] and names(tmp_path) == ["group/reads/words"]
    assert names(tmp_path / "group" / "reads") == ["words"] and names(runs / "words") == ["words"]
    assert Runs(Site.open(str(world / "features"))).words() == []


def test_an_answer_rests_on_the_words_that_its_head_read(
    world: Path, runs: Path, tiny_lm: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_head(world, tiny_lm, runs.parent / "more" / "plain")
    questions: list[str] = []
    generate = VideoLM.generate

    def noted(self: VideoLM, turns: list[Turn], *more: Any, **how: Any) -> list[str]:
        questions.extend(turn.question for turn in turns)
        return generate(self, turns, *more, **how)

    monkeypatch.setattr(VideoLM, "generate", noted)
    asked = ("reads", "What differs?"), ("reads", "Which tool differs?"), ("plain", "What differs?")
    for name, text in asked:
        folder = runs if name == "reads" else runs.parent / "more"
        site = Site.open(str(world / "features"), runs=str(folder), device="cpu")
        loaded = Runs(site).load(Runs(site).head(name))
        work = answer(site, Kept(9), pair, text, None, 3)
        rests = work(loaded, Job(loaded.head, work))["rests_on"]
        if name == "plain":
            assert rests == [] and questions.pop() == text
            continue
        (question,) = questions
        before = [{word["term"] for word in clip["words"]} or {"nothing"} for clip in rests]
        of_videos = question.removesuffix(f". {text}").split(". ")
        assert [set(video.split(": ")[1].split(", ")) for video in of_videos] == before
        assert all(words != {"nothing"} for words in before) or text != "What differs?"
        questions.clear()


def test_a_store_with_other_features_shows_the_reason(
    serve: Callable[..., Server], runs: Path, tmp_path: Path, tab: "Page", pair: Pair
) -> None:
    for name in ("other", "words"):
        shutil.copytree(runs / "words", tmp_path / name)
    server, about = serve("--runs", str(tmp_path)), json.loads((runs / "words" / "words.json").read_text())
    (tmp_path / "other" / about["weights"]["file"]).rename(tmp_path / "other" / "words-other.safetensors")
    about["weights"]["file"] = "words-other.safetensors"
    for change, reason in (
        ({"view": "missing"}, "missing"),
        ({"provenance": about["provenance"] | {"weights": "1" * 64}}, "computed from other features than view"),
    ):
        (tmp_path / "other" / "words.json").write_text(json.dumps(about | change))
        data = read(server, address(pair, "/pair/words", head="other"))
        assert reason in data["problem"] and data["clips"] == [] and "\n" not in data["problem"]
    tab.goto(server.url + address(pair))
    tab.locator("#words .problem", has_text="computed from other features").wait_for()
    assert tab.locator("#words-by option").all_inner_texts() == ["other", "words"]
    tab.locator("#words-by").select_option("words")
    tab.locator("#words button").first.wait_for()


def test_a_word_seeks_its_clearest_moment(server: Server, tab: "Page", pair: Pair) -> None:
    data = read(server, address(pair, "/pair/words", head="words"))["clips"]
    tab.emulate_media(reduced_motion="reduce")
    tab.goto(server.url + address(pair))
    tab.wait_for_function("() => document.querySelector('[data-player]').player.ready")
    tab.locator("#words button").first.wait_for()
    clock, length = (f"document.querySelector('[data-player]').player.{name}" for name in ("time", "length"))
    for number, clip in enumerate(data):
        section = tab.get_by_role("region", name=f"Words of Video {number + 1}")
        assert section.get_by_role("button").all_inner_texts() == [word["term"] for word in clip["words"]]
        for word in (clip["words"][0], clip["words"][-1]):
            button = section.get_by_role("button", name=word["term"], exact=True)
            button.focus()
            tab.keyboard.press("Enter")
            assert tab.evaluate(clock) == pytest.approx(min(word["seconds"], tab.evaluate(length)))
            assert section.locator("[aria-current]").all_inner_texts() == [word["term"]]
            assert section.locator(".moments rect").count() == len(word["moments"])
    box = tab.locator("#words .moments").first.bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + 4)
    assert tab.evaluate(clock) == pytest.approx(data[0]["length"] / 2, abs=0.1)
    before = tab.locator("#words .moments .marker").first.evaluate("mark => mark.style.left")
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#words .moments .marker").first.evaluate("mark => mark.style.left") != before


def test_the_words_of_an_answer_are_kept_over_a_reload(server: Server, tab: "Page", pair: Pair) -> None:
    tab.goto(server.url + address(pair))
    tab.get_by_role("button", name="mistake").click()
    tab.get_by_text("The answer rests on these words:").wait_for(timeout=60_000)
    words = tab.locator("#answers .words").all_inner_texts()
    tab.reload()
    assert tab.locator("#answers .words").all_inner_texts() == words and len(words) == 2
    tab.locator("#answers button.word").first.click()
    assert tab.locator("#answers .moments").count() == 1
