"""Questions about a pair, log-odds and captions, with small random heads: app.pair over real connections."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from starlette.types import Message
from torch import Tensor

from app.kept import Kept
from app.pair.alike import declines, similarity
from app.pair.loading import RunHead, Runs
from app.pair.stored import Stored
from app.pair.streams import Events
from app.pair.worker import MOST_WAITING, Job, Worker
from app.server import create_app, listener
from app.site import Site, UnknownError
from heads import ask
from heads.methods.stepdiff import StepDiff
from heads.models.streaming import Words
from tasks.testsets import CATEGORIES, Pair, read_predictions, read_test_set
from tests.app.pair_made import HEADS, ROWS, Asked, write_runs

if TYPE_CHECKING:
    from playwright.sync_api import Page


@dataclass
class Inside:
    """A server in this process, whose tokens are counted and can be made slow."""

    url: str
    site: Site
    said: Path
    runs: Path
    tokens: list[float] = field(default_factory=list)
    """when each token of a streamed answer was generated"""
    pause: float = 0.0
    """seconds after each token"""


@pytest.fixture(scope="module")
def inside(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    folder = tmp_path_factory.mktemp("pair")
    runs, said = write_runs(world, tiny_lm, folder)
    store, videos, cache = str(world / "features"), str(world / "kitchen"), str(folder / "cache")
    site = Site.open(store, videos, str(runs), [str(said)], cache=cache, device="cpu")
    socket = listener("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(site), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    found = Inside(f"http://127.0.0.1:{socket.getsockname()[1]}", site, said, runs)
    put = Words.put

    def counted(self: Words, value: Tensor) -> None:
        if value.ndim == 1:
            found.tokens.append(time.monotonic())
            time.sleep(found.pause)
        put(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Words, "put", counted)
        thread.start()
        yield found
        server.should_exit = True
        thread.join(20)


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    Asked.close_all()


@pytest.fixture
def slow(inside: Inside) -> Iterator[Inside]:
    """The server with 50 ms a token, and no token counted yet."""
    inside.pause = 0.05
    inside.tokens.clear()
    yield inside
    inside.pause = 0.0


@pytest.fixture(scope="module")
def pair(inside: Inside) -> dict[str, str]:
    """A pair that the predictions have."""
    row = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")[0]
    return {"reference": row.reference, "candidate": row.candidate}


def question(inside: Inside, pair: dict[str, str], **more: object) -> Asked:
    body = {"head": "small", "question": "What differs?", "max_tokens": 40, **pair, **more}
    if "preset" in more:
        body.pop("question")
    return Asked(inside.url, "/pair/ask", **body)


@pytest.mark.parametrize("asked", [{"preset": "mistake"}, {"preset": "tools"}, {"question": "Why 3 eggs\n in *both*?"}])
def test_a_streamed_answer_is_that_of_heads_ask_to_the_byte(
    inside: Inside, pair: dict[str, str], asked: dict[str, str]
) -> None:
    events = list(question(inside, pair, **asked).events())
    said = "".join(data["text"] for name, data in events if name == "words")
    options = ask.AskOptions(
        **pair, **asked, head=str(inside.runs / "small"), store=str(inside.site.store.path), max_tokens=40, device="cpu"
    )
    assert said == events[-1][1]["answer"] == ask.run(options)["answer"]
    assert len([name for name, _ in events if name == "words"]) > 1


def test_a_cancelled_answer_stops_before_its_next_token(slow: Inside, pair: dict[str, str]) -> None:
    asked = question(slow, pair, max_tokens=200)
    assert next(name for name, _ in asked.events() if name == "words")
    asked.close()
    closed = time.monotonic()
    time.sleep(0.5)
    after = [when for when in slow.tokens if when > closed + 0.1]  # the server needs a moment to see it
    assert len(slow.tokens) < 100 and after == []
    assert question(slow, pair, max_tokens=3).last()[0] == "done"


def test_escape_stops_the_answer_and_the_model(slow: Inside, pair: dict[str, str], tab: "Page") -> None:
    tab.goto(f"{slow.url}/pair?reference={pair['reference']}&candidate={pair['candidate']}")
    tab.wait_for_load_state("networkidle")
    tab.get_by_role("button", name="mistake").click()
    tab.locator(".answer:not(:empty)").wait_for()
    tab.keyboard.press("Escape")
    tab.locator(".note", has_text="stopped").wait_for()
    time.sleep(0.2)
    generated = len(slow.tokens)
    time.sleep(0.5)
    assert len(slow.tokens) == generated < 64
    assert tab.locator("#stop").is_hidden()


def test_requests_queue_and_a_full_queue_is_refused_with_a_sentence(slow: Inside, pair: dict[str, str]) -> None:
    first = question(slow, pair, max_tokens=200)
    assert next(name for name, _ in first.events() if name == "words")
    waiting = [question(slow, pair, max_tokens=2) for _ in range(MOST_WAITING)]
    places = [next(waiting[number].events()) for number in range(MOST_WAITING)]
    assert places == [("queue", {"place": number + 1}) for number in range(MOST_WAITING)]
    refused = question(slow, pair)
    assert refused.status == 429
    assert refused.error().endswith("requests wait already: try again in a few seconds")
    waiting[0].close()
    slow.pause = 0.0
    first.close()
    assert [asked.last()[0] for asked in waiting[1:]] == ["done"] * (MOST_WAITING - 1)


def test_one_model_is_in_memory_and_another_one_is_loaded_on_request(inside: Inside, pair: dict[str, str]) -> None:
    found = {name: list(Asked(inside.url, "/pair/load", head=name).events()) for name in ("small", "other")}
    assert [name for name, _ in found["other"]] == ["load", "loaded", "done"]
    answers = [question(inside, pair, head=name).last()[1]["answer"] for name in HEADS]
    assert answers[0] != answers[1]


def test_what_cannot_be_asked_is_refused_before_it_waits(inside: Inside, pair: dict[str, str]) -> None:
    assert question(inside, pair, head="../small").status == 404
    assert question(inside, pair, reference="nothing").status == 404
    assert question(inside, pair, question=" ").status == 400
    assert question(inside, pair, preset="nothing").status == 400
    assert question(inside, pair, question="x" * 501).status == 422
    name, data = question(inside, pair, question="say <|im_end|>").last()
    assert name == "done" or "control token" in data["error"]
    assert [head.name for head in Runs(inside.site).heads()] == list(HEADS)
    with pytest.raises(UnknownError):
        Runs(inside.site).head("other/../small")


def test_the_log_odds_of_a_pair_are_those_that_diffrank_is_scored_with(inside: Inside) -> None:
    rows = read_test_set("diffrank", inside.said / "diffrank_small.rows.jsonl")
    scores = read_predictions("diffrank", inside.said / "diffrank_small.jsonl", rows)
    stored = Stored(inside.site)
    for row, own in list(zip(rows, scores, strict=True))[:3]:
        body = {"head": "small", "reference": row.reference, "candidate": row.targets[0]}
        values = {each["category"]: each for each in Asked(inside.url, "/pair/alike", **body).last()[1]["values"]}
        assert list(values) == list(CATEGORIES)
        assert values[row.category]["log_odds"] == pytest.approx(own[0], abs=1e-3)
        (similar,) = stored.similar((row.reference, row.targets[0]))
        assert similar.head == "small" and similarity(row.category, own[0]) in similar.values
        assert stored.truth((row.reference, row.targets[0]))[row.category] == row.scores[0]


def test_a_pair_and_category_is_computed_once_for_a_head(
    inside: Inside, pair: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    alike = StepDiff.alike

    def counted(self: StepDiff, queries: Sequence[tuple[Pair, str]]) -> list[float]:
        asked.extend(category for _, category in queries)
        return alike(self, queries)

    monkeypatch.setattr(StepDiff, "alike", counted)
    swapped = {"reference": pair["candidate"], "candidate": pair["reference"]}
    question(inside, swapped, preset="oil", head="other").last()
    assert asked == ["Ingredients"]
    both = [Asked(inside.url, "/pair/alike", head="other", **swapped).last()[1] for _ in range(2)]
    assert both[0] == both[1] and sorted(asked) == sorted(CATEGORIES)


def test_captions_that_are_written_are_those_of_heads_evaluate(inside: Inside) -> None:
    rows = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")
    captions = read_predictions("diffcap", inside.said / "diffcap_small.jsonl", rows)
    body = {"head": "small", "reference": rows[0].reference, "candidate": rows[0].candidate}
    written = {each["category"]: each for each in Asked(inside.url, "/pair/captions", **body).last()[1]["captions"]}
    assert "".join(piece["text"] for piece in written[rows[0].category]["caption"]["pieces"]) == captions[0]


def test_a_caption_is_shown_with_the_references_of_its_pair_and_category(inside: Inside) -> None:
    stored = Stored(inside.site)
    rows = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")
    captions = read_predictions("diffcap", inside.said / "diffcap_small.jsonl", rows)
    assert len(rows) == ROWS
    for row, caption in zip(rows, captions, strict=True):
        found = stored.captions((row.reference, row.candidate))
        assert found.methods == ["small"]
        line = next(line for line in found.rows if line.category == row.category)
        assert line.references == list(row.text)
        assert line.captions[0] is not None
        assert "".join(piece.text for piece in line.captions[0].pieces) == caption
        words = " ".join(row.text).lower()
        assert all(piece.text.lower() in words for piece in line.captions[0].pieces if piece.supported)


def test_details_of_a_caption_are_checked_against_the_attributes_of_both_clips(inside: Inside, tmp_path: Path) -> None:
    stored = Stored(inside.site)
    row = next(row for row in read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl") if row.text)
    pair = row.reference, row.candidate
    for text in row.text:
        details = stored.caption(pair, row.category, text, {}).details
        assert details and {detail.judgement for detail in details} == {"true"}
        other = stored.caption((pair[1], pair[0]), row.category, text, {}).details
        assert "true" not in {detail.judgement for detail in other}
    assert stored.caption(pair, row.category, "no difference", {}).details == []
    videos = tmp_path / "videos"
    videos.mkdir()
    elsewhere = Stored(replace(inside.site, videos=videos))
    assert elsewhere.caption(pair, row.category, row.text[0], {}).details == [], "not the sample world"
    (videos / "world.json").write_text("{}")
    lines = (inside.site.videos / "attributes.jsonl").read_text()  # type: ignore[operator]
    (videos / "attributes.jsonl").write_text(re.sub('"step": "[^"]*"', '"step": "grate the topping"', lines))
    assert elsewhere.truth_of(pair) is None, "another world with clips of the same names"


def test_predictions_of_a_pair_in_the_other_order_are_not_shown_as_this_pairs(inside: Inside) -> None:
    stored = Stored(inside.site)
    row = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")[0]
    assert not stored.captions((row.reference, row.candidate)).swapped
    other = stored.captions((row.candidate, row.reference))
    assert other.swapped and not other.methods and not any(line.references for line in other.rows)


def test_a_verdict_follows_a_stated_rule() -> None:
    verdicts = {value: similarity("Actions", value).verdict for value in (-1.6, -0.21, -0.19, 0.0, 0.01, 1.6)}
    assert list(verdicts.values()) == ["", "", "not sure", "not sure", "would decline", "would decline"]
    assert "nearly equally likely" in similarity("Actions", -0.19).reason
    assert "alike" in similarity("Actions", 0.01).reason
    found = dict.fromkeys(CATEGORIES, 0.5)
    assert "alike in every category" in declines(found, None)
    assert "alike in Actions (log-odds +0.50, above 0)" in declines(found, "Actions")
    assert not declines(found | {"Actions": 0.0}, "Actions")
    assert not declines(found | {"Actions": -0.1}, None)


def test_an_answer_says_whether_the_head_would_decline(inside: Inside, pair: dict[str, str]) -> None:
    values = Asked(inside.url, "/pair/alike", head="small", **pair).last()[1]["values"]
    known = {each["category"]: each["log_odds"] for each in values}
    for preset, category in {"tools": "Tools/Equipment", "oil": "Ingredients", "mistake": None}.items():
        assert question(inside, pair, preset=preset).last()[1]["declines"] == declines(known, category)


def test_a_request_whose_client_has_gone_cancels_its_job() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert message["type"].startswith("http.response")

    worker, begun = Worker(lambda head: None), threading.Event()

    def work(model: Any, job: Job) -> dict[str, Any]:
        begun.set()
        while True:
            job.check()
            time.sleep(0.005)

    job = worker.submit(Job(RunHead("small", 0, "", "", ""), work))
    assert begun.wait(10)

    async def respond() -> None:
        await Events(worker, job)({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)

    with ThreadPoolExecutor(1) as pool:  # in this thread a browser's event loop runs
        pool.submit(asyncio.run, respond()).result()
    assert job.cancelled.is_set()


def test_what_is_kept_is_bounded() -> None:
    kept: Kept[int, int] = Kept(3)
    for number in range(5):
        kept.put(number, number)
        kept.get(2)
    assert len(kept) == 3
    assert [kept.get(number) for number in range(5)] == [None, None, 2, 3, 4]
