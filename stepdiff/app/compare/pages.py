"""The records of the pages: the list of test sets, and the rows of one with truth, answers and clips.

Only the rows of the page, at most 50, are looked up in the store. Targets are in the order of their true scores, and in
each method's order, most similar first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from heads.reporting.entries import CHANCE
from stepdiff.app.compare.files import Broken, Method
from stepdiff.app.compare.select import ROWS_AT_ONCE, Chosen, Filter, Where, counted, related
from stepdiff.app.compare.sets import NEITHER, RIGHT, WRONG, Column, Piece, TestSet, supported
from stepdiff.app.compare.totals import MethodTotals, Totals, Versus, names
from stepdiff.app.pages import Page
from stepdiff.app.site import Site
from stepdiff.tasks.published import PUBLISHED
from stepdiff.tasks.scoring import kendall_tau
from stepdiff.tasks.testsets import DiffCap, DiffMCQ, DiffRank, Task, clips_of

MOST_TEXT = 2000
"""characters of a text that are shown"""
Verdict = Literal["right", "wrong", "", "absent"]
"""empty: neither; absent: the method has not answered the row"""
_VERDICTS: dict[int, Verdict] = {RIGHT: "right", WRONG: "wrong", NEITHER: ""}


@dataclass(frozen=True)
class MethodLine:
    """A method on a test set."""

    letter: str
    method: Method
    rows: int
    totals: MethodTotals


@dataclass(frozen=True)
class SetLine:
    """A test set and its methods."""

    task: Task
    task_name: str
    id: str
    name: str
    address: str
    rows: int
    videos: int
    categories: int
    common: int
    """rows that all methods have answered"""
    metrics: dict[str, str]
    """figure -> its heading"""
    chance: dict[str, float]
    """figure -> what random answers have"""
    methods: list[MethodLine]


@dataclass(frozen=True)
class ComparePage(Page):
    """The test sets of the predictions."""

    sets: list[SetLine]
    broken: list[Broken]


@dataclass(frozen=True)
class ClipNote:
    """A clip of a row."""

    key: str
    known: bool
    """whether the store has it, so that it can be opened"""
    pictures: bool
    """whether the store knows its place in a video"""


@dataclass(frozen=True)
class Option:
    """A pair of clips that DiffMCQ offers, or a target of DiffRank, or the pair of DiffCap."""

    number: int
    reference: ClipNote
    candidate: ClipNote
    truth: str
    """empty; "answer"; or the true score of a target"""


@dataclass(frozen=True)
class Place:
    """An option in a method's answer."""

    number: int
    score: float
    chosen: bool
    """DiffMCQ: the method's choice"""
    above: bool
    """DiffRank: it is placed above a target that is more similar in truth"""


@dataclass(frozen=True)
class Reply:
    """The answer of a method."""

    letter: str
    name: str
    verdict: Verdict
    text: str
    most: str
    """DiffRank: the highest tau that these scores can have in any order, where ties of the truth keep it below 1"""
    tie: bool
    """DiffMCQ: the answer shares the highest score with other options"""
    places: list[Place]
    """DiffMCQ: in the order of the options; DiffRank: in the method's order, most similar first"""
    caption: list[Piece]
    similar: float | None
    """DiffCap: log p(YES) - log p(NO) that the clips are similar"""


@dataclass(frozen=True)
class RowRecord:
    """A row of a test set with its answers."""

    id: str
    number: int
    category: str
    step: str | None
    question: str
    """what the table shows of the row: the difference text, the first reference text, or the reference clip"""
    references: list[str]
    """DiffCap: texts of people"""
    options: list[Option]
    """DiffMCQ: in the order of the row; DiffRank: targets by their true scores; DiffCap: the pair"""
    replies: list[Reply]
    address: str
    """the page on which this row is open"""


@dataclass(frozen=True)
class Link:
    """Rows that one click selects, among those that the other filters leave."""

    rows: int
    address: str


@dataclass(frozen=True)
class ShownMethod:
    """A method in the header of the rows. What is null is not shown, or is method A itself."""

    letter: str
    method: Method
    shown: bool
    base: bool
    """whether it is method A, that the others are compared with"""
    make_base: str
    """address with this method as A"""
    totals: MethodTotals | None
    versus: Versus | None
    right: Link | None
    wrong: Link | None
    better: Link | None
    worse: Link | None


@dataclass(frozen=True)
class Pages:
    """Where the page is among those of the selection."""

    page: int
    pages: int
    first: int
    """number of its first row in the selection, from 1"""
    last: int
    previous: str
    """address; empty: none"""
    next: str


@dataclass(frozen=True)
class RowsPage(Page):
    """The rows of a test set that an address selects."""

    task: Task
    task_name: str
    path: str
    set: str
    others: list[tuple[str, str]]
    """address and name of the task's other test sets"""
    selection: dict[str, str | int | bool | list[str]]
    metric: str
    metrics: dict[str, str]
    a: str
    b: str
    methods: list[ShownMethod]
    categories: list[tuple[str, int]]
    steps: list[tuple[str, int]]
    all_rows: int
    common: int
    """rows that all methods shown have answered"""
    selected: int
    selected_videos: int
    filters: list[Filter]
    clear: str
    export: str
    """address of the selected rows with their predictions, as an archive"""
    strips: str
    """address that shows or hides the clips of all rows"""
    at: Pages
    rows: list[RowRecord]


def set_line(tests: TestSet, path: str) -> SetLine:
    totals = Totals(tests, np.ones(len(tests.rows), bool))
    return SetLine(
        task=tests.task,
        task_name=PUBLISHED[tests.task].title,
        id=tests.id,
        name=tests.id,
        address=path,
        rows=len(tests.rows),
        videos=len(set(tests.videos)),
        categories=len(set(tests.categories)),
        common=int(np.logical_and.reduce([column.answered for column in tests.columns]).sum()),
        metrics=names(tests.metrics),
        chance={metric: CHANCE[metric] for metric in tests.metrics if metric in CHANCE},
        methods=[
            MethodLine(column.letter, column.method, int(column.answered.sum()), totals.of(column))
            for column in tests.columns
        ],
    )


def rows_page(
    site: Site, chosen: Chosen, steps: Sequence[str | None], others: list[tuple[str, str]], path: str
) -> RowsPage:
    tests, selection, order = chosen.tests, chosen.selection, chosen.order
    pages = max(1, -(-len(order) // ROWS_AT_ONCE))
    if selection.row in tests.keys and (place := np.flatnonzero(order == tests.keys.index(selection.row))).size:
        number = int(place[0]) // ROWS_AT_ONCE + 1  # the page of the open row, also if other files have come in
    else:
        number = min(selection.page, pages)
    selection = selection.model_copy(update={"page": number})
    start = (number - 1) * ROWS_AT_ONCE
    here = order[start : start + ROWS_AT_ONCE].tolist()
    known = places_of(site, [clip for place in here for clip in clips_of(tests.rows[place])])
    totals = Totals(tests, chosen.mask)
    return RowsPage(
        title=f"{PUBLISHED[tests.task].title}, {tests.id}",
        task=tests.task,
        task_name=PUBLISHED[tests.task].title,
        path=path,
        set=tests.id,
        others=others,
        selection=selection.model_dump(),
        metric=chosen.metric,
        metrics=names(tests.metrics),
        a=chosen.a.letter,
        b=chosen.b.letter if chosen.b else "",
        methods=[_method(chosen, column, totals, path) for column in tests.columns],
        categories=counted(tests.categories),
        steps=counted(step for step in steps if step is not None),
        all_rows=len(tests.rows),
        common=int(chosen.common.sum()),
        selected=len(order),
        selected_videos=len({tests.videos[place] for place in order}),
        filters=chosen.filters(path),
        clear=selection.address(path, where="", category="", step="", text="", common=False),
        export=selection.address(f"{path}/export"),
        strips=selection.address(path, strips=not selection.strips, page=number),
        at=Pages(
            number,
            pages,
            start + 1 if here else 0,
            start + len(here),
            selection.address(path, page=number - 1) if number > 1 else "",
            selection.address(path, page=number + 1) if number < pages else "",
        ),
        rows=[_record(chosen, place, known, path) for place in here],
    )


def _method(chosen: Chosen, column: Column, totals: Totals, path: str) -> ShownMethod:
    base, shown = column is chosen.a, column in chosen.shown

    def link(where: Where, a: Column, b: Column | None = None) -> Link:
        """Return a relation between methods, with the other filters as they are."""
        rows = int((chosen.outer & related(where, a, b, chosen.metric)).sum())
        methods = {"a": a.method.id, "b": b.method.id if b else ""}
        return Link(rows, chosen.selection.address(path, where=where, **methods))

    return ShownMethod(
        letter=column.letter,
        method=column.method,
        shown=shown,
        base=base,
        make_base=chosen.selection.address(path, a=column.method.id, b="", where="", sort=""),
        totals=totals.of(column) if shown or base else None,
        versus=totals.versus(column, chosen.a, chosen.metric) if shown and not base else None,
        right=link("right", column) if shown else None,
        wrong=link("wrong", column) if shown else None,
        better=link("worse", chosen.a, column) if shown and not base else None,
        worse=link("better", chosen.a, column) if shown and not base else None,
    )


Known = dict[str, tuple[bool, str | None]]
"""clip that the store has -> whether it has a place in a video, and its step"""


def places_of(site: Site, keys: Sequence[str]) -> Known:
    """Return what the store knows of clips."""
    like = pl.DataFrame(schema={"key": pl.String, "video": pl.String, "step": pl.String})
    catalog = site.store.catalog("clips")
    rows = catalog.select(catalog.rows(list(dict.fromkeys(keys))), like)
    return {key: (site.videos is not None and video is not None, step) for _, key, video, step in rows.iter_rows()}


def steps_of(site: Site, tests: TestSet) -> list[str | None]:
    """Return the step of each row's reference clip, None where the store does not know it."""
    keys = [_reference(row) for row in tests.rows]
    known = places_of(site, keys)
    return [known.get(key, (False, None))[1] for key in keys]


def _reference(row: Any) -> str:
    """Return the reference clip of a row; of DiffMCQ that of the answer."""
    return str(row.answer[0] if isinstance(row, DiffMCQ) else row.reference)


def _record(chosen: Chosen, place: int, known: Known, path: str) -> RowRecord:
    row, key = chosen.tests.rows[place], chosen.tests.keys[place]

    def note(clip: str) -> ClipNote:
        return ClipNote(clip, clip in known, known.get(clip, (False, None))[0])

    texts: tuple[str, ...] = ()
    if isinstance(row, DiffMCQ):
        order, question = list(range(len(row.options))), row.difference
        answer = row.options.index(row.answer)
        pairs = [(*pair, "answer" if number == answer else "") for number, pair in enumerate(row.options)]
    elif isinstance(row, DiffRank):
        order, question = sorted(range(len(row.targets)), key=lambda at: -row.scores[at]), row.reference
        pairs = [(row.reference, row.targets[at], str(row.scores[at])) for at in order]
    else:
        order, texts, pairs = [0], row.text, [(row.reference, row.candidate, "")]
        question = texts[0] if texts else "no difference"
    return RowRecord(
        id=key,
        number=place + 1,
        category=row.category,
        step=known.get(_reference(row), (False, None))[1],
        question=_short(question),
        references=[_short(text) for text in texts],
        options=[Option(number, note(one), note(two), truth) for number, (one, two, truth) in enumerate(pairs, 1)],
        replies=[_reply(chosen, column, place, order) for column in chosen.shown],
        address=chosen.selection.address(path, row=key, page=chosen.selection.page),
    )


def _reply(chosen: Chosen, column: Column, place: int, order: list[int]) -> Reply:
    """Return a method's answer to the row at a place. order: the place in the row of each option that is shown."""
    task, row, said = chosen.tests.task, chosen.tests.rows[place], column.said(place)
    value = column.margins[place] if task == "diffmcq" else column.values(chosen.metric)[place]
    text = "" if np.isnan(value) else f"{value:.2f}" if task == "diffcap" else signed(value)
    most, places, caption, similar = "", list[Place](), list[Piece](), None
    if said is not None and isinstance(row, DiffMCQ):
        choice = column.choice(place)
        places = [Place(number, score, number - 1 == choice, False) for number, score in enumerate(said, 1)]
    elif said is not None and isinstance(row, DiffRank):
        numbers = sorted(range(1, len(order) + 1), key=lambda number: -said[order[number - 1]])
        truth = [row.scores[order[number - 1]] for number in numbers]
        places = [
            Place(number, said[order[number - 1]], False, truth[at] < max(truth[at:]))
            for at, number in enumerate(numbers)
        ]
        most = highest_tau(row, said, chosen.metric) if text else ""
        text = text or "no order"
    elif said is not None and isinstance(row, DiffCap):
        caption = supported(_short(said), row.text, chosen.tests.frequent_words)
        similar = column.answers.similar[column.place[place]] if column.answers.similar else None
    verdict: Verdict = "absent" if said is None else _VERDICTS[int(column.verdicts[place])]
    tie = task == "diffmcq" and bool(value == 0)
    return Reply(column.letter, column.method.name, verdict, text, most, tie, places, caption, similar)


def highest_tau(row: DiffRank, said: Sequence[float], metric: str) -> str:
    """Return the tau of the scores in the order of the truth; empty if it is 1 or undefined."""
    least = 1 if metric.startswith("ktau_within_step") else 0
    counted = [(true, score) for true, score in zip(row.scores, said, strict=True) if true >= least]
    truth, scores = (np.array([sorted(values)], float) for values in zip(*counted, strict=True))
    tau = kendall_tau(scores, truth)[0]
    return "" if np.isnan(tau) or tau > 0.995 else f"{tau:.2f}"


def signed(value: float) -> str:
    """Return a number with its sign, to three digits: margins of log-likelihoods are small, those of logits large."""
    if abs(value) >= 0.1 or value == 0:
        return f"{value:+.2f}"
    return f"{value:+.1g}" if abs(value) < 0.01 else f"{value:+.3f}"


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"
