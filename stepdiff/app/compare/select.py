"""The selection of an address: methods, rows, their order, and the page.

Guarantees
- an address that a page gives leads to the same selection
- a selection without rows says which of its filters excludes them
- rows with equal values keep the order of the test set
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import numpy as np
from fastapi import Query
from jaxtyping import Bool, Float64, Int64
from pydantic import BaseModel, ConfigDict, Field

from stepdiff.app.compare.sets import RIGHT, WRONG, Column, TestSet
from stepdiff.app.site import UnknownError
from stepdiff_core.tasks.scoring import PUBLISHED

ROWS_AT_ONCE = 50  # rows of a page
MOST_METHODS = 10  # methods that are shown if none are chosen
Where = Literal["", "right", "wrong", "better", "worse", "differ"]
Sort = Literal["", "margin", "-margin", "loss", "value", "gap"]
Mask = Bool[np.ndarray, " rows"]
Name = Annotated[str, Field(max_length=300)]


class Selection(BaseModel):
    """The query of an address. Without a query, it is the first page of all rows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    set: Annotated[Name, Field(description="test set; empty: the first of the task")] = ""
    show: Annotated[
        list[Name], Field(max_length=200, description="methods that are shown; none: the first ten")
    ] = []
    a: Annotated[
        Name, Field(description="method that the others are compared with; empty: the first")
    ] = ""
    b: Annotated[
        Name, Field(description="the other method of `where`; empty: the next one that is shown")
    ] = ""
    where: Annotated[
        Where,
        Field(
            description=(
                "rows that A has right or wrong, where it is better or worse than B, or where they "
                "differ"
            )
        ),
    ] = ""
    category: Annotated[Name, Field(description="category of the rows")] = ""
    step: Annotated[
        Name, Field(description="step of the reference clip, by the store's catalog")
    ] = ""
    text: Annotated[
        Name, Field(description="words in the row's texts, clip ids or the captions shown")
    ] = ""
    common: Annotated[bool, Field(description="only rows that all methods shown have answered")] = (
        False
    )
    metric: Annotated[Name, Field(description="figure that methods are compared by")] = ""
    sort: Annotated[
        Sort, Field(description="order of the rows, by A; gap: by how much A is better than B")
    ] = ""
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    strips: Annotated[bool, Field(description="show the clips of all rows of the page")] = False
    row: Annotated[Name, Field(description="row that is open")] = ""

    def address(self, path: str, **changes: object) -> str:
        """Return the address of this selection with changes; they lead to the first page, without
        an open row."""
        changed = self.model_copy(update={"page": 1, "row": "", **changes})
        default = Selection()
        kept = {
            name: value
            for name, value in changed.model_dump().items()
            if value != getattr(default, name)
        }
        flags = {name: "1" if value is True else value for name, value in kept.items()}
        return quote(path) + ("?" + urlencode(flags, doseq=True) if flags else "")


Selected = Annotated[Selection, Query()]


@dataclass(frozen=True, eq=False)
class ChosenRows:
    """The rows and methods of a test set that an address selects."""

    selection: Selection
    tests: TestSet
    shown: list[Column]
    a: Column
    b: Column | None
    metric: str
    steps: Sequence[str | None]

    @cached_property
    def common(self) -> Mask:
        """The rows that all methods shown have answered."""
        return np.logical_and.reduce([column.answered for column in self.shown])

    @cached_property
    def masks(self) -> dict[str, tuple[str, Mask]]:
        """The rows that each filter leaves, with its words."""
        chosen, a = self.selection, self.a
        b = self.b.letter if self.b else "-"
        masks: dict[str, tuple[str, Mask]] = {}
        if chosen.where:
            words = {
                "right": f"{a.letter} is right",
                "wrong": f"{a.letter} is wrong",
                "better": f"{a.letter} is better than {b}",
                "worse": f"{a.letter} is worse than {b}",
                "differ": f"{a.letter} and {b} differ",
            }
            masks["where"] = words[chosen.where], related(chosen.where, a, self.b, self.metric)
        if chosen.category:
            equal = np.array([name == chosen.category for name in self.tests.categories], bool)
            masks["category"] = f"category {chosen.category}", equal
        if chosen.step:
            masks["step"] = (
                f"step {chosen.step}",
                np.array([name == chosen.step for name in self.steps], bool),
            )
        if chosen.text:
            masks["text"] = f"text {chosen.text}", self._text(chosen.text.casefold())
        if chosen.common:
            masks["common"] = "answered by all methods shown", self.common
        return masks

    @cached_property
    def mask(self) -> Mask:
        """The selected rows, which some method shown answers and all filters leave."""
        return self.outer & self.masks["where"][1] if "where" in self.masks else self.outer

    @cached_property
    def outer(self) -> Mask:
        """The rows that the filters leave which do not depend on right or wrong."""
        any_method = np.logical_or.reduce([column.answered for column in self.shown])
        return np.logical_and.reduce(
            [any_method, *(mask for name, (_, mask) in self.masks.items() if name != "where")]
        )

    @cached_property
    def order(self) -> Int64[np.ndarray, " selected"]:
        """The selected rows in the order of the page."""
        rows = np.flatnonzero(self.mask)
        if not self.selection.sort:
            return rows
        keys = self._sort_keys()[rows]
        return rows[np.argsort(np.where(np.isnan(keys), np.inf, keys), kind="stable")]

    def filters(self, path: str) -> list[dict[str, Any]]:
        """Return the filters, each with the rows that it leaves by itself, and the address of the
        page without it."""
        default = Selection()
        return [
            {"name": name, "words": words, "rows": int(mask.sum())}
            | {"without": self.selection.address(path, **{name: getattr(default, name)})}
            for name, (words, mask) in self.masks.items()
        ]

    def _text(self, text: str) -> Mask:
        mask = np.array([text in words for words in self.tests.texts], bool)
        if self.tests.task == "diffcap":
            for column in self.shown:
                mask |= np.array([text in caption for caption in column.captions], bool)
        return mask

    def _sort_keys(self) -> Float64[np.ndarray, " rows"]:
        sort, a = self.selection.sort, self.a
        if sort == "gap":
            return (self.b or a).values(self.metric) - a.values(self.metric)
        if sort == "loss":
            return -a.losses
        return (
            a.values(self.metric)
            if sort == "value"
            else -a.margins
            if sort == "-margin"
            else a.margins
        )


def choose(tests: TestSet, selection: Selection, steps: Sequence[str | None] = ()) -> ChosenRows:
    """Return the selected rows and methods of a test set; UnknownError if it has no such method or
    figure.

    steps: of each row; needed only if the selection has a step.
    """
    shown = [_column(tests, name) for name in selection.show] or tests.columns[:MOST_METHODS]
    shown = [column for column in tests.columns if column in shown]
    a = _column(tests, selection.a) if selection.a else shown[0]
    others = [column for column in shown if column is not a]
    b = _column(tests, selection.b) if selection.b else next(iter(others), None)
    metric = selection.metric or PUBLISHED[tests.task].main
    if metric not in tests.metrics:
        if selection.metric:
            raise UnknownError(f"metric {metric[:60]!r} is not one of {', '.join(tests.metrics)}")
        metric = tests.metrics[0]
    return ChosenRows(selection, tests, shown, a, b, metric, steps)


def related(where: Where, a: Column, b: Column | None, metric: str) -> Mask:
    """Return the rows with a relation between two methods, or between one of them and the truth."""
    if where in ("right", "wrong"):
        return a.verdicts == (RIGHT if where == "right" else WRONG)
    if b is None:
        raise UnknownError(
            f"where={where} compares two methods, and only one is shown: give more --predictions"
        )
    if where == "differ":  # another option, order of targets, or caption
        both = a.answered & b.answered
        for row in np.flatnonzero(both).tolist():
            both[row] = _answer(a, row) != _answer(b, row)
        return both
    better, worse = (a, b) if where == "better" else (b, a)
    with np.errstate(invalid="ignore"):
        return better.values(metric) > worse.values(metric)


def _answer(column: Column, row: int) -> object:
    prediction = column.prediction(row)
    if column.answers.of.task == "diffmcq":
        return column.choice(row)
    if column.answers.of.task == "diffrank":
        levels = {score: level for level, score in enumerate(sorted(set(prediction)))}
        return tuple(levels[score] for score in prediction)
    return prediction


def _column(tests: TestSet, name: str) -> Column:
    column = next((column for column in tests.columns if column.method.id == name), None)
    if column is None:
        names = ", ".join(column.method.id for column in tests.columns[:20])
        raise UnknownError(f"{tests.id} has no method {name[:200]!r}; it has {names}")
    return column


def counted(names: Iterable[str]) -> list[tuple[str, int]]:
    """Return each name with its number, sorted by name."""
    return sorted(Counter(names).items())
