"""Test sets, the methods that answer them, and their totals. Rows are equal by content, whatever
their place in a file.

Files of one task belong to one test set if they name the same one and share a row, or if one of
them shares half of its rows with the set. The n-th of several equal rows of a file is the n-th of
them in another file.

A right order of DiffRank is one with a margin above 0.

Totals are the figures of `stepdiff_core.tasks.scoring` over selected rows; an interval resamples
the videos of their reference clips; methods are compared on the rows that both have answered, on
the same resamples. CIDEr has the document frequencies of the rows that it is computed on.

Guarantees
- totals equal the report of a test set with the selected rows: figures, intervals, differences and
  p
- no interval of fewer than two videos
"""

import hashlib
import itertools
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from heads.reporting.entries import AMONG, METRICS
from heads.reporting.figures import defined_rows
from stepdiff.app.compare.files import Answers, PredictionMethod
from stepdiff_core.tasks.bootstrap import Figure, Resamples, interval, paired_p
from stepdiff_core.tasks.clauses import ADVERBS, AUXILIARIES, DETERMINERS, OBJECTS, PREPOSITIONS
from stepdiff_core.tasks.scoring import PUBLISHED, cider_figure
from stepdiff_core.tasks.testsets import DiffMCQ, DiffRank, Task

RIGHT, WRONG, NEITHER = 1, 0, -1
"""verdicts: NEITHER for a row without an answer, or whose answer is neither right nor wrong"""


@dataclass(frozen=True, eq=False)
class Column:
    """A method on a test set: one entry for each row of the set."""

    letter: str
    method: PredictionMethod
    answers: Answers
    # line of the answer, from 0; -1: the method does not answer the row
    place: Int64[np.ndarray, " rows"]
    _values: dict[str, Float64[np.ndarray, " rows"]] = field(default_factory=dict)

    @cached_property
    def answered(self) -> Bool[np.ndarray, " rows"]:
        return self.place >= 0

    def prediction(self, row: int) -> Any:
        """Return the prediction for a row, None if there is none."""
        return self.answers.predictions[self.place[row]] if self.place[row] >= 0 else None

    @cached_property
    def captions(self) -> list[str]:
        """The caption of each row without case, for searching; empty for a row without an
        answer."""
        return [(self.prediction(row) or "").casefold() for row in range(len(self.place))]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the file, whose parts are spread over the rows of the set (0 for rows
        without an answer)."""
        figures, _ = self.answers.measured
        return {
            name: Figure(self._spread(figure.parts, 0.0), figure.value)
            for name, figure in figures.items()
        }

    def values(self, metric: str) -> Float64[np.ndarray, " rows"]:
        """Return a figure of each row by itself, NaN if it is undefined."""
        if metric not in self.figures:  # defined on none of the rows that the method answers
            return np.full(len(self.place), np.nan)
        if metric not in self._values:
            figure = self.figures[metric]
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.asarray(figure.value(figure.parts), float)
            if metric == "accuracy" and self.chooses:
                values = figure.parts[:, 0]  # in a row with a tie the first option is chosen
            self._values[metric] = np.where(self.answered, values, np.nan)
        return self._values[metric]

    @cached_property
    def chooses(self) -> bool:
        """Whether the method has chosen options of DiffMCQ: it prefers one in some row."""
        return "accuracy" in self.figures and math.isfinite(self.figures["accuracy"].of())

    def choice(self, row: int) -> int | None:
        """Return the option that DiffMCQ's answer to a row chooses, None without an answer or a
        choice."""
        scores = self.prediction(row)
        return scores.index(max(scores)) if scores is not None and self.chooses else None

    @cached_property
    def verdicts(self) -> Int8[np.ndarray, " rows"]:
        """RIGHT, WRONG or NEITHER for each row.

        DiffMCQ: whether the choice is the answer; NEITHER for a method that prefers no option in
        any row. DiffRank: whether all pairs of targets that the truth orders are in that order.
        DiffCap: whether a caption declines that should, or does although the clips differ; all
        others NEITHER.
        """
        task = self.answers.of.task
        verdicts = np.full(len(self.place), NEITHER, np.int8)
        if task == "diffmcq":
            values = self.values("accuracy")
            verdicts[values == 1], verdicts[values == 0] = RIGHT, WRONG
        elif task == "diffrank":
            verdicts[self.margins > 0], verdicts[self.margins <= 0] = RIGHT, WRONG
        else:
            verdicts[self.values("declined") == 1] = WRONG
            if "invented" in self.figures:
                invented = self.values("invented")
                verdicts[invented == 0], verdicts[invented == 1] = RIGHT, WRONG
        return verdicts

    @cached_property
    def margins(self) -> Float64[np.ndarray, " rows"]:
        """How clear the answer is: above 0 it is right. NaN if it has no margin.

        DiffMCQ: score of the answer less the highest other score. DiffRank: the smallest score of a
        target less the score of a target that is less similar in truth.
        """
        return self._per_row(margin)

    @cached_property
    def losses(self) -> Float64[np.ndarray, " rows"]:
        """DiffMCQ: cross entropy of the softmax of the scores, in nats. DiffRank: 1 - tau. NaN if
        undefined."""
        if self.answers.of.task == "diffrank":
            return 1 - self.values("ktau_all_rows")
        return self._per_row(cross_entropy)

    @cached_property
    def undecided(self) -> Bool[np.ndarray, " rows"]:
        """The rows whose highest score several options share, or to which the method gives no
        order."""
        marks = self.answers.measured[1]
        unclear = marks.get(
            "ties", marks.get("nan_rows", np.zeros(len(self.answers.predictions), bool))
        )
        return self._spread(unclear.astype(float), 0.0) > 0

    def _per_row(
        self, function: Callable[[Any, Sequence[float]], float]
    ) -> Float64[np.ndarray, " rows"]:
        if self.answers.of.task == "diffcap":
            return np.full(len(self.place), np.nan)
        values = list(map(function, self.answers.of.rows, self.answers.predictions))
        return self._spread(np.array(values, float), np.nan)

    def _spread(self, of_file: np.ndarray, empty: float) -> np.ndarray:
        """Entries of the file's rows as entries of the set's rows."""
        values = np.full((len(self.place), *of_file.shape[1:]), empty)
        values[self.answered] = of_file[self.place[self.answered]]
        return values


@dataclass(frozen=True, eq=False)
class TestSet:
    """Rows that methods answer."""

    __test__ = False  # not a class of tests

    id: str  # its name, also in addresses
    task: Task
    rows: list[Any]  # every row that some method answers, in the order of the largest file
    keys: list[str]  # an id of each row, by its content
    videos: list[str]
    columns: list[Column]

    @cached_property
    def metrics(self) -> list[str]:
        """The figures that are shown."""
        names = [name for name, rows in self.defined.items() if rows.any()]
        return [name for name in names if name != "declined" or "invented" in names]

    @cached_property
    def defined(self) -> dict[str, Bool[np.ndarray, " rows"]]:
        """The rows that each figure is defined on; a method has those figures that its rows
        define."""
        names = (*PUBLISHED[self.task].figures, *PUBLISHED[self.task].further)
        measured = {name for column in self.columns for name in column.figures}
        return {
            name: np.asarray(defined_rows(name, self.rows), bool)
            for name in names
            if name in measured
        }

    @cached_property
    def categories(self) -> list[str]:
        return [row.category for row in self.rows]

    @cached_property
    def texts(self) -> list[str]:
        """The words of each row that a search reads: its clips, category and texts, without
        case."""
        return [" ".join(_strings(asdict(row))).casefold() for row in self.rows]

    @cached_property
    def frequent_words(self) -> frozenset[str]:
        """The words of DiffCap's reference texts that many rows share."""
        return frequent(row.text for row in self.rows) if self.task == "diffcap" else frozenset()

    @cached_property
    def totals(self) -> list[dict[str, Any]]:
        """The totals of each method over all rows that it answers."""
        totals = Totals(self, np.ones(len(self.rows), bool))
        return [totals.of(column) for column in self.columns]


RESAMPLES, SEED = 1000, 0
"""as heads.evaluate has them by default"""
Mask = Bool[np.ndarray, " rows"]


class Totals:
    """Totals over the rows that a mask selects."""

    def __init__(self, tests: TestSet, mask: Mask) -> None:
        self._tests, self._mask = tests, mask
        self._draws: dict[bytes, Resamples] = {}
        self._rarities: dict[tuple[Column, bytes], Figure] = {}

    def of(self, column: Column) -> dict[str, Any]:
        """Return the totals of a method over the selected rows that it answers.

        Each of `figures` has the `rows` that it is defined on, and their `videos`; an undefined
        `value` is None. undecided: rows whose highest score several options share, or to which the
        method gives no order.
        """
        mask, figures = self._mask & column.answered, []
        for metric in self._tests.metrics:
            rows, videos = self._counts(metric, mask)
            value, values = self._values(column, metric, mask)
            total = {
                "metric": metric,
                "value": value if math.isfinite(value) else None,
                "rows": rows,
                "videos": videos,
            }
            figures.append(total | {"interval": interval(values, videos) if videos > 1 else None})
        return {"figures": figures, "undecided": int((column.undecided & mask).sum())}

    def versus(self, column: Column, base: Column, metric: str) -> dict[str, Any]:
        """Return a method compared with another by a figure, on the selected rows that both have
        answered.

        p: two-sided, under no difference; not corrected for the number of comparisons.
        """
        mask = self._mask & column.answered & base.answered
        rows, videos = self._counts(metric, mask)
        (mine, my_values), (other, other_values) = (
            self._values(each, metric, mask) for each in (column, base)
        )
        difference = mine - other if math.isfinite(mine - other) else None
        within, p = None, None
        if difference is not None and videos > 1:
            apart = my_values - other_values
            within, p = interval(apart, videos), paired_p(apart, videos)
        return {"difference": difference, "interval": within, "p": p, "rows": rows}

    def _counts(self, metric: str, mask: Mask) -> tuple[int, int]:
        """Return how many marked rows a figure is defined on, and of how many videos."""
        counted = mask & self._tests.defined[metric]
        return int(counted.sum()), len(set(itertools.compress(self._tests.videos, counted)))

    def _values(
        self, column: Column, metric: str, mask: Mask
    ) -> tuple[float, Float64[np.ndarray, " resamples"]]:
        """Return a figure over the marked rows, and on each resample; NaN if the method has no such
        figure."""
        if metric not in column.figures:
            return math.nan, np.full(RESAMPLES, np.nan)
        whole, places, key = column.figures[metric], np.flatnonzero(mask).tolist(), mask.tobytes()
        figure = Figure(whole.parts[mask], whole.value)
        # document frequencies of the marked rows
        if metric == "CIDEr" and not np.array_equal(mask, column.answered):
            if (column, key) not in self._rarities:
                rows = [self._tests.rows[place] for place in places]
                self._rarities[column, key] = cider_figure(
                    rows, [column.prediction(place) for place in places]
                )
            figure = self._rarities[column, key]
        if key not in self._draws:
            self._draws[key] = Resamples(
                [self._tests.videos[place] for place in places], RESAMPLES, SEED
            )
        return figure.of(), self._draws[key].values(figure)


def names(metrics: Sequence[str]) -> dict[str, str]:
    """Return a heading of each figure."""
    return {
        metric: METRICS[metric].removesuffix(", as written") + AMONG.get(metric, "")
        for metric in metrics
    }


def margin(row: DiffMCQ | DiffRank, scores: Sequence[float]) -> float:
    """Return the margin of one answer, as `Column.margins`."""
    if isinstance(row, DiffMCQ):
        truth = row.options.index(row.answer)
        return scores[truth] - max(score for place, score in enumerate(scores) if place != truth)
    levels: dict[int, list[float]] = {}
    for true, score in zip(row.scores, scores, strict=True):
        levels.setdefault(true, []).append(score)
    gaps, highest = list[float](), -float("inf")
    for level in sorted(levels):
        gaps.append(min(levels[level]) - highest)
        highest = max(highest, *levels[level])
    return min(gaps[1:], default=float("nan"))


def cross_entropy(row: DiffMCQ, scores: Sequence[float]) -> float:
    """Return -log softmax(scores)[answer]."""
    return float(np.logaddexp.reduce(scores) - scores[row.options.index(row.answer)])


def grouped(files: Sequence[Answers]) -> list[TestSet]:
    """Return the test sets of some files, in the order of tasks and names."""
    groups: list[list[Answers]] = []
    for answers in sorted(files, key=lambda answers: -len(answers.of.rows)):
        joined = [group for group in groups if any(_same(member, answers) for member in group)]
        groups = [
            *(group for group in groups if group not in joined),
            [*itertools.chain(*joined), answers],
        ]
    sets = [(members[0].of.task, _name(members), members) for members in groups]
    sets.sort(key=lambda one: one[:2])
    names = [(task, name) for task, name, _ in sets]
    return [
        _test_set(task, name, members, unique=names.count((task, name)) == 1)
        for task, name, members in sets
    ]


def _same(one: Answers, other: Answers) -> bool:
    """Return whether two files are about one test set."""
    if one.of is other.of:
        return True
    if one.of.task != other.of.task:
        return False
    shared = len(one.of.identities.keys() & other.of.identities.keys())
    fewer = min(len(one.of.rows), len(other.of.rows))
    return shared * 2 >= fewer or (shared > 0 and one.test_set == other.test_set)


def _name(members: Sequence[Answers]) -> str:
    names = [answers.test_set for answers in members]
    return max(dict.fromkeys(names), key=names.count)


def _test_set(task: Task, name: str, members: Sequence[Answers], unique: bool) -> TestSet:
    place: dict[tuple[str, int], int] = {}
    rows: list[Any] = []
    videos: list[str] = []
    for of in dict.fromkeys(answers.of for answers in members):  # the largest first
        for identity, line in of.identities.items():
            if place.setdefault(identity, len(rows)) == len(rows):
                rows.append(of.rows[line])
                videos.append(of.videos[line])
    keys = [key if count == 0 else f"{key}-{count}" for key, count in place]
    if not unique:
        name += "~" + hashlib.sha256("".join(keys).encode()).hexdigest()[:6]
    columns = []
    order = sorted(
        members,
        key=lambda answers: (answers.method.control, not answers.method.trained, answers.method.id),
    )
    names = Counter(answers.method.name for answers in order)
    for letter, answers in zip(_letters(), order, strict=False):
        lines = np.full(len(rows), -1, np.int64)
        for identity, line in answers.of.identities.items():
            lines[place[identity]] = line
        method = answers.method
        if names[method.name] > 1:
            method = replace(method, name=f"{method.name} ({method.id})")
        columns.append(Column(letter, method, answers, lines))
    return TestSet(name, task, rows, keys, videos, columns)


def _letters() -> Iterator[str]:
    """Yield A, B, ..., Z, AA, AB, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)


# words in the texts of more than this share of the rows, and of more than two rows, are frequent
FREQUENT = 0.2
_GRAMMAR = AUXILIARIES | DETERMINERS | OBJECTS | PREPOSITIONS | ADVERBS | {"and", "but", "or"}
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Piece:
    """A part of a caption."""

    text: str
    supported: bool  # whether it is a word that a reference has too


def frequent(rows: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return the words that the texts of many rows have, by the texts of each row; rows without a
    text do not count."""
    words_of = [_words(texts) for texts in rows if texts]
    counts = Counter(word for words in words_of for word in words)
    return frozenset(
        word for word, count in counts.items() if count > max(2, FREQUENT * len(words_of))
    )


def _words(texts: Iterable[str]) -> set[str]:
    return {word.casefold() for text in texts for word in _WORD.findall(text)}


def supported(caption: str, references: Sequence[str], common: Collection[str] = ()) -> list[Piece]:
    """Return a caption in pieces: each word of content that a reference has, and the texts between
    them.

    common: words that are not marked, as `frequent` returns.
    """
    marked = _words(references) - _GRAMMAR - set(common)
    pieces: list[Piece] = []
    end = 0
    for word in _WORD.finditer(caption):
        if word[0].casefold() in marked:
            if word.start() > end:
                pieces.append(Piece(caption[end : word.start()], False))
            pieces.append(Piece(word[0], True))
            end = word.end()
    if end < len(caption):
        pieces.append(Piece(caption[end:], False))
    return pieces
