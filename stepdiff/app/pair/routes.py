"""A pair of clips, and the search for pairs, at /pair."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from stepdiff.app.kept import Kept
from stepdiff.app.pages import page
from stepdiff.app.pair import asking
from stepdiff.app.pair.alike import MOST_KEPT, PRESET_CATEGORIES, KeptOdds
from stepdiff.app.pair.asking import MOST_TOKENS, MOST_WRITTEN, KeptCaptions, Work
from stepdiff.app.pair.finder import Finder, Search
from stepdiff.app.pair.loading import Runs
from stepdiff.app.pair.pages import FinderPage, Pages, PairPage
from stepdiff.app.pair.stored import Stored
from stepdiff.app.pair.streams import Events
from stepdiff.app.pair.words import PairWords, words_or_problem
from stepdiff.app.pair.worker import Job, Worker
from stepdiff.app.site import Site, UnknownError
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import PRESETS
from stepdiff.tasks.testsets import CATEGORIES

Clip = Annotated[str, Query(max_length=1000, description="clip id")]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "Events: queue {place}, load {head}, loaded {head, seconds}, those of the request, and at the "
        "end done or error {error}",
    },
    429: {"description": "The queue is full"},
}


class HeadBody(BaseModel):
    """A head of the runs."""

    head: str = Field(max_length=500, description="name of a head of the runs")


class PairBody(HeadBody):
    """A pair and a head."""

    reference: str = Field(max_length=1000, description="clip id of Video 1")
    candidate: str = Field(max_length=1000, description="clip id of Video 2")


class AskBody(PairBody):
    """A question about a pair: `question` or `preset`."""

    question: str = Field("", max_length=500)
    preset: str | None = Field(None, max_length=50, description=", ".join(PRESETS))
    max_tokens: int = Field(MOST_TOKENS, ge=1, le=256, description="longest answer, in tokens")


class FindBody(HeadBody):
    """A search whose candidate pairs the head scores."""

    step: str = Field("", max_length=500)
    category: str = Field("", max_length=500)
    order: Literal["different", "alike"] = "different"


def router(site: Site) -> APIRouter:
    """Return the routes of pairs."""
    routes = APIRouter(prefix="/pair", tags=["pair"])
    runs, stored = Runs(site), Stored(site)
    kept: KeptOdds = Kept(MOST_KEPT)
    captions: KeptCaptions = Kept(MOST_WRITTEN)
    finder = Finder(site, stored, kept)
    pages = Pages(site, stored, finder, kept, captions)
    worker = Worker(runs.load)

    def begin(head: str, work: Work) -> Events:
        """Submit work with a head, and return the response that reports it."""
        return Events(worker, worker.submit(Job(runs.head(head), work)))

    @routes.get("", response_model=PairPage | FinderPage)
    def pair(
        request: Request,
        search: Annotated[Search, Depends()],
        reference: Clip | None = None,
        candidate: Clip | None = None,
        at: Annotated[int, Query(ge=-1, le=10_000, description="place in the list of the search")] = -1,
    ) -> Response:
        """Two clips in step, what differs between them, and questions about them; without clips, a search for pairs."""
        heads = runs.heads()
        if reference is None and candidate is None:
            return page(request, "pair_finder.html", pages.finder(search, heads))
        if reference is None or candidate is None:
            raise StepDiffError("a pair has two clips: give reference and candidate, or neither to search for pairs")
        given = search if "at" in request.query_params else None
        loaded = None if worker.head is None else worker.head.name
        found = pages.pair((reference, candidate), given, at, heads, loaded, runs.words())
        return page(request, "pair.html", found)

    @routes.get("/words")
    def words(reference: Clip, candidate: Clip, head: str = Query(max_length=500)) -> PairWords:
        """Return the words for which each clip gives more evidence than the other, by a head of words of the runs."""
        site.clips([reference, candidate])
        if head not in runs.words():
            raise UnknownError(f"no head of words {head[:200]!r} among the runs: run python -m heads.words")
        return words_or_problem(site, head, runs.evidence, (reference, candidate))

    @routes.post("/ask", response_class=StreamingResponse, responses=_STREAM)
    def ask(body: AskBody) -> Response:
        """Answer a question about a pair, word by word: events `words` {text}, whose texts joined are the answer.

        `rests_on` of the event `done` has the words of each clip, as `/pair/words` returns them, that the head read
        before the question; it is empty for a head without evidence of words.
        """
        site.clips([body.reference, body.candidate])
        if (body.preset is None) == (not body.question.strip()):
            raise StepDiffError(f"give one question, or one preset: {', '.join(PRESETS)}")
        if body.preset is not None and body.preset not in PRESETS:
            raise StepDiffError(f"no preset {body.preset!r}; there are {', '.join(PRESETS)}")
        question = body.question if body.preset is None else PRESETS[body.preset]
        category = None if body.preset is None else PRESET_CATEGORIES[body.preset]
        both = body.reference, body.candidate
        return begin(body.head, asking.answer(site, kept, both, question, category, body.max_tokens))

    @routes.post("/alike", response_class=StreamingResponse, responses=_STREAM)
    def alike(body: PairBody) -> Response:
        """Compute log p(YES) - log p(NO) that a pair is similar, for every category."""
        site.clips([body.reference, body.candidate])
        return begin(body.head, asking.alike(kept, (body.reference, body.candidate)))

    @routes.post("/captions", response_class=StreamingResponse, responses=_STREAM)
    def write(body: PairBody) -> Response:
        """Write the difference captions of a pair, one for every category."""
        site.clips([body.reference, body.candidate])
        return begin(body.head, asking.write(kept, captions, stored, (body.reference, body.candidate)))

    @routes.post("/load", response_class=StreamingResponse, responses=_STREAM)
    def load(body: HeadBody) -> Response:
        """Load a head, and drop the one that is in memory."""
        return begin(body.head, asking.load)

    @routes.post("/find", response_class=StreamingResponse, responses=_STREAM)
    def find(body: FindBody) -> Response:
        """Score the candidate pairs of a search by a head: events `progress` {done, total}, `done` {address}."""
        head = runs.head(body.head)
        if body.category not in CATEGORIES:
            raise StepDiffError(f"no category {body.category[:100]!r}; there are {', '.join(CATEGORIES)}")
        search = Search(body.step, body.category, body.order, f"head:{head.name}")
        pairs, _ = finder.scored_pairs(body.step, head.view)
        return begin(head.name, asking.score(kept, pairs, search))

    return routes
