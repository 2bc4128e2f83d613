"""A pair: questions, log-odds, captions and words of small random heads, the search for pairs, and
their pages."""

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import polars as pl
import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import Message

from heads import ask, differences
from heads.evidence.familiarity import Familiarity
from heads.evidence.fitting import training_videos
from heads.evidence.head import WordHead, pool
from heads.evidence.wording import pieces
from heads.llm.model import CutOff
from heads.methods.word_evidence import WordEvidence
from retrieval import align, read_moments
from stepdiff.app.cache import LRUCache
from stepdiff.app.options import AppOptions
from stepdiff.app.pair.alike import MOST_KEPT, declines
from stepdiff.app.pair.finder import Finder, PairSearch, Result
from stepdiff.app.pair.loading import RunHead, Runs
from stepdiff.app.pair.pages import pair_alignment
from stepdiff.app.pair.stored import Stored
from stepdiff.app.pair.worker import Events, Job, ModelWorker
from stepdiff.app.server import create_app, listener
from stepdiff.app.site import Site, UnknownError
from stepdiff.comparison.models import Reader
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.declining import verdict
from stepdiff_core.tasks.testsets import CATEGORIES, DiffCap, Pair, read_predictions, read_test_set
from store import Feature, Provenance, Store
from tests.app.conftest import PLAYER, READY, Server, read_json, serious_findings
from tests.app.pair_heads import HEADS, ROWS, Asked, write_head, write_runs, write_words
from tests.heads.public.vlms import CLIPS, featurized, save

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.full


@dataclass
class Inside:
    """A server in this process."""

    url: str
    site: Site
    said: Path
    runs: Path


@pytest.fixture(scope="module")
def inside(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    folder = tmp_path_factory.mktemp("pair")
    runs, said = write_runs(world, tiny_lm, folder)
    store, videos, cache = str(world / "features"), str(world / "kitchen"), str(folder / "cache")
    site = Site(
        AppOptions(store, videos, str(runs), predictions=(str(said),), cache=cache, device="cpu")
    )
    socket = listener("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(site), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    yield Inside(f"http://127.0.0.1:{socket.getsockname()[1]}", site, said, runs)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    Asked.close_all()


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


@pytest.mark.parametrize(
    "asked", [{"preset": "mistake"}, {"preset": "tools"}, {"question": "Why 3 eggs\n in *both*?"}]
)
def test_a_streamed_answer_is_that_of_ask(
    inside: Inside, pair: dict[str, str], asked: dict[str, str]
) -> None:
    events = list(question(inside, pair, **asked).events())
    said = "".join(data["text"] for name, data in events if name == "words")
    options = ask.AskOptions(
        **pair,
        **asked,
        head=str(inside.runs / "small"),
        store=str(inside.site.store.path),
        max_tokens=40,
        device="cpu",
    )
    record, last = ask.answered(options), events[-1][1]
    assert said == last["answer"] == record["answer"]
    assert last["cut_at"] == (40 if record["cut"] else 0)
    assert len([name for name, _ in events if name == "words"]) > 1


def test_a_public_model_answers_as_ask_does(tmp_path: Path) -> None:
    small = featurized("qwen3_vl", tmp_path / "model", tmp_path / "store")
    weights, (one, two) = str(small.folder), CLIPS[:2]
    site = Site(
        AppOptions(
            str(small.store.path), models=(weights,), cache=str(tmp_path / "cache"), device="cpu"
        )
    )
    runs = Runs(site)
    (head,) = runs.heads()
    assert (head.name, head.view, runs.words()) == (weights, "float32", [])
    loaded = runs.load(head)
    with loaded.computing():
        answer = loaded.method.ask(one, two, "What differs?", 8)
    where = {"store": str(small.store.path), "model": weights, "max_tokens": 8, "device": "cpu"}
    assert ask.answered(ask.AskOptions(one, two, "What differs?", **where))["answer"] == answer
    with pytest.raises(StepDiffError, match="no view of clips was made by"):
        save("smolvlm", tmp_path / "other")
        Runs(Site(replace(site.options, models=(str(tmp_path / "other"),))))


def test_one_model_is_in_memory(inside: Inside, pair: dict[str, str]) -> None:
    found = {
        name: list(Asked(inside.url, "/pair/load", head=name).events())
        for name in ("small", "other")
    }
    assert [name for name, _ in found["other"]] == ["load", "loaded", "start", "done"]
    answers = [question(inside, pair, head=name).last()[1]["answer"] for name in HEADS]
    assert answers[0] != answers[1]


def test_what_cannot_be_asked_is_refused_before_it_waits(
    inside: Inside, pair: dict[str, str]
) -> None:
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


def test_log_odds_of_a_pair_are_those_of_diffrank(inside: Inside) -> None:
    rows = read_test_set("diffrank", inside.said / "diffrank_small.rows.jsonl")
    scores = read_predictions("diffrank", inside.said / "diffrank_small.jsonl", rows)
    stored = Stored(inside.site)
    for row, own in list(zip(rows, scores, strict=True))[:3]:
        body = {"head": "small", "reference": row.reference, "candidate": row.targets[0]}
        values = {
            each["category"]: each
            for each in Asked(inside.url, "/pair/alike", **body).last()[1]["values"]
        }
        assert list(values) == list(CATEGORIES)
        assert values[row.category]["log_odds"] == pytest.approx(own[0], abs=1e-3)
        assert stored.similar((row.reference, row.targets[0]))["small"][row.category] == own[0]
        assert stored.truth((row.reference, row.targets[0]))[row.category] == row.scores[0]


def test_captions_that_are_written_are_those_of_heads_evaluate(inside: Inside) -> None:
    rows = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")
    captions = read_predictions("diffcap", inside.said / "diffcap_small.jsonl", rows)
    body = {"head": "small", "reference": rows[0].reference, "candidate": rows[0].candidate}
    written = {
        each["category"]: each
        for each in Asked(inside.url, "/pair/captions", **body).last()[1]["captions"]
    }
    assert (
        "".join(piece["text"] for piece in written[rows[0].category]["caption"]["pieces"])
        == captions[0]
    )
    runs = Runs(inside.site)
    loaded = runs.load(runs.head("small"))
    with loaded.computing():
        texts = loaded.method.caption(
            [DiffCap(rows[0].reference, rows[0].candidate, each, ()) for each in written]
        )
    assert [isinstance(text, CutOff) for text in texts] == [
        each["cut"] for each in written.values()
    ]


def test_a_caption_is_shown_with_its_references(inside: Inside) -> None:
    stored = Stored(inside.site)
    rows = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")
    captions = read_predictions("diffcap", inside.said / "diffcap_small.jsonl", rows)
    assert len(rows) == ROWS
    for row, caption in zip(rows, captions, strict=True):
        found = stored.captions((row.reference, row.candidate))
        assert found["methods"] == ["small"]
        line = next(line for line in found["rows"] if line["category"] == row.category)
        assert line["references"] == list(row.text)
        pieces = line["captions"][0]["pieces"]
        assert "".join(piece.text for piece in pieces) == caption
        words = " ".join(row.text).lower()
        assert all(piece.text.lower() in words for piece in pieces if piece.supported)


def test_heads_of_one_name_are_named_with_folders(inside: Inside, tmp_path: Path) -> None:
    folders = tuple(tmp_path / seed for seed in ("seed0", "seed1"))
    for folder in folders:
        shutil.copytree(inside.said, folder)
    stored = Stored(Site(replace(inside.site.options, predictions=tuple(map(str, folders)))))
    row = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")[0]
    assert stored.captions((row.reference, row.candidate))["methods"] == [
        "seed0/small",
        "seed1/small",
    ]
    row = read_test_set("diffrank", inside.said / "diffrank_small.rows.jsonl")[0]
    assert list(stored.similar((row.reference, row.targets[0]))) == ["seed0/small", "seed1/small"]
    record = folders[1] / "diffrank_small.scores.json"
    # whose scores are distances
    record.write_text(record.read_text().replace('"video-lm"', '"word-evidence"'))
    assert list(stored.similar((row.reference, row.targets[0]))) == ["small"]


def test_details_of_a_caption_are_checked_against_attributes(
    inside: Inside, tmp_path: Path
) -> None:
    stored = Stored(inside.site)
    row = next(
        row
        for row in read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")
        if row.text
    )
    pair = row.reference, row.candidate
    for text in row.text:
        details = stored.caption(pair, row.category, text, {})["details"]
        assert details and {detail["judgement"] for detail in details} == {"true"}
        other = stored.caption((pair[1], pair[0]), row.category, text, {})["details"]
        assert "true" not in {detail["judgement"] for detail in other}
    assert stored.caption(pair, row.category, "no difference", {})["details"] == []
    videos = tmp_path / "videos"
    videos.mkdir()
    elsewhere = Stored(Site(replace(inside.site.options, videos=str(videos))))
    assert elsewhere.caption(pair, row.category, row.text[0], {})["details"] == [], (
        "not the sample world"
    )
    (videos / "world.json").write_text("{}")
    lines = (inside.site.videos / "attributes.jsonl").read_text()  # type: ignore[operator]
    (videos / "attributes.jsonl").write_text(
        re.sub('"step": "[^"]*"', '"step": "grate the topping"', lines)
    )
    assert elsewhere.truth_of(pair) is None, "another world with clips of the same names"


def test_predictions_of_the_other_order_are_not_shown(inside: Inside) -> None:
    stored = Stored(inside.site)
    row = read_test_set("diffcap", inside.said / "diffcap_small.rows.jsonl")[0]
    assert not stored.captions((row.reference, row.candidate))["swapped"]
    other = stored.captions((row.candidate, row.reference))
    assert (
        other["swapped"]
        and not other["methods"]
        and not any(line["references"] for line in other["rows"])
    )


def test_an_answer_says_whether_the_head_would_decline(
    inside: Inside, pair: dict[str, str]
) -> None:
    values = Asked(inside.url, "/pair/alike", head="small", **pair).last()[1]["values"]
    known = {each["category"]: each["log_odds"] for each in values}
    for preset, category in {
        "tools": "Tools/Equipment",
        "oil": "Ingredients",
        "mistake": None,
    }.items():
        assert question(inside, pair, preset=preset).last()[1]["declines"] == declines(
            known, category
        )


def test_a_head_is_not_asked_about_clips_that_it_does_not_know(
    world: Path, inside: Inside, pair: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(inside.runs / "small", tmp_path / "runs" / "small")
    known = Familiarity.load(inside.runs / "small")
    replace(known, about=known.about.model_copy(update={"limit": 1e-9})).save(
        tmp_path / "runs" / "small"
    )
    client = TestClient(
        create_app(Site(replace(inside.site.options, runs=str(tmp_path / "runs")))),
        "http://localhost",
    )
    json_of = {"Accept": "application/json"}
    (narrow,) = client.get("/pair", params=pair, headers=json_of).json()["knowledge"]
    assert narrow["heads"] == "small" and narrow["knows"] == known.knows
    assert (
        narrow["unlike"].startswith("These clips are unlike the")
        and narrow["unlike"] in client.get("/pair", params=pair).text
    )
    for path in ("ask", "alike", "captions"):
        body = {"head": "small", **pair} | ({"question": "What differs?"} if path == "ask" else {})
        last = client.post(f"/pair/{path}", json=body).text.split("event: ")[-1]
        assert last.startswith("error") and json.dumps(narrow["unlike"]) in last, path
    (usual,) = read_json(inside.url + "/pair?" + urlencode(pair))["knowledge"]
    assert usual["unlike"] == "" and usual["knows"] == known.knows


def test_a_request_whose_client_has_gone_cancels_its_job() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert message["type"].startswith("http.response")

    worker, begun = ModelWorker(lambda head: None), threading.Event()

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


@pytest.fixture(scope="module")
def word_runs(world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of words, and a head that answers questions with a copy of it."""
    folder = tmp_path_factory.mktemp("words") / "runs"
    write_words(world, folder / "words")
    write_head(world, tiny_lm, folder / "reads", evidence=folder / "words")
    return folder


@pytest.fixture(scope="module")
def word_pair(world: Path, word_runs: Path) -> Pair:
    """Two clips like those that the heads learned from, each with words of its own."""
    evidence = Runs(Site(AppOptions(str(world / "features"), runs=str(word_runs)))).evidence(
        "words"
    )
    rows = read_test_set("diffcap", world / "kitchen/diffcap_test.jsonl")
    pairs = [(row.reference, row.candidate) for row in rows]
    return next(
        pair for pair in pairs if not evidence.guard.doubt(pair) and all(evidence.why(*pair))
    )


@pytest.fixture
def word_server(serve: Callable[..., Server], word_runs: Path) -> Server:
    return serve("--runs", str(word_runs), "--device", "cpu")


def address(word_pair: Pair, path: str = "/pair", **more: str) -> str:
    return f"{path}?{urlencode({'reference': word_pair[0], 'candidate': word_pair[1], **more})}"


def test_the_words_of_a_pair_are_those_of_heads_ask(
    word_server: Server, world: Path, word_runs: Path, word_pair: Pair
) -> None:
    data = read_json(word_server.url + address(word_pair, "/pair/words", head="words"))
    options = ask.AskOptions(
        *word_pair, why=True, words=str(word_runs / "words"), store=str(world / "features")
    )
    assert data["head"] == "words" and data["problem"] == ""
    assert data["similar"] == []  # it was fitted without --validation
    for key, clip, reasons in zip(
        word_pair, data["clips"], ask.answered(options)["why"], strict=True
    ):
        start, end = map(float, key.split("_")[2:])
        assert clip["length"] == pytest.approx(end - start)
        assert clip["times"] == pytest.approx(np.linspace(0, end - start, 8))
        for word, reason in zip(clip["words"], reasons, strict=True):
            assert {name: word[name] for name in ("term", "evidence", "other", "moments")} == {
                name: reason[name] for name in ("term", "evidence", "other", "moments")
            }
            assert word["seconds"] == pytest.approx(
                clip["times"][int(np.argmax(reason["moments"]))], abs=0.01
            )
            assert round(start + word["seconds"], 2) in reason["seconds"]


def test_a_head_of_words_says_how_alike_clips_are(
    serve: Callable[..., Server],
    world: Path,
    word_runs: Path,
    tmp_path: Path,
    tab: "Page",
    word_pair: Pair,
) -> None:
    head = WordHead.load(word_runs / "words")
    # the largest distance is 8
    below = dict(zip(head.known_categories, (0.0, 8.0) * 3, strict=False))
    about = {**head.about, "declines": {"below": below, "balanced_accuracy": 0.5, "rows": 2}}
    replace(head, folder=tmp_path / "words", about=about).save()
    server = serve("--runs", str(tmp_path))
    similar = read_json(server.url + address(word_pair, "/pair/words", head="words"))["similar"]
    evidence = Runs(Site(AppOptions(str(world / "features"), runs=str(tmp_path)))).evidence("words")
    compared = Reader(evidence, evidence).differences(word_pair)
    said = [(each["category"], round(each["log_odds"], 4), each["verdict"]) for each in similar]
    assert said == [(each.category, each.alike, each.verdict) for each in compared]
    assert {"alike", "different"} <= {each.verdict for each in compared}
    tab.goto(server.url + address(word_pair))
    tab.locator("#alike .verdict").first.wait_for()
    rows = tab.locator("#alike tr", has=tab.locator(".verdict")).all_inner_texts()
    assert [re.findall("alike|different|unsure", row) for row in rows] == [
        [each.verdict] for each in compared
    ]


def test_a_head_of_words_answers_no_questions(word_server: Server, word_pair: Pair) -> None:
    data = read_json(word_server.url + address(word_pair))
    assert [head["name"] for head in data["heads"]] == ["reads"] and data["words"] == ["words"]
    with pytest.raises(HTTPError, match="404"):
        read_json(word_server.url + address(word_pair, "/pair/words", head="reads"))


def test_a_store_with_other_features_shows_the_reason(
    serve: Callable[..., Server], word_runs: Path, tmp_path: Path, tab: "Page", word_pair: Pair
) -> None:
    shutil.copytree(word_runs / "words", tmp_path / "words")
    word_server, head = serve("--runs", str(tmp_path)), WordHead.load(word_runs / "words")
    head, about = replace(head, folder=tmp_path / "other", bias=head.bias + 1), dict(head.about)
    for change, reason in (
        ({"view": "missing"}, "missing"),
        (
            {"provenance": about["provenance"] | {"weights": "1" * 64}},
            "computed from other features than view",
        ),
    ):
        replace(head, about=about | change).save()
        data = read_json(word_server.url + address(word_pair, "/pair/words", head="other"))
        assert reason in data["problem"] and data["clips"] == [] and "\n" not in data["problem"]
        assert read_json(word_server.url + "/explore")["words"] == "words"
    tab.goto(word_server.url + address(word_pair))
    tab.locator("#words .problem", has_text="computed from other features").wait_for()
    assert tab.locator("#words-by option").all_inner_texts() == ["other", "words"]
    tab.locator("#words-by").select_option("words")
    tab.locator("#words a").first.wait_for()
    tab.route("**/pair/words?*", lambda route: route.fulfill(json={}))
    tab.reload()
    # a defect, no silent server
    tab.locator("#words .problem", has_text="Cannot read properties").wait_for()


def test_words_of_texts_have_their_moments_in_both_clips(
    word_server: Server, world: Path, word_runs: Path, word_pair: Pair
) -> None:
    head = WordHead.load(word_runs / "words")
    phrase = next(term for term in head.terms if " " in term)
    texts = [f"Not <b>a</b> {phrase.upper()}, but {head.terms[0]} 😀", "nothing known, zzz", ""]
    body = {"reference": word_pair[0], "candidate": word_pair[1], "head": "words", "texts": texts}
    data = read_json(word_server.url + "/pair/moments", body)
    assert data["problem"] == ""
    assert [[(piece["text"], piece["term"]) for piece in split] for split in data["texts"]] == [
        head.pieces(text) for text in texts
    ]
    evidence = WordEvidence.of_store(head, Store.open(world / "features"))
    assert {word["term"] for word in data["clips"][0]["words"]} >= {phrase, head.terms[0]}
    for key, clip in zip(word_pair, data["clips"], strict=True):
        tokens = evidence.features.read([key]).numpy()[0]
        video = training_videos(evidence.features.catalog, [key]).get(key)
        frames = head.moments(pool(tokens.reshape(8, -1, tokens.shape[1])), video)
        for word in clip["words"]:
            of_frames = frames[:, head.columns[word["term"]]]
            assert word["moments"] == pytest.approx(of_frames, abs=1e-4)
            assert word["seconds"] == pytest.approx(
                clip["times"][int(np.argmax(of_frames))], abs=0.01
            )
    starts = [float(key.split("_")[2]) for key in word_pair]
    in_files = Reader(evidence, evidence).clearest(word_pair, texts)
    for term, seconds in in_files.items():
        words = [
            next(word for word in clip["words"] if word["term"] == term) for clip in data["clips"]
        ]
        of_clips = [word["seconds"] if max(word["moments"]) > 0 else None for word in words]
        shown = [
            None if at is None else at - start for at, start in zip(seconds, starts, strict=True)
        ]
        assert shown == pytest.approx(of_clips)
    words = [word for clip in data["clips"] for word in clip["words"]]
    assert in_files.keys() == {word["term"] for word in words if max(word["moments"]) > 0}
    with pytest.raises(HTTPError, match="404"):
        read_json(word_server.url + "/pair/moments", body | {"head": "reads"})
    with pytest.raises(HTTPError, match="422"):
        read_json(word_server.url + "/pair/moments", body | {"texts": ["x" * 5001]})


def test_a_word_about_the_text_is_no_evidence() -> None:
    text = "The main difference in Tools is that in Video 2, the main bowl is blue."
    split = pieces(text, {"main", "bowl"})
    assert "".join(part for part, _ in split) == text
    assert split[:2] == [
        ("The main difference in Tools is that in Video 2, the ", ""),
        ("main", "main"),
    ]


def test_a_word_is_a_link_to_its_clearest_moment_in_each_clip(
    word_server: Server, tab: "Page", word_pair: Pair, browser: "Browser"
) -> None:
    """Wherever it is, with the keyboard alone."""
    words = [
        clip["words"]
        for clip in read_json(word_server.url + address(word_pair, "/pair/words", head="words"))[
            "clips"
        ]
    ]
    terms = [word["term"] for word in (words[0][0], words[1][-1])]
    body = {"reference": word_pair[0], "candidate": word_pair[1], "head": "words", "texts": terms}
    moments, lengths = [], []
    for clip in read_json(word_server.url + "/pair/moments", body)["clips"]:
        moments.append(
            {
                word["term"]: word["seconds"] if max(word["moments"]) > 0 else None
                for word in clip["words"]
            }
        )
        lengths.append(clip["length"])
    shown = {term: [clip[term] for clip in moments] for term in terms}
    assert any(None in seconds for seconds in shown.values()), "each word is in both clips"
    places = {  # a clip without evidence stays in step with the other one
        term: [
            min(at if at is not None else other, length - 0.001)
            for at, other, length in zip(seconds, seconds[::-1], lengths, strict=True)
        ]
        for term, seconds in shown.items()
    }
    tab.emulate_media(reduced_motion="reduce")
    tab.goto(word_server.url + address(word_pair))
    tab.wait_for_function(f"() => {READY}")
    before = tab.url
    times = f"{PLAYER}.videos.map((video) => video.currentTime)"
    for number, term in enumerate(terms, start=1):
        link = tab.get_by_role("region", name=f"Words of Video {number}").get_by_role(
            "link", name=term, exact=True
        )
        link.focus()
        tab.keyboard.press("Enter")
        assert tab.evaluate(times) == pytest.approx(places[term], abs=0.005)
        said = [
            f"no evidence in video {video}" if at is None else f"{minutes(at)} in video {video}"
            for video, at in enumerate(shown[term], start=1)
        ]
        assert (
            tab.locator("#status").inner_text()
            == f"{term}: {', '.join(said)}; press it again to remove the marks"
        )
        assert (
            link.get_attribute("aria-current") == "true"
            and tab.locator("[aria-current].term").count() == 1
        )
        flags = [f"{term} {minutes(at)}" for at in shown[term] if at is not None]
        assert tab.locator(".tracks .flag").all_inner_texts() == flags
        assert all(
            band.bounding_box()["height"] <= 10 for band in tab.locator(".tracks .moment").all()
        )  # type: ignore[index]
        assert tab.evaluate("document.activeElement.textContent") == term
        for clears in ("Enter", "Escape", "0"):
            tab.keyboard.press(clears)
            assert (
                not tab.locator(".tracks .moment").count()
                and not tab.locator("[aria-current].term").count()
            )
            tab.keyboard.press("Enter")
        tab.keyboard.press("q")
        tab.keyboard.press("Escape")  # leaves the text
        assert tab.locator("[aria-current].term").count() == 1
        link.focus()
    listed = tab.locator("#keys dt").all_text_contents()
    assert len(listed) == len({*listed}) and {"escape", "0"} < {*listed}
    # as a link that is opened in another tab
    with browser.new_context(reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto(f"{word_server.url}{link.get_attribute('href')}")
        page.wait_for_function(f"() => {READY} && {times}.some(Boolean)")
        assert page.evaluate(times) == pytest.approx(places[terms[1]], abs=0.005)
        alone = next(term for term in terms if None in shown[term])
        without = shown[alone].index(None)
        for number, offset in ((without, 0.25), (1 - without, 0)):  # a click on the word keeps them
            page.evaluate(f"{PLAYER}.setOffset({number}, {offset})")
        place = page.get_by_role("link", name=alone, exact=True).first.get_attribute("href")
        query = dict(parse_qsl(urlsplit(place or "").query))
        assert query["offset"] == ("0,0.25" if without else "0.25,0")
        assert float(query["time"]) == pytest.approx(shown[alone][1 - without], abs=0.001)
    for _ in range(4):  # the second word was pressed four times
        tab.go_back()
    tab.wait_for_function(
        f"(at) => {times}.every((time, place) => Math.abs(time - at[place]) < 0.005)",
        arg=places[terms[0]],
    )
    for _ in range(4):
        tab.go_back()
    tab.wait_for_function(f"() => {times}.every((time) => time === 0)")
    assert tab.url.split("&time=0")[0] == before


def minutes(seconds: float) -> str:
    """Return seconds as 0:02.3."""
    tenths = int(10 * seconds + 0.5 + 1e-9)
    return f"{tenths // 600}:{tenths % 600 // 10:02}.{tenths % 10}"


def test_an_alignment_has_times_of_the_clips_or_a_reason(inside: Inside, tmp_path: Path) -> None:
    view = inside.site.store.view("clips", "efficientnet-lite0")
    frame = inside.site.store.catalog("clips").frame(["key", "start"])
    pair, starts = (frame["key"][1], frame["key"][5]), (frame["start"][1], frame["start"][5])
    alignment = align(*(read_moments(view, key) for key in pair))
    data = read_json(inside.url + address(pair, "/pair/alignment", head="small"))
    assert (data["view"], data["warning"], data["problem"]) == (view.name, "", "")
    path = [[match[name] for name in ("first", "second", "cost")] for match in data["path"]]
    seconds = [
        alignment.first.seconds[alignment.path[:, 0]],
        alignment.second.seconds[alignment.path[:, 1]],
    ]
    np.testing.assert_allclose(
        np.transpose(path), [seconds[0] - starts[0], seconds[1] - starts[1], alignment.cost]
    )
    first, second = np.transpose(data["warp"])
    np.testing.assert_allclose(second, alignment.warp(first + starts[0]) - starts[1], atol=1e-9)
    for name, start in (("only_first", starts[0]), ("only_second", starts[1])):
        np.testing.assert_allclose(np.array(data[name]) + start, np.array(getattr(alignment, name)))
    assert np.average(data["costs"], weights=np.bincount(alignment.path[:, 0])) == pytest.approx(
        alignment.mean_cost
    )

    columns = {"video": ["v", "w"], "start": [1.0, None], "end": [3.0, None]}
    made_by = Provenance(
        "net", "0" * 64, "last", "4 at segment centres", "crop", {"tokens": "float32"}
    )
    store = Store.open(tmp_path / "features", create=True)
    site = Site(replace(inside.site.options, store=str(store.path)))
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": ["a", "b"], **columns}))
        assert "no view of the store" in pair_alignment(site, ("a", "a"))["problem"]
        frames = store.create_view(
            "clips", "net", made_by, {"tokens": Feature((4, 3), "float32")}, 2
        )
        frames.resize()
        frames.write_shard(
            0, np.arange(2), {"tokens": np.eye(4, 3, dtype=np.float32)[None].repeat(2, 0) + 1}, {}
        )
    assert "a has 4 and a has 4, of 8" in pair_alignment(site, ("a", "a"))["warning"]
    assert pair_alignment(site, ("a", "a"))["warp"] == [
        (time, time) for time in (0, 0.25, 0.75, 1.25, 1.75, 2)
    ]
    assert "no start and end of b" in pair_alignment(site, ("a", "b"))["problem"]


def test_the_words_of_an_answer_are_kept_over_a_reload(
    word_server: Server, tab: "Page", word_pair: Pair
) -> None:
    tab.goto(word_server.url + address(word_pair))
    tab.get_by_role("button", name="mistake").click()
    tab.get_by_text("The answer rests on these words:").wait_for(timeout=60_000)
    words = tab.locator("#answers .words").all_inner_texts()
    tab.reload()
    assert tab.locator("#answers .words").all_inner_texts() == words and len(words) == 2
    tab.locator("#answers .word a").first.click()
    tab.locator(".tracks .moment").first.wait_for()
    tab.route("**/pair/ask", lambda route: None)  # an answer that is being written
    tab.get_by_role("button", name="mistake").click()
    for marks, stops in ((0, 1), (0, 0)):  # the marks first, then the answer
        tab.keyboard.press("Escape")
        found = [
            tab.locator(place).filter(visible=True).count()
            for place in (".tracks .moment", "#stop")
        ]
        assert found == [marks, stops]
    tab.unroute("**/pair/ask")
    tab.keyboard.press("q")
    tab.keyboard.type("Is the moon made of cheese?")
    tab.keyboard.press("Enter")
    entry = tab.locator("article", has_text="moon")
    entry.locator(
        ".note", has_text="the model knows nothing about “cheese”, “made”, “moon”"
    ).wait_for()
    assert not entry.locator(".words").count(), (
        "an answer rests on words that are not those of its question"
    )


def test_each_section_says_what_it_waits_for(
    word_server: Server, tab: "Page", word_pair: Pair
) -> None:
    held: list[Any] | None = []
    late = re.compile("/media/|/pair/words|/pair/alignment|/notes")
    tab.route(late, lambda route: route.continue_() if held is None else held.append(route))
    tab.goto(word_server.url + address(word_pair), wait_until="commit")
    waits = tab.locator(".waiting, #words, [data-aligned], #notes")
    for words in (
        "Video 1: its clip is being cut",
        "Frames of Video 2 are being cut",
        "Aligning the frames of both clips, 1 s",
        "Reading the features of both clips, and the evidence of words",
        "Reading the notes of this pair",
    ):
        waits.filter(has_text=words).wait_for()
    waiting, held = held, None
    for route in waiting:
        route.continue_()
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.waiting')].every((each) => !each.textContent)"
    )
    tab.get_by_text("No notes yet.").wait_for()
    tab.get_by_text("By frames of").wait_for()


def test_a_waiting_question_and_a_cut_answer_say_so(
    word_server: Server, tab: "Page", word_pair: Pair
) -> None:
    one, two = word_pair[::-1]  # no other test asks about them in this order
    tab.goto(word_server.url + address((one, two)))
    assert (
        tab.get_by_text("Not computed yet.").is_visible() and tab.locator("#captions").is_hidden()
    )
    tab.evaluate(
        """() => { window.notes = []; const answers = document.querySelector('#answers');
        const keep = () => {
          for (const note of answers.querySelectorAll('.note')) notes.push(note.textContent); };
        const changes = {subtree: true, childList: true, characterData: true};
        new MutationObserver(keep).observe(answers, changes); }"""
    )
    # the model writes these answers
    questions = ("What do the two videos have in common?", "How are they alike?")
    for question in questions:
        tab.get_by_label("Question about").fill(question)
        tab.keyboard.press("Enter")
    second, first = tab.locator("#answers article").all()
    second.locator(".note", has_text="in all").wait_for()
    assert any("waits: the model is busy with a question" in note for note in tab.evaluate("notes"))
    cuts = 0
    for question, entry in zip(questions, (first, second), strict=True):
        body = {"head": "reads", "question": question, "reference": one, "candidate": two}
        cut_at = Asked(word_server.url, "/pair/ask", **body).last()[1]["cut_at"]
        cuts += bool(cut_at)
        said = "cut off at the longest answer, 192 tokens" in entry.locator(".note").inner_text()
        assert said == bool(cut_at)
    assert cuts, "no answer of the small random model was cut off"
    tab.get_by_role("button", name="Write with the model").focus()
    tab.keyboard.press("Enter")
    tab.locator("td.written").first.wait_for()
    assert tab.locator("td.written").first.inner_text()  # the state, then the caption
    tab.locator(".written .said").first.wait_for()


def test_what_is_missing_is_named_with_the_command_that_makes_it(
    serve: Callable[..., Server], tab: "Page", word_pair: Pair
) -> None:
    tab.goto(serve().url + address(word_pair))
    tab.get_by_text("By frames of").wait_for()
    for title, words in (
        ("Words with the most evidence", "python -m heads.words"),
        ("How alike", "--predictions"),
        ("Ask about these two", "--models"),
        ("Differences by category", "python -m heads.evaluate --task diffcap"),
    ):
        section = tab.get_by_role("region", name=title)
        assert (
            words in section.inner_text()
            and not section.get_by_role("table").filter(visible=True).count()
        )
    assert not tab.locator("a.term").count()


def test_the_same_difference_elsewhere_is_that_of_the_command(
    word_server: Server, world: Path, word_runs: Path, word_pair: Pair
) -> None:
    options = differences.DifferencesOptions(
        "",
        *((clip,) for clip in word_pair),
        store=str(world / "features"),
        words=str(word_runs / "words"),
        k=12,
    )
    data = read_json(word_server.url + address(word_pair, "/pair/elsewhere"))
    assert (
        data["same"] == json.loads(json.dumps(differences.run(options))) and data["same"]["pairs"]
    )
    assert data["category"] == data["same"]["category"] != "" and data["problem"] == ""
    none = read_json(word_server.url + "/pair/elsewhere?" + urlencode({"text": "xyzzy"}))
    assert none["same"] is None and "no word of 'xyzzy' has evidence" in none["problem"]
    with pytest.raises(HTTPError, match="404"):
        read_json(word_server.url + "/pair/elsewhere?reference=none&candidate=none")
    with pytest.raises(HTTPError, match="422"):
        read_json(word_server.url + "/pair/elsewhere?candidate=a&" + "reference=a&" * 51)


def test_the_same_difference_is_found_by_keys(
    word_server: Server, tab: "Page", browser: "Browser", word_pair: Pair
) -> None:
    same = read_json(word_server.url + address(word_pair, "/pair/elsewhere"))["same"]
    expected = [(pair["reference"], pair["candidate"]) for pair in same["pairs"]]
    tab.goto(word_server.url + address(word_pair))
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("f")
    tab.locator("#elsewhere .pair-list a").first.wait_for()
    links = tab.locator("#elsewhere .pair-list a")
    assert [ordered(link.get_attribute("href") or "") for link in links.all()] == expected
    assert same["words"] in tab.locator("#elsewhere > p").inner_text()
    assert (
        same["words"] not in links.first.inner_text()
        and same["pairs"][0]["near"] in links.first.inner_text()
    )
    links.first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**reference={expected[0][0]}*")
    tab.goto(word_server.url + "/pair")
    tab.get_by_label("A difference in words").fill("xyzzy")
    tab.keyboard.press("Enter")
    tab.locator("#elsewhere .error", has_text="no word of 'xyzzy' has evidence").wait_for()
    for width in (390, 1280):
        with browser.new_context(viewport={"width": width, "height": 720}) as context:
            page = context.new_page()
            page.goto(word_server.url + address(word_pair, "/pair/elsewhere"))
            page.locator("#elsewhere .pair-list a").first.wait_for()
            assert serious_findings(page) == {}
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_text_finds_clips_by_the_words_that_a_head_knows(
    word_server: Server, tab: "Page", world: Path, word_runs: Path
) -> None:
    evidence = WordEvidence.of_store(
        WordHead.load(word_runs / "words"), Store.open(world / "features")
    )
    term = next(
        term for term in evidence.head.terms if term in evidence.head.narrated and " " not in term
    )
    tab.goto(f"{word_server.url}/explore")
    tab.locator("#texts", has_text="python -m featurize --manifest YOUR_MANIFEST.csv").wait_for()
    tab.keyboard.press("t")
    tab.keyboard.type(f"they see the {term}")
    tab.keyboard.press("Enter")
    tab.locator("#summary", has_text=f"nearest to {term} by evidence").wait_for()
    assert tab.evaluate("document.documentElement.scrollHeight") <= 720, (
        "the page is taller than its window"
    )
    keys = evidence.features.catalog.frame(["key"])["key"].to_list()
    shows = dict(zip(keys, evidence.shows([term], keys).round(4).tolist(), strict=True))
    listed = read_json(
        f"{word_server.url}/explore/clips?{urlencode({'view': VIEW, 'text': term, 'limit': 9})}"
    )["clips"]
    assert [clip["similarity"] for clip in listed] == sorted(shows.values(), reverse=True)[:9]
    assert [clip["similarity"] for clip in listed] == [shows[clip["key"]] for clip in listed]
    nothing = urlencode({"view": VIEW, "text": term, "where": "split = 'none'"})
    assert read_json(f"{word_server.url}/explore/clips?{nothing}")["clips"] == []
    with pytest.raises(HTTPError, match="400") as refused:
        read_json(f"{word_server.url}/explore/clips?view={VIEW}&text=xyzzy")
    assert "no word of 'xyzzy' has evidence" in json.load(refused.value)["error"]


def test_two_groups_of_the_map_are_compared(word_server: Server, tab: "Page", world: Path) -> None:
    tab.goto(f"{word_server.url}/explore")
    keys = []
    for number, name in enumerate(("whisk the eggs", "grate the topping"), 1):
        tab.locator("#where").fill(where := f"step = '{name}' AND split = 'train'")
        tab.keyboard.press("Enter")
        tab.locator("#summary", has_text="pass the filter").wait_for()
        tab.keyboard.press("Escape")
        tab.keyboard.press(str(number))
        tab.locator("#first, #second").nth(number - 1).and_(
            tab.locator("[aria-pressed=true]")
        ).wait_for()
        keys.append(
            Store.open(world / "features")
            .catalog("clips")
            .frame()
            .filter(pl.sql_expr(where))["key"]
            .to_list()
        )
    tab.keyboard.press("d")
    tab.wait_for_url("**/pair/elsewhere?**")
    query = parse_qsl(urlsplit(tab.url).query)
    assert [
        [value for name, value in query if name == side] for side in ("reference", "candidate")
    ] == keys
    tab.get_by_text(
        f"From the mean of {len(keys[0])} clips to the mean of {len(keys[1])} clips."
    ).wait_for()


VIEW = "efficientnet-lite0"


@pytest.fixture(scope="module")
def head_runs(
    world: Path, tiny_lm: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Folders of runs and of predictions."""
    return write_runs(world, tiny_lm, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def site(world: Path, tmp_path: Path) -> Site:
    return Site(AppOptions(str(world / "features"), str(world / "kitchen"), cache=str(tmp_path)))


@pytest.fixture
def finder(site: Site) -> Finder:
    return Finder(site, Stored(site), LRUCache(MOST_KEPT))


def naive(site: Site, step: str) -> list[tuple[float, frozenset[str]]]:
    """Return all pairs of a step with their cosine, the most different first."""
    clips = site.store.catalog("clips").frame().filter(pl.col("step") == step)
    vectors = site.store.view("clips", VIEW).read(
        "embedding", keys=clips["key"].to_list(), dtype="float32"
    )
    found = []
    for one, other in combinations(range(len(clips)), 2):
        if clips["video"][one] != clips["video"][other]:
            cosine = (
                vectors[one]
                @ vectors[other]
                / np.linalg.norm(vectors[one])
                / np.linalg.norm(vectors[other])
            )
            found.append((float(cosine), frozenset((clips["key"][one], clips["key"][other]))))
    return sorted(found, key=lambda pair: pair[0])


def sets(result: Result) -> list[frozenset[str]]:
    return [frozenset((pair["reference"], pair["candidate"])) for pair in result.pairs]


@pytest.mark.parametrize("order", ["different", "alike"])
def test_the_pairs_of_a_step_are_those_of_a_naive_search(
    site: Site, finder: Finder, order: str
) -> None:
    result = finder.search(PairSearch("whisk the eggs", order=order, by=(f"cosine:{VIEW}")), [])  # type: ignore[arg-type]
    expected = naive(site, "whisk the eggs")[:: 1 if order == "different" else -1]
    cosines = {pair: cosine for cosine, pair in expected}
    assert len(result.pairs) > 10 and sets(result)[0] == expected[0][1]
    assert [pair["score"] for pair in result.pairs] == pytest.approx(
        [cosines[pair] for pair in sets(result)], abs=1e-6
    )
    scores = [pair["score"] for pair in result.pairs]
    assert scores == sorted(scores, reverse=order == "alike")
    assert result.note.startswith(f"{len(expected)} pairs of all 12 clips")


@pytest.mark.parametrize(
    "search",
    [
        PairSearch("no step"),
        PairSearch(by="cosine:none"),
        PairSearch(by="head:none"),
        PairSearch(by="x"),
    ],
)
def test_an_unknown_name_is_refused(finder: Finder, search: PairSearch) -> None:
    with pytest.raises(UnknownError):
        finder.search(search, [])


def ordered(address: str) -> tuple[str, str]:
    query = dict(parse_qsl(urlsplit(address).query))
    return query["reference"], query["candidate"]


def test_a_list_is_walked_by_keys(
    serve: Callable[..., Server], tab: "Page", head_runs: tuple[Path, Path]
) -> None:
    server = serve("--runs", str(head_runs[0]), "--predictions", str(head_runs[1]))
    tab.goto(f"{server.url}/pair")
    tab.get_by_label("Step").select_option("whisk the eggs")
    tab.get_by_label("Order").select_option("alike")
    tab.get_by_role("button", name="Find").click()
    tab.wait_for_url("**step=whisk*")
    pairs = [
        ordered(link.get_attribute("href") or "")
        for link in tab.locator(".pair-list a:first-child").all()
    ]
    assert len(pairs) >= 5
    alt = tab.locator(".pair-list img").first.get_attribute("alt") or ""
    assert re.fullmatch(r"Video 1, kitchen_\d+\.mp4, 0:\S+ to 0:\S+", alt)
    tab.locator(".pair-list a").first.click()
    tab.get_by_text(f"pair 1 of {len(pairs)}").wait_for()
    tab.wait_for_load_state("networkidle")
    tab.locator("#head").select_option("small")
    tab.get_by_label("Question about").fill("Which tool?")
    tab.keyboard.press("Escape")
    for pressed in ("Space", "]", "l", "o", "i", "j"):  # o, i: of this pair alone
        tab.keyboard.press(pressed)
    tab.get_by_text(f"pair 2 of {len(pairs)}").wait_for()
    assert ordered(tab.url) == pairs[1]
    carried = {"speed": "2", "loop": "0", "model": "small", "question": "Which tool?"}
    query = dict(parse_qsl(urlsplit(tab.url).query))
    assert query | carried == query and not {"time", "offset", "in"} & query.keys()
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("x")
    tab.wait_for_url(f"**reference={pairs[1][1]}*")
    assert ordered(tab.url) == pairs[1][::-1]
    captions = tab.locator("figcaption").all_text_contents()
    named = [key.split("_") for key in pairs[1][::-1]]
    starts = [
        f"Video {video} kitchen_{of[1]}.mp4, 0:{float(of[2]):04.1f} to"
        for video, of in enumerate(named, 1)
    ]
    starts = [each.replace(".0 to", " to") for each in starts]
    assert all(caption.startswith(start) for caption, start in zip(captions, starts, strict=True))
    assert "one" in (tab.locator("figure").first.get_attribute("class") or "")
    tab.get_by_text(f"pair 2 of {len(pairs)}").wait_for()  # the list is still in the address
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("j")
    tab.get_by_text(f"pair 3 of {len(pairs)}").wait_for()


def test_questions_bars_and_captions_of_a_head_in_the_browser(
    serve: Callable[..., Server], tab: "Page", head_runs: tuple[Path, Path]
) -> None:
    server = serve("--runs", str(head_runs[0]), "--predictions", str(head_runs[1]))
    tab.goto(f"{server.url}/pair?step=whisk+the+eggs")
    tab.locator(".pair-list a").first.click()
    tab.wait_for_url(re.compile("reference="))  # and for its scripts, which hear the selection
    tab.locator("#head").select_option("small")
    # The whole text: the page begins with "not in memory". The load imports torch, as long as the
    # search below.
    tab.locator("#progress", has_text=re.compile("^in memory$")).wait_for(timeout=120_000)
    tab.get_by_role("button", name="mistake").click()
    tab.locator(".note", has_text="first word after").wait_for()
    assert tab.locator(".answer").text_content()
    box = tab.locator(".pair-answers article").bounding_box()
    assert box is not None and 0 <= box["y"] and box["y"] + box["height"] <= 720, (
        "the answer is outside the window"
    )
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
    tab.locator(".pair-alike svg").nth(4).wait_for(state="attached")
    odds = tab.locator(".pair-odds").all_text_contents()
    assert len(odds) == 5 and all(text[0] in "+−" for text in odds)
    assert not tab.locator(".pair-alike").is_visible(), "numbers are shown on demand"
    said = tab.locator("#alike .verdict").all_text_contents()
    values = [float(odd.replace("−", "-")) for odd in odds]
    assert [word[2:] for word in said[:5]] == [verdict(value) for value in values]
    tab.get_by_role("button", name="Write with the model").click()
    tab.locator(".written .said").nth(4).wait_for()
    assert tab.get_by_role("columnheader", name="written by small").is_visible()
    cells = (
        tab.locator(f"#captions [data-category] > {cell}").first.bounding_box()
        for cell in ("th", ".written")
    )
    category, sentence = (cell["width"] for cell in cells)  # type: ignore[index]
    assert 2 * category < sentence, "the sentence has less room than its category"
    (by_small,) = read_json(tab.url)["written"]
    cut = [category["category"] for category in by_small["captions"] if category["cut"]]
    said = tab.locator("tr", has=tab.locator(".written", has_text="cut off at the longest caption"))
    assert cut and said.evaluate_all("rows => rows.map(row => row.dataset.category)") == cut
    answers = tab.locator(".pair-answers article").all_inner_texts()
    tab.reload()
    assert (
        tab.locator(".pair-answers article").all_inner_texts() == answers and "in all" in answers[0]
    )
    started = 'event: words\ndata: {"text": "In"}\n\n'
    tab.route(
        "**/pair/ask", lambda route: route.fulfill(body=started, content_type="text/event-stream")
    )
    tab.get_by_role("button", name="mistake").click()
    tab.locator("article", has_text="the server ended the answer").wait_for()
    with tab.expect_request("**/notes/card") as card:
        tab.keyboard.press("c")
    assert card.value.post_data_json["question"] == "Why?"  # the last one whose answer is complete
    tab.get_by_role("button", name="Clear the answers").click()
    tab.reload()
    tab.locator("#alike .verdict").first.wait_for()
    assert not tab.locator(".pair-answers article").count() and tab.locator("#forget").is_hidden()


@pytest.fixture(scope="module")
def many(head_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The predictions of DiffRank, by five heads."""
    folder = tmp_path_factory.mktemp("many")
    for name in (
        "small",
        "interleaved_seed0",
        "interleaved_seed1",
        "stepdiff_with_evidence",
        "plain",
    ):
        for kind in (".jsonl", ".rows.jsonl", ".scores.json"):
            text = (
                (head_runs[1] / f"diffrank_small{kind}")
                .read_text()
                .replace("runs/small", f"runs/{name}")
            )
            (folder / f"diffrank_{name}{kind}").write_text(text)
    return folder


@pytest.mark.parametrize("width", [320, 360, 960])
def test_the_page_fits_its_window(
    serve: Callable[..., Server],
    browser: "Browser",
    word_runs: Path,
    many: Path,
    site: Site,
    tmp_path: Path,
    width: int,
) -> None:
    """With many heads and captions of three methods, after a word was pressed."""
    rows = read_test_set("diffrank", many / "diffrank_small.rows.jsonl")
    evidence = Runs(Site(replace(site.options, runs=str(word_runs)))).evidence("words")
    pair = next(
        each
        for row in rows
        for target in row.targets
        if any(evidence.why(*(each := (row.reference, target))))
    )
    for name in ("first", "second", "third"):
        row = {
            "reference": pair[0],
            "candidate": pair[1],
            "category": "Actions",
            "text": ["uses a fork"],
        }
        caption = {
            "generated_text": (
                f"In Video 2, the cook of the {name} method whisks with a fork in a metal bowl."
            )
        }
        (tmp_path / f"{name}.rows.jsonl").write_text(json.dumps(row) + "\n")
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(caption) + "\n")
    server = serve(
        "--runs", str(word_runs), "--predictions", str(many), str(tmp_path), "--device", "cpu"
    )
    with browser.new_context(
        viewport={"width": width, "height": 780}, reduced_motion="reduce"
    ) as context:
        page = context.new_page()
        page.goto(server.url + address(pair))
        page.wait_for_function(f"() => {READY}")
        page.locator("#words a").first.focus()
        page.keyboard.press("Enter")
        page.locator(".tracks .flag").first.wait_for()
        page.locator("#numbers summary").click()
        assert page.locator(".pair-alike tbody").count() == len(CATEGORIES)
        assert all(caption.is_visible() for caption in page.locator("#captions .said").all())
        assert page.locator("#captions .said").count() == 3
        assert page.evaluate(
            "[...document.querySelectorAll('.wide, .panel')].every((box) => box.scrollWidth <= "
            "box.clientWidth)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        place = page.locator(".pair-alike").bounding_box()
        assert place is not None and place["x"] + place["width"] <= width
        assert width < 960 or page.locator(".controls").bounding_box()["height"] < 60, (
            "two rows of controls"
        )  # type: ignore[index]
        assert serious_findings(page) == {}


def test_a_head_scores_pairs_in_the_browser(
    serve: Callable[..., Server], tab: "Page", head_runs: tuple[Path, Path]
) -> None:
    server = serve("--runs", str(head_runs[0]), "--predictions", str(head_runs[1]))
    tab.goto(f"{server.url}/pair?step=whisk+the+eggs&by=head:small&category=Actions")
    tab.wait_for_load_state("networkidle")
    tab.keyboard.press("s")
    tab.locator(".pair-list").wait_for(timeout=120_000)
    said = [text.split(", ") for text in tab.locator(".pair-list span").all_text_contents()]
    scores = [float(score) for _, score in said]
    assert len(scores) > 5 and scores == sorted(scores)
    assert {word for word, _ in said} <= {"alike", "different", "unsure"}
