"""The pages of a pair and of the finder."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from stepdiff.app.pages import Page
from stepdiff.app.pair.alike import (
    DECLINES,
    PRESET_CATEGORIES,
    UNSURE,
    Cosine,
    KeptOdds,
    Similarities,
    cosines,
    embedding_views,
    similarity,
)
from stepdiff.app.pair.asking import KeptCaptions, Written
from stepdiff.app.pair.clips import Column, Shown, columns, shown
from stepdiff.app.pair.finder import Finder, Result, Search
from stepdiff.app.pair.loading import RunHead
from stepdiff.app.pair.stored import Captions, Stored
from stepdiff.app.site import Site, UnknownError
from stepdiff.tasks.prompts import PRESETS, SIMILAR_QUESTION
from stepdiff.tasks.testsets import CATEGORIES, Pair

MOST_STEPS = 2000
"""steps that can be chosen"""


@dataclass(frozen=True)
class HeadChoice:
    """A head that can be chosen."""

    name: str
    title: str
    loaded: bool


@dataclass(frozen=True)
class Preset:
    """A predefined question."""

    name: str
    question: str
    category: str | None


@dataclass(frozen=True)
class Listed:
    """Where a pair is in the list of a search."""

    number: int
    """from 1; 0: the pair is not in the list, or the list has to be computed again"""
    total: int
    next: str
    """address of the next pair; empty: none"""
    previous: str
    back: str
    """address of the list"""
    search: Search


@dataclass(frozen=True)
class WrittenBy:
    """Captions that a head has written on request."""

    head: str
    captions: list[Written]


@dataclass(frozen=True)
class PairPage(Page):
    """Two clips, what differs between them, and what heads say about them."""

    reference: Shown
    candidate: Shown
    swapped: str
    """address of the pair in the other order"""
    listed: Listed | None
    columns: list[Column]
    categories: list[str]
    heads: list[HeadChoice]
    words: list[str]
    """heads of words, whose evidence `/pair/words` returns"""
    similar: list[Similarities]
    """by the heads that have been asked, and by stored predictions"""
    truth: dict[str, int]
    """scores in DiffRank test sets: 5 is most similar"""
    cosines: list[Cosine]
    question: str
    """what heads are asked for `similar`; {category} is replaced"""
    unsure: float
    declines: float
    captions: Captions
    checked: bool
    """whether the exact attributes of both clips are known, so that details of captions are checked"""
    written: list[WrittenBy]
    presets: list[Preset]


@dataclass(frozen=True)
class FinderPage(Page):
    """A search for pairs, and its list."""

    search: Search
    result: Result
    problem: str
    """why the search has no result; empty: it has one"""
    steps: list[tuple[str, int]]
    """step and number of its clips, in the rows that were read"""
    categories: list[str]
    methods: list[tuple[str, str]]
    """value of `by` and its title"""


class Pages:
    """The pages of a site's pairs."""

    def __init__(self, site: Site, stored: Stored, finder: Finder, kept: KeptOdds, captions: KeptCaptions) -> None:
        self._site, self._stored, self._finder = site, stored, finder
        self._kept, self._captions = kept, captions

    def pair(
        self, pair: Pair, search: Search | None, at: int, heads: list[RunHead], loaded: str | None, words: list[str]
    ) -> PairPage:
        """Return the page of a pair. search, at: the list that it is shown from, and its place there."""
        first, second = self._site.clips(pair)
        swapped = {"reference": pair[1], "candidate": pair[0]}
        written = [
            WrittenBy(head.name, found) for head in heads if (found := self._captions.get((head, pair))) is not None
        ]
        return PairPage(
            title=first.step if first.step and first.step == second.step else "A pair",
            reference=shown(self._site, first),
            candidate=shown(self._site, second),
            swapped="/pair?" + urlencode(swapped) if search is None else search.address(**swapped, at=at),
            listed=None if search is None else self._listed(pair, search, at, heads),
            columns=columns(self._site, pair),
            categories=list(CATEGORIES),
            heads=[HeadChoice(head.name, _title(head), head.name == loaded) for head in heads],
            words=words,
            similar=self._similar(pair, heads),
            truth=self._stored.truth(pair),
            cosines=cosines(self._site, pair),
            question=SIMILAR_QUESTION,
            unsure=UNSURE,
            declines=DECLINES,
            captions=self._stored.captions(pair),
            checked=self._stored.truth_of(pair) is not None,
            written=written,
            presets=[Preset(name, question, PRESET_CATEGORIES[name]) for name, question in PRESETS.items()],
        )

    def finder(self, search: Search, heads: list[RunHead]) -> FinderPage:
        """Return the page of a search."""
        problem, result = "", Result([], "", "")
        try:
            result = self._finder.search(search, heads)
        except UnknownError as error:
            problem = str(error)
        methods = [(f"cosine:{view}", f"cosine of {view} (whole clips)") for view in embedding_views(self._site)]
        methods += [(f"head:{head.name}", f"log-odds of {head.name} (computed)") for head in heads]
        rankings = self._stored.rankings()
        methods += [(f"stored:{name}", f"predictions of {title}") for name, title in rankings]
        methods += [("truth", "true scores (DiffRank)")] if rankings else []
        steps = self._finder.steps()[:MOST_STEPS]
        return FinderPage("Find a pair", search, result, problem, steps, list(CATEGORIES), methods)

    def _similar(self, pair: Pair, heads: list[RunHead]) -> list[Similarities]:
        """Return the log-odds of a pair that were computed, and those of stored predictions where they were not."""
        found = {head.name: dict(odds) for head in heads if (odds := self._kept.get((head, pair))) is not None}
        for each in self._stored.similar(pair):
            own = found.setdefault(each.head, {})
            found[each.head] = {value.category: value.log_odds for value in each.values} | own
        return [Similarities(name, [similarity(*each) for each in own.items()]) for name, own in found.items()]

    def _listed(self, pair: Pair, search: Search, at: int, heads: list[RunHead]) -> Listed:
        try:
            found = self._finder.search(search, heads).pairs
        except UnknownError:  # the runs or predictions of the list are gone
            found = []
        places = [place for place, each in enumerate(found) if {each.reference, each.candidate} == set(pair)]
        place = places[0] if places else -1
        following = found[place + 1 : place + 2] if places else found[at + 1 : at + 2]
        before = found[place - 1 : place] if place > 0 else []
        return Listed(
            place + 1,
            len(found),
            following[0].address if following else "",
            before[0].address if before else "",
            search.address(),
            search,
        )


def _title(head: RunHead) -> str:
    return f"{head.name} ({head.system}, {Path(head.language_model).name})"
