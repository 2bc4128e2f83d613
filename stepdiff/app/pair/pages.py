"""The pages of a pair and of the finder: what the catalog, the videos, heads and predictions say about two clips."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from featurize.video.stream import opened
from stepdiff.app.cache import LRUCache
from stepdiff.app.pages import Page
from stepdiff.app.pair.alike import (
    DECLINES,
    PRESET_CATEGORIES,
    Cosine,
    KeptOdds,
    Similarities,
    cosines,
    embedding_views,
    similarity,
)
from stepdiff.app.pair.finder import Finder, Result, Search
from stepdiff.app.pair.loading import RunHead
from stepdiff.app.pair.stored import Caption, Captions, Stored
from stepdiff.app.site import ClipRecord, Site, UnknownError
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.declining import UNSURE
from stepdiff.tasks.prompts import PRESETS, SIMILAR_QUESTION
from stepdiff.tasks.testsets import CATEGORIES, Pair

MOST_STEPS = 2000
"""steps that can be chosen"""
MOST_CHARACTERS = 2000
"""of a value of the catalog"""
RATE, SIZE = 25.0, (160, 90)
"""where the video file is not known"""


@dataclass(frozen=True)
class Picture:
    """The pictures of a video file."""

    rate: float
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """A clip on the page of a pair."""

    clip: ClipRecord
    picture: Picture
    path: str
    """of its video file; empty: the catalog names none"""
    missing: str
    """why its video cannot be shown; empty: its file can be opened"""


@dataclass(frozen=True)
class Column:
    """A column of the catalog, or a known attribute."""

    name: str
    reference: str
    candidate: str
    differs: bool

    @property
    def of_file(self) -> bool:
        """Whether it identifies a video file, and says nothing about what the clip shows."""
        return self.name.endswith(("_bytes", "_digest"))


@dataclass(frozen=True)
class Written:
    """A caption that a head has written on request."""

    category: str
    caption: Caption
    declines: str
    """why the head would decline to name a difference; empty: it would not"""
    cut: bool
    """whether it was cut off at the longest caption"""


KeptCaptions = LRUCache[tuple[RunHead, Pair], list[Written]]


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
    previous: str
    back: str
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
    attributes: list[Column]
    """exact, of the sample world, those that differ first; empty: not known"""
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
    def __init__(self, site: Site, stored: Stored, finder: Finder, kept: KeptOdds, captions: KeptCaptions) -> None:
        self._site, self._stored, self._finder = site, stored, finder
        self._kept, self._captions = kept, captions

    def pair(
        self, pair: Pair, search: Search | None, at: int, heads: list[RunHead], loaded: str | None, words: list[str]
    ) -> PairPage:
        """Return the page of a pair. search, at: the list that it is shown from, and its place there."""
        first, second = self._site.clips(pair)
        swapped = {"reference": pair[1], "candidate": pair[0]}
        kept = [(head.name, self._captions.get((head, pair))) for head in heads]
        return PairPage(
            title=first.step if first.step and first.step == second.step else "A pair",
            reference=shown(self._site, first),
            candidate=shown(self._site, second),
            swapped="/pair?" + urlencode(swapped) if search is None else search.address(**swapped, at=at),
            listed=None if search is None else self._listed(pair, search, at, heads),
            columns=columns(self._site, pair),
            attributes=self._attributes(pair),
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
            written=[WrittenBy(name, written) for name, written in kept if written is not None],
            presets=[Preset(name, question, PRESET_CATEGORIES[name]) for name, question in PRESETS.items()],
        )

    def finder(self, search: Search, heads: list[RunHead]) -> FinderPage:
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
        steps = [(step, len(rows)) for step, rows in self._finder.sample().steps.items()][:MOST_STEPS]
        return FinderPage("Find a pair", search, result, problem, steps, list(CATEGORIES), methods)

    def _attributes(self, pair: Pair) -> list[Column]:
        truth = self._stored.truth_of(pair)
        if truth is None:
            return []
        one, two = map(asdict, truth)
        known = [_column(name, one[name], two[name]) for name in one if one[name] or two[name]]
        return sorted(known, key=lambda column: not column.differs)

    def _similar(self, pair: Pair, heads: list[RunHead]) -> list[Similarities]:
        """Return the log-odds of a pair that were computed, and those of stored predictions where they were not."""
        known = {head.name: dict(odds) for head in heads if (odds := self._kept.get((head, pair))) is not None}
        for name, odds in self._stored.similar(pair).items():
            known[name] = odds | known.get(name, {})
        return [Similarities(name, [similarity(*each) for each in odds.items()]) for name, odds in known.items()]

    def _listed(self, pair: Pair, search: Search, at: int, heads: list[RunHead]) -> Listed:
        try:
            pairs = self._finder.search(search, heads).pairs
        except UnknownError:  # the runs or predictions of the list are gone
            pairs = []
        places = [place for place, each in enumerate(pairs) if {each.reference, each.candidate} == set(pair)]
        place = places[0] if places else -1
        following = (place if places else at) + 1
        return Listed(
            number=place + 1,
            total=len(pairs),
            next=pairs[following].address if following < len(pairs) else "",
            previous=pairs[place - 1].address if place > 0 else "",
            back=search.address(),
            search=search,
        )


def _title(head: RunHead) -> str:
    return f"{head.name} ({head.system}, {Path(head.language_model).name})"


def shown(site: Site, clip: ClipRecord) -> Shown:
    """Return a clip with its frame rate; usual values, and the reason, where its video cannot be opened."""
    path = "" if clip.video is None else str(Path(site.videos or "") / clip.video)
    try:
        file = site.file(clip)
        return Shown(clip, _picture(file, file.stat().st_mtime_ns), path, "")
    except (StepDiffError, OSError) as error:
        return Shown(clip, Picture(RATE, *SIZE), path, str(error))


@lru_cache(maxsize=1024)
def _picture(path: Path, _changed: int) -> Picture:
    with opened(path) as video:
        rate = float(video.rate)
        context = video.stream.codec_context
        width, height = context.width or SIZE[0], context.height or SIZE[1]
    return Picture(rate if 1 <= rate <= 1000 else RATE, width, height)


def columns(site: Site, pair: Pair) -> list[Column]:
    """Return all columns of the catalog for two clips, empty where it has no value."""
    catalog = site.store.catalog("clips")
    rows = catalog.rows(list(pair))
    records = {row["row"]: row for row in catalog.select(rows).to_dicts()}
    one, two = (records[int(row)] for row in rows)
    names = [name for name in one if name not in ("row", "key")]
    return [_column(name, one[name], two[name]) for name in names]


def _column(name: str, one: Any, two: Any) -> Column:
    return Column(name, _text(one), _text(two), one != two)


def _text(value: Any) -> str:
    text = "" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."
