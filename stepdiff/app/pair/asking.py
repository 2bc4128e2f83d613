"""What is computed with a head: answers, log-odds, captions, scores of candidate pairs. Jobs of the worker.

Guarantees
- a streamed answer is that of heads.ask to the byte
- a cancelled answer stops before its next token
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stepdiff.app.kept import Kept
from stepdiff.app.pages import plain
from stepdiff.app.pair.alike import KeptOdds, declines, odds, score_pairs, similarity
from stepdiff.app.pair.finder import Search
from stepdiff.app.pair.loading import Loaded, RunHead
from stepdiff.app.pair.stored import Caption, Stored
from stepdiff.app.pair.words import words_of
from stepdiff.app.pair.worker import Job
from stepdiff.app.site import Site
from stepdiff.tasks.postprocess import parse
from stepdiff.tasks.testsets import CATEGORIES, DiffCap, Pair

MOST_TOKENS = 64
"""of an answer, as in heads.ask"""
MOST_WRITTEN = 1000
"""pairs whose captions are kept"""
Work = Callable[[Loaded, Job], dict[str, Any]]


@dataclass(frozen=True)
class Written:
    """A caption that a head has written on request."""

    category: str
    caption: Caption
    declines: str
    """why the head would decline to name a difference; empty: it would not"""


KeptCaptions = Kept[tuple[RunHead, Pair], list[Written]]


def answer(site: Site, kept: KeptOdds, pair: Pair, question: str, category: str | None, most_tokens: int) -> Work:
    """Return the work that answers a question about a pair, with an event `words` for what is new.

    category: what the question is about, None for no single category.
    """

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        start, first = time.monotonic(), 0.0

        def say(words: str) -> None:
            nonlocal first
            job.check()
            if words:
                first = first or time.monotonic() - start
                job.send("words", text=words)

        with loaded.computing():
            found = loaded.method.ask(*pair, question, most_tokens, say)
        seconds = time.monotonic() - start
        job.check()
        known = odds(loaded, kept, pair, CATEGORIES if category is None else [category])
        evidence = loaded.method.words if loaded.method.evidence.asked else None
        return {
            "answer": found,
            "rests_on": [] if evidence is None else plain(words_of(site, evidence, pair, question)),
            "declines": declines(known, category),
            "first": round(first, 3),
            "seconds": round(seconds, 3),
            "similar": [asdict(similarity(*each)) for each in known.items()],
        }

    return work


def alike(kept: KeptOdds, pair: Pair) -> Work:
    """Return the work that computes a pair's log-odds in every category."""

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        found = odds(loaded, kept, pair)
        return {"head": loaded.head.name, "values": [asdict(similarity(*each)) for each in found.items()]}

    return work


def write(kept: KeptOdds, captions: KeptCaptions, stored: Stored, pair: Pair) -> Work:
    """Return the work that writes a pair's captions, post-processed as `heads.evaluate` does."""

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        found = captions.get((loaded.head, pair))
        if found is None:
            rows = [DiffCap(*pair, category, ()) for category in CATEGORIES]
            with loaded.computing():
                texts = [parse(text) for text in loaded.method.caption(rows, job.check)]
            known = odds(loaded, kept, pair)
            references = stored.references(pair)
            found = [
                Written(category, stored.caption(pair, category, text, references), declines(known, category))
                for category, text in zip(CATEGORIES, texts, strict=True)
            ]
            captions.put((loaded.head, pair), found)
        return {"head": loaded.head.name, "captions": [asdict(each) for each in found]}

    return work


def score(kept: KeptOdds, pairs: list[Pair], search: Search) -> Work:
    """Return the work that scores the candidate pairs of a search, with events `progress` (done, total)."""

    def work(loaded: Loaded, job: Job) -> dict[str, Any]:
        score_pairs(loaded, kept, pairs, search.category, job)
        return {"address": search.address()}

    return work


def load(loaded: Loaded, job: Job) -> dict[str, Any]:
    """Return that a head is in memory."""
    return {"head": loaded.head.name}
