"""The rows of a page: truth, the answer of each method, and the clips.

Only the rows of the page are looked up in the store. Targets are in the order of their true scores, and in each
method's order, most similar first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from stepdiff.app.compare.select import Chosen
from stepdiff.app.compare.sets import RIGHT, WRONG, Column, TestSet
from stepdiff.app.compare.words import Piece, supported
from stepdiff.app.site import Site
from stepdiff.tasks.scoring import kendall_tau
from stepdiff.tasks.testsets import DiffCap, DiffMCQ, DiffRank, clips_of

MOST_TEXT = 2000
"""characters of a text that are shown"""
Verdict = Literal["right", "wrong", "", "absent"]


@dataclass(frozen=True)
class ClipNote:
    """A clip of a row."""

    key: str
    known: bool
    """whether the store has it, so that it can be opened"""
    pictures: bool
    """whether the store knows its place in a video"""


@dataclass(frozen=True)
class Cell:
    """The answer of a method in the table."""

    method: str
    letter: str
    verdict: Verdict
    """right, wrong, neither (empty), or absent: the method has not answered this row"""
    text: str
    """margin, tau, or the chosen figure of the row"""
    most: str
    """DiffRank: the highest tau that these scores can have in any order, where ties of the truth keep it below 1"""
    tie: bool
    """DiffMCQ: the answer shares the highest score with other options"""


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
    """The answer of a method in full."""

    letter: str
    name: str
    verdict: Verdict
    text: str
    """as in the cell, like `most`"""
    most: str
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
    """place in the test set, from 1"""
    category: str
    step: str | None
    question: str
    """what the table shows of the row: the difference text, the first reference text, or the reference clip"""
    references: list[str]
    """DiffCap: texts of people"""
    options: list[Option]
    """DiffMCQ: in the order of the row; DiffRank: targets by their true scores; DiffCap: the pair"""
    cells: list[Cell]
    replies: list[Reply]
    address: str
    """the page on which this row is open"""


def reference_clip(row: Any) -> str:
    """Return the reference clip of a row; of DiffMCQ that of the answer."""
    return str(row.answer[0] if isinstance(row, DiffMCQ) else row.reference)


def places_of(site: Site, keys: Sequence[str]) -> dict[str, tuple[bool, str | None]]:
    """Return for each clip that the store knows whether it has a place in a video, and its step."""
    like = pl.DataFrame(schema={"key": pl.String, "video": pl.String, "step": pl.String})
    catalog = site.store.catalog("clips")
    known = list(dict.fromkeys(keys))
    found = catalog.select(catalog.rows(known), like)
    pictures = site.videos is not None
    return {key: (pictures and video is not None, step) for _, key, video, step in found.iter_rows()}


def steps_of(site: Site, tests: TestSet) -> list[str | None]:
    """Return the step of each row's reference clip, None where the store does not know it."""
    keys = [reference_clip(row) for row in tests.rows]
    found = places_of(site, keys)
    return [found.get(key, (False, None))[1] for key in keys]


def records(site: Site, chosen: Chosen, places: Sequence[int], path: str) -> list[RowRecord]:
    """Return the rows at some places of the test set."""
    tests = chosen.tests
    known = places_of(site, [clip for place in places for clip in clips_of(tests.rows[place])])
    return [_record(chosen, place, known, path) for place in places]


def _record(chosen: Chosen, place: int, known: dict[str, tuple[bool, str | None]], path: str) -> RowRecord:
    tests, row = chosen.tests, chosen.tests.rows[place]
    key = tests.keys[place]
    options, order = _options(row, known)
    question = {"diffmcq": lambda: row.difference, "diffrank": lambda: row.reference}.get(
        tests.task, lambda: row.text[0] if row.text else "no difference"
    )()
    return RowRecord(
        id=key,
        number=place + 1,
        category=row.category,
        step=known.get(reference_clip(row), (False, None))[1],
        question=_short(question),
        references=[_short(text) for text in row.text] if isinstance(row, DiffCap) else [],
        options=options,
        cells=[_cell(chosen, column, place) for column in chosen.shown],
        replies=[_reply(chosen, column, place, order) for column in chosen.shown],
        address=chosen.selection.address(path, row=key, page=chosen.selection.page),
    )


def _options(row: Any, known: dict[str, tuple[bool, str | None]]) -> tuple[list[Option], list[int]]:
    """Return the options of a row, and the place in the row of each."""

    def note(key: str) -> ClipNote:
        return ClipNote(key, key in known, known.get(key, (False, None))[0])

    if isinstance(row, DiffMCQ):
        order = list(range(len(row.options)))
        truth = row.options.index(row.answer)
        pairs = [(*row.options[place], "answer" if place == truth else "") for place in order]
    elif isinstance(row, DiffRank):
        order = sorted(range(len(row.targets)), key=lambda place: -row.scores[place])
        pairs = [(row.reference, row.targets[place], str(row.scores[place])) for place in order]
    else:
        order, pairs = [0], [(row.reference, row.candidate, "")]
    options = [Option(number, note(one), note(two), truth) for number, (one, two, truth) in enumerate(pairs, 1)]
    return options, order


def _cell(chosen: Chosen, column: Column, place: int) -> Cell:
    task = chosen.tests.task
    value = column.margins[place] if task == "diffmcq" else column.values(chosen.metric)[place]
    text = "" if np.isnan(value) else signed(value) if task != "diffcap" else f"{value:.2f}"
    if task == "diffrank" and not text and column.answered[place]:
        text = "no order"
    most = ""
    if text and task == "diffrank":
        most = highest_tau(chosen.tests.rows[place], column.said(place), chosen.metric)
    tie = task == "diffmcq" and bool(value == 0)
    return Cell(column.method.id, column.letter, verdict(column, place), text, most, tie)


def highest_tau(row: DiffRank, said: Sequence[float], metric: str) -> str:
    """Return the tau of the scores in the order of the truth; empty if it is 1 or undefined."""
    least = 1 if metric.startswith("ktau_within_step") else 0
    counted = [(true, score) for true, score in zip(row.scores, said, strict=True) if true >= least]
    truth, scores = (np.array([sorted(values)], float) for values in zip(*counted, strict=True))
    tau = kendall_tau(scores, truth)[0]
    return "" if np.isnan(tau) or tau > 0.995 else f"{tau:.2f}"


def verdict(column: Column, place: int) -> Verdict:
    """Return the word of a verdict."""
    if not column.answered[place]:
        return "absent"
    found = column.verdicts[place]
    return "right" if found == RIGHT else "wrong" if found == WRONG else ""


def signed(value: float) -> str:
    """Return a number with its sign, to three digits: margins of log-likelihoods are small, those of logits large."""
    return (
        f"{value:+.2f}"
        if abs(value) >= 0.1 or value == 0
        else f"{value:+.1g}"
        if abs(value) < 0.01
        else f"{value:+.3f}"
    )


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"


def _reply(chosen: Chosen, column: Column, place: int, order: list[int]) -> Reply:
    row, said, places = chosen.tests.rows[place], column.said(place), list[Place]()
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
    caption = isinstance(row, DiffCap) and said is not None
    similar = column.answers.similar if caption else None
    cell = _cell(chosen, column, place)
    return Reply(
        column.letter,
        column.method.name,
        cell.verdict,
        cell.text,
        cell.most,
        places,
        supported(_short(said), row.text, chosen.tests.frequent_words) if caption else [],
        similar[column.place[place]] if similar else None,
    )
