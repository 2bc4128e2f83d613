"""The records of the pages: the list of test sets, and the rows of one.

Guarantees
- a page has at most 50 rows, and the list shows the figures of the record
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heads.reporting.entries import CHANCE
from stepdiff.app.compare.files import Broken, Method
from stepdiff.app.compare.rows import RowRecord, records
from stepdiff.app.compare.select import ROWS_AT_ONCE, Chosen, Filter, Where, counted, related
from stepdiff.app.compare.sets import Column, TestSet
from stepdiff.app.compare.totals import MethodTotals, Totals, Versus, names
from stepdiff.app.pages import Page
from stepdiff.app.site import Site
from stepdiff.tasks.published import PUBLISHED
from stepdiff.tasks.testsets import Task


@dataclass(frozen=True)
class MethodLine:
    """A method on a test set."""

    letter: str
    method: Method
    rows: int
    """rows that it answers"""
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
class Link:
    """Rows that one click selects, among those that the other filters leave."""

    rows: int
    address: str


@dataclass(frozen=True)
class ShownMethod:
    """A method in the header of the rows."""

    letter: str
    method: Method
    shown: bool
    base: bool
    """whether it is method A, that the others are compared with"""
    totals: MethodTotals | None
    """over the selected rows; null if it is not shown"""
    versus: Versus | None
    """compared with A; null for A itself"""
    make_base: str
    """address with this method as A"""
    right: Link | None
    """the rows that it answers right; null if it is not shown"""
    wrong: Link | None
    better: Link | None
    """the rows where it is better than A; null for A itself"""
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
    """address; empty if there is none"""
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
    """letter of method A"""
    b: str
    methods: list[ShownMethod]
    categories: list[tuple[str, int]]
    """categories and their rows"""
    steps: list[tuple[str, int]]
    all_rows: int
    common: int
    """rows that all methods shown have answered"""
    selected: int
    selected_videos: int
    filters: list[Filter]
    clear: str
    """address without filters"""
    export: str
    """address of the selected rows with their predictions, as an archive"""
    strips: str
    """address that shows or hides the clips of all rows"""
    at: Pages
    rows: list[RowRecord]


def set_line(tests: TestSet, path: str) -> SetLine:
    """Return the line of a test set with the figures of its methods."""
    everything = np.ones(len(tests.rows), bool)
    totals = Totals(tests, everything)
    lines = [
        MethodLine(column.letter, column.method, int(column.answered.sum()), totals.of(column))
        for column in tests.columns
    ]
    return SetLine(
        task=tests.task,
        task_name=PUBLISHED[tests.task].title,
        id=tests.id,
        name=tests.name,
        address=path,
        rows=len(tests.rows),
        videos=len(set(tests.videos)),
        categories=len(set(tests.categories)),
        common=int(np.logical_and.reduce([column.answered for column in tests.columns]).sum()),
        metrics=names(tests.metrics),
        chance={metric: CHANCE[metric] for metric in tests.metrics if metric in CHANCE},
        methods=lines,
    )


def rows_page(
    site: Site, chosen: Chosen, steps: Sequence[str | None], others: list[tuple[str, str]], path: str
) -> RowsPage:
    """Return the page of a selection."""
    tests, selection = chosen.tests, chosen.selection
    order = chosen.order
    pages = max(1, -(-len(order) // ROWS_AT_ONCE))
    if selection.row in tests.keys and (place := np.flatnonzero(order == tests.keys.index(selection.row))).size:
        number = int(place[0]) // ROWS_AT_ONCE + 1  # the page of the open row, also if other files have come in
    else:
        number = min(selection.page, pages)
    selection = selection.model_copy(update={"page": number})
    start = (number - 1) * ROWS_AT_ONCE
    here = order[start : start + ROWS_AT_ONCE].tolist()
    totals = Totals(tests, chosen.mask)
    return RowsPage(
        title=f"{PUBLISHED[tests.task].title}, {tests.name}",
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
        rows=records(site, chosen, here, path),
    )


def _method(chosen: Chosen, column: Column, totals: Totals, path: str) -> ShownMethod:
    address, own, base = chosen.selection.address, column.method.id, chosen.a
    shown, is_base = column in chosen.shown, column is base
    links: dict[str, Link | None] = dict.fromkeys(("right", "wrong", "better", "worse"))
    if shown:
        links |= {where: _link(chosen, path, where, column, None) for where in ("right", "wrong")}
    if shown and not is_base:
        links |= {
            "better": _link(chosen, path, "worse", base, column),
            "worse": _link(chosen, path, "better", base, column),
        }
    return ShownMethod(
        letter=column.letter,
        method=column.method,
        shown=shown,
        base=is_base,
        totals=totals.of(column) if shown or is_base else None,
        versus=totals.versus(column, base, chosen.metric) if shown and not is_base else None,
        make_base=address(path, a=own, b="", where="", sort=""),
        **links,
    )


def _link(chosen: Chosen, path: str, where: Where, a: Column, b: Column | None) -> Link:
    """Return a relation between methods, with the other filters as they are."""
    rows = int((chosen.outer & related(where, a, b, chosen.metric)).sum())
    names_of = {"a": a.method.id, "b": b.method.id if b else ""}
    return Link(rows, chosen.selection.address(path, where=where, **names_of))
