"""A pair of clips, and the search for pairs, at /pair.

Guarantees
- a streamed answer equals the answer of heads.ask to the byte, and captions are post-processed as
  `heads.evaluate` does
- a cancelled answer stops before its next token
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from heads.ask import MOST_TOKENS
from heads.differences import DifferencesOptions
from heads.llm.model import CutOff
from stepdiff.app.explore.routes import MOST_OF_GROUP
from stepdiff.app.pages import kept, page
from stepdiff.app.pair.alike import (
    PRESET_CATEGORIES,
    by_words,
    declines,
    odds,
    score_pairs,
    similarities,
)
from stepdiff.app.pair.finder import PairSearch, Text
from stepdiff.app.pair.loading import Loaded, moments_of, words_of
from stepdiff.app.pair.pages import MOST_LISTED, Pairs, pair_alignment
from stepdiff.app.pair.worker import Events, Job
from stepdiff.app.site import UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.prompts import PRESETS
from stepdiff_core.tasks.testsets import CATEGORIES, DiffCap, Pair

MOST_TEXTS = 500  # whose words are asked for at once: captions, answers and words of a page
Clip = Annotated[str, Query(max_length=1000, description="clip id")]
Group = Annotated[
    tuple[Clip, ...], Query(max_length=MOST_OF_GROUP, description="clip id, or ids of a group")
]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": (
            "Events: queue {place, busy}, load {head}, loaded {head, seconds}, start, those of the "
            "request, and at the end done or error {error}"
        ),
    },
    429: {"description": "The queue is full"},
}
_Work = Callable[[Loaded, Job], dict[str, Any]]


class HeadBody(BaseModel):
    """A head of the runs."""

    head: str = Field(max_length=500, description="name of a head of the runs")


class PairBody(HeadBody):
    """A pair and a head."""

    reference: str = Field(max_length=1000, description="clip id of Video 1")
    candidate: str = Field(max_length=1000, description="clip id of Video 2")

    @property
    def pair(self) -> Pair:
        return self.reference, self.candidate


class AskBody(PairBody):
    """A question about a pair: `question` or `preset`."""

    question: str = Field("", max_length=500)
    preset: str | None = Field(None, max_length=50, description=", ".join(PRESETS))
    max_tokens: int = Field(MOST_TOKENS, ge=1, le=256, description="longest answer, in tokens")


class TextsBody(PairBody):
    """Texts about a pair, and a head of words."""

    texts: list[Annotated[str, Field(max_length=5000)]] = Field(max_length=MOST_TEXTS)


class FindBody(HeadBody):
    """A search whose candidate pairs the head scores."""

    step: str = Field("", max_length=500)
    category: str = Field("", max_length=500)
    order: Literal["different", "alike"] = "different"


router = APIRouter(prefix="/pair", tags=["pair"])
OfPairs = Annotated[Pairs, kept(Pairs)]


def begin(pairs: Pairs, head: str, work: _Work, what: str) -> Events:
    """Submit work with a head, and return the response that reports it."""
    return Events(pairs.worker, pairs.worker.submit(Job(pairs.runs.head(head), work, what)))


def begin_about(pairs: Pairs, body: PairBody, work: _Work, what: str) -> Events:
    """Submit work about a pair, which a head is not asked that does not know such clips: the error
    says so."""

    def guarded(loaded: Loaded, job: Job) -> dict[str, Any]:
        if loaded.method.guard is not None and (doubt := loaded.method.guard.doubt(body.pair)):
            raise StepDiffError(doubt)
        return work(loaded, job)

    pairs.site.clips(body.pair)  # refuses those that the store lacks
    return begin(pairs, body.head, guarded, what)


def _check_words(pairs: Pairs, pair: Pair, head: str) -> None:
    """Raise UnknownError for clips that the store lacks, and for a head of words that the runs
    lack."""
    pairs.site.clips(pair)
    if head not in pairs.runs.words():
        raise UnknownError(
            f"no head of words {head[:200]!r} among the runs: run python -m heads.words"
        )


@router.get("")
def pair(
    request: Request,
    pairs: OfPairs,
    search: Annotated[PairSearch, Depends()],
    reference: Clip | None = None,
    candidate: Clip | None = None,
    at: Annotated[int, Query(ge=-1, le=10_000, description="place in the list of the search")] = -1,
) -> Response:
    """Two clips in step, what differs between them, and questions about them; without clips, a
    search for pairs."""
    if reference is None and candidate is None:
        return page(request, "pair_finder.html", pairs.finder_page(search))
    if reference is None or candidate is None:
        raise StepDiffError(
            "a pair has two clips: give reference and candidate, or neither to search for pairs"
        )
    listed = search if "at" in request.query_params else None
    return page(request, "pair.html", pairs.page((reference, candidate), listed, at))


@router.get("/elsewhere")
def elsewhere(
    request: Request,
    pairs: OfPairs,
    reference: Group = (),
    candidate: Group = (),
    text: Text = "",
    category: Text = "",
    step: Text = "",
) -> Response:
    """Pairs that differ as two clips do, as the means of two groups of clips do, or as a sentence
    says."""
    options = DifferencesOptions(text.strip(), reference, candidate, category, step, k=MOST_LISTED)
    return page(request, "pair_elsewhere.html", pairs.elsewhere_page(options))


@router.get("/words")
def words(
    pairs: OfPairs, reference: Clip, candidate: Clip, head: str = Query(max_length=500)
) -> dict[str, Any]:
    """Return the words for which each clip gives more evidence than the other, by a head of words
    of the runs.

    Of each clip, `words` are the clearest first: `evidence` is the log-odds in this clip and the
    mean of `moments`, those of its frames at the seconds `times` (empty: unknown); `other` is that
    in the other clip; `seconds` is the time of the frame with the most evidence. Without evidence,
    `clips` is empty and `problem` says why.

    `similar` has a `verdict` on each category; its `log_odds` are the distance below which nothing
    differs, minus the pair's. It is empty if the head was fitted without --validation.
    """
    pair = reference, candidate
    _check_words(pairs, pair, head)
    try:
        evidence = pairs.runs.evidence(head)
        clips, similar = words_of(pairs.site, evidence, pair), by_words(evidence, pair)
        return {"head": head, "clips": clips, "similar": similar, "problem": ""}
    except StepDiffError as error:
        return {"head": head, "clips": [], "similar": [], "problem": str(error)}


@router.post("/moments")
def moments(pairs: OfPairs, body: TextsBody) -> dict[str, Any]:
    """Find the words of texts that a head of words knows, and the moments of both clips with most
    evidence.

    `texts` has the pieces of each text, with the `term` that the head knows or nothing; `clips` has
    the terms of all texts, as `/pair/words` has them.
    """
    _check_words(pairs, body.pair, body.head)
    try:
        return moments_of(pairs.site, pairs.runs.evidence(body.head), body.pair, body.texts) | {
            "problem": ""
        }
    except StepDiffError as error:
        return {"texts": [], "clips": [], "problem": str(error)}


@router.get("/alignment")
def alignment(
    pairs: OfPairs,
    reference: Clip,
    candidate: Clip,
    head: Annotated[
        str, Query(max_length=500, description="the view of this head, if it has frames")
    ] = "",
) -> dict[str, Any]:
    """Return which moments of two clips go together, and what one of them lacks.

    `path` has the moments, `warp` the corners of a line through them, both in seconds of the clips;
    `costs` are the mean cosine distances of the moments of Video 1 at `times`. `problem` says why
    there is no alignment.
    """
    pairs.site.clips([reference, candidate])
    return pair_alignment(
        pairs.site, (reference, candidate), pairs.runs.head(head).view if head else ""
    )


@router.post("/ask", response_class=StreamingResponse, responses=_STREAM)
def ask(pairs: OfPairs, body: AskBody) -> Response:
    """Answer a question about a pair, word by word: events `words` {text}, whose texts joined are
    the answer.

    Of the event `done`, `cut_at` is the tokens at which the answer was cut off (0: the model ended
    it), and `rests_on` the words of each clip, as `/pair/words` returns them, that the head read
    before the question; it is empty for a head without evidence of words. `unread`: the words of a
    question of which the head knows none.
    """
    if (body.preset is None) == (not body.question.strip()):
        raise StepDiffError(f"give one question, or one preset: {', '.join(PRESETS)}")
    if body.preset is not None and body.preset not in PRESETS:
        raise StepDiffError(f"no preset {body.preset!r}; there are {', '.join(PRESETS)}")
    question = body.question if body.preset is None else PRESETS[body.preset]
    category = None if body.preset is None else PRESET_CATEGORIES[body.preset]

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        start, first = time.monotonic(), 0.0

        def say(words: str) -> None:
            nonlocal first
            job.check()
            if words:
                first = first or time.monotonic() - start
                job.send("words", text=words)

        with loaded.computing():
            answer = loaded.method.ask(*body.pair, question, body.max_tokens, say)
        seconds = time.monotonic() - start
        job.check()
        log_odds = odds(
            loaded, pairs.odds, body.pair, CATEGORIES if category is None else [category]
        )
        evidence = loaded.method.words if loaded.method.evidence.asked else None
        unread = loaded.method.unread(question)
        return {
            "answer": answer,
            "cut_at": body.max_tokens if isinstance(answer, CutOff) else 0,
            "unread": unread,
            "rests_on": []
            if evidence is None or unread
            else words_of(pairs.site, evidence, body.pair, question),
            "declines": declines(log_odds, category),
            "first": round(first, 3),
            "seconds": round(seconds, 3),
            "similar": similarities(log_odds),
        }

    return begin_about(pairs, body, work, "a question")


@router.post("/alike", response_class=StreamingResponse, responses=_STREAM)
def alike(pairs: OfPairs, body: PairBody) -> Response:
    """Compute log p(YES) - log p(NO) that a pair is similar, for every category."""

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        return {
            "head": loaded.head.name,
            "values": similarities(odds(loaded, pairs.odds, body.pair)),
        }

    return begin_about(pairs, body, work, "how alike two clips are")


@router.post("/captions", response_class=StreamingResponse, responses=_STREAM)
def write(pairs: OfPairs, body: PairBody) -> Response:
    """Write the difference captions of a pair, one for every category; `cut`: the longest caption
    ended it."""

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        written = pairs.captions.get((loaded.head, body.pair))
        if written is None:
            rows = [DiffCap(*body.pair, category, ()) for category in CATEGORIES]
            with loaded.computing():
                texts = loaded.method.caption(rows, job.check)
            log_odds, references = (
                odds(loaded, pairs.odds, body.pair),
                pairs.stored.references(body.pair),
            )
            written = [
                {
                    "category": category,
                    "caption": pairs.stored.caption(body.pair, category, parse(text), references),
                    "declines": declines(log_odds, category),
                    "cut": isinstance(text, CutOff),
                }
                for category, text in zip(CATEGORIES, texts, strict=True)
            ]
            pairs.captions.put((loaded.head, body.pair), written)
        return {"head": loaded.head.name, "captions": written}

    return begin_about(pairs, body, work, "differences by category")


@router.post("/load", response_class=StreamingResponse, responses=_STREAM)
def load(pairs: OfPairs, body: HeadBody) -> Response:
    """Load a head, and drop the one that is in memory."""
    return begin(
        pairs, body.head, lambda loaded, job: {"head": loaded.head.name}, "loading a model"
    )


@router.post("/find", response_class=StreamingResponse, responses=_STREAM)
def find(pairs: OfPairs, body: FindBody) -> Response:
    """Score the candidate pairs of a search by a head: events `progress` {done, total}, `done`
    {address}."""
    head = pairs.runs.head(body.head)
    if body.category not in CATEGORIES:
        raise StepDiffError(
            f"no category {body.category[:100]!r}; there are {', '.join(CATEGORIES)}"
        )
    search = PairSearch(body.step, body.category, body.order, f"head:{head.name}")
    candidates, _ = pairs.finder.scored_pairs(body.step, head.view)

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        score_pairs(loaded, pairs.odds, candidates, body.category, job)
        return {"address": search.address()}

    return begin(pairs, head.name, work, "a search for pairs")
