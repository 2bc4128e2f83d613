"""The tables of a report as grids: methods, the paper's tables, trainings, comparisons, benchmarks
of others.

Guarantees
- every published number is the supplement's own, to its last digit
- a figure that was not measured is a dash, and an undefined one says so
- the best of a column is bold, controls excluded; figures equal to the last digit shown are equally
  bold
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean, stdev
from typing import Any, get_args

import numpy as np

from heads.methods.registry import regime_words, section
from heads.reporting.entries import (
    AMONG,
    MARK,
    METRICS,
    PAIRS,
    TRUTH_METRICS,
    BenchmarkEntry,
    MethodTraining,
    Setting,
    Trainings,
    Variant,
    footnote,
    marked,
    score_record,
)
from heads.reporting.figures import BaselineComparison, Place, Score
from heads.reporting.grid import Block, Cell, Grid, Result, Row, between, number, pivot, results_of
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.bootstrap import CONFIDENCE, paired_p
from stepdiff_core.tasks.registry import Published, published
from stepdiff_core.tasks.scoring import ASKED, PUBLISHED
from stepdiff_core.tasks.testsets import published_task

ABOVE, BELOW = "*", "†"
LEVEL = 1 - CONFIDENCE
CHOSEN = "In brackets, for each training: the steps before the checkpoint that validation chose."
LEGEND = (
    "Regime: – not trained; s1: trained on narration, captions and questions of the types of "
    "supplement S1; supervised: also on answers to the question of a task, from the source that "
    "labels its test set; truth: reads the true attributes of test clips."
)
_ASKED = (
    "Asked first: the caption counts as declining where the method answers YES rather than NO to "
    "DiffRank's question, whether the clips share a similar category (heads.evaluate "
    "--ask-similar)."
)
_SEEDS = (
    "Mean and standard deviation (n - 1) over the trainings of a method, which differ only in "
    "their seed. Brackets and p of the other tables reflect differences between videos, not "
    "between trainings."
)
_UNDECIDED = {
    "diffrank": "τ counts as 0 in rows to which a method gives no order",
    "diffmcq": (
        "the first option counts as chosen if several share the highest score (if they do in every "
        "row, the accuracy is undefined)"
    ),
}

RAW: list[Place] = [
    (Setting("diffcap", parsed=False), metric) for metric in ("BLEU", "CIDEr", "ROUGE-L")
]
CAPTIONS: list[Place] = [(Setting("diffcap"), metric) for _, metric in RAW]
CHOICES: list[Place] = [(Setting("diffmcq", variant), "accuracy") for variant in get_args(Variant)]
RANK: Place = (Setting("diffrank"), "ktau_all_rows")
WITHIN: Place = (Setting("diffrank"), "ktau_within_step_all_rows")
DECLINING: list[Place] = [
    (Setting("diffcap"), metric + ending)
    for metric in ("invented", "declined")
    for ending in ("", ASKED)
]
TRUTH: list[Place] = [(Setting("diffcap"), metric) for metric in TRUTH_METRICS]


@dataclass(frozen=True)
class BenchmarkScore:
    """The scores of a method on a benchmark."""

    task: str
    method: str
    predictions: str
    scores: dict[str, Any]
    """as TaskSpec.score returns"""
    seen: dict[str, Any] | None
    """counts of heads.data.training_clips.SeenClips, if its head was trained on clips or videos of
    the benchmark"""


@dataclass(frozen=True)
class Report:
    """All contents of the tables."""

    scores: list[Score]
    comparisons: list[BaselineComparison]
    controls: Sequence[str]
    resamples: int
    paper: bool
    """show the supplement's figures next to ours"""
    methods: Trainings = field(default_factory=dict)
    """how each method was trained"""
    baselines: Sequence[str] = ()
    """the methods that ours are compared with, if the config names them"""
    benchmarks: Sequence[BenchmarkScore] = ()
    """scores on other people's benchmarks"""

    @property
    def regimes(self) -> list[tuple[str, str]]:
        """The column of regimes, if the regime of any method is known."""
        return (
            [("", "regime")] if any(training.regime for training in self.methods.values()) else []
        )

    def regime(self, method: str) -> list[Cell | None]:
        """Return the cell of a method's regime, if the tables show it."""
        return [self.regime_cell(method)] if self.regimes else []

    def regime_cell(self, method: str) -> Cell:
        return Cell(regime_words(self.methods[method].regime if method in self.methods else None))


@dataclass(frozen=True)
class Layout:
    title: str
    columns: list[Place]
    published: tuple[Published, ...] = ()
    """rows of the supplement, whose figures are in the order of the columns"""
    ranked: bool = True
    """whether a column has a best: a method that always declines invents nothing, and is no better
    for it"""


PAPER_TASKS = Layout(
    "Table S3: all methods on three tasks", [*CAPTIONS, CHOICES[0], RANK], published("S3")
)
PAPER_CHOICES = Layout("Table S4: DiffMCQ by choice of wrong options", CHOICES, published("S4"))
LAYOUTS = [
    Layout("Table S1: DiffCap, raw captions", RAW, published("S1")),
    Layout("DiffCap, captions parsed to the form of the annotations", CAPTIONS),
    PAPER_TASKS,
    PAPER_CHOICES,
    Layout("DiffRank: all targets, and those of the reference's own step", [RANK, WITHIN]),
    Layout(
        "DiffCap: details that captions name, checked against the exact attributes",
        TRUTH,
        ranked=False,
    ),
    Layout(
        "DiffCap: differences invented where clips agree, declined where they differ",
        DECLINING,
        ranked=False,
    ),
]


def grids(report: Report) -> list[Grid]:
    """Return the methods, the tables that have figures in the paper's order, the trainings and the
    comparisons."""
    raw, parsed, *others = (_layout_grid(report, layout) for layout in LAYOUTS)
    benchmarks: dict[str, list[BenchmarkScore]] = {}
    for score in report.benchmarks:
        benchmarks.setdefault(score.task, []).append(score)
    last = [_trainings(report), _comparisons(report), *map(_benchmark, benchmarks.values())]
    every = [methods_grid(report), raw, parsed, _pairs(report), *others, *last]
    return [grid for grid in every if any(block.rows for block in grid.blocks)]


def methods_grid(report: Report) -> Grid:
    """Return the table of methods; without rows if nothing is known of any."""
    rows: dict[bool, list[Row]] = {False: [], True: []}
    trainings = report.methods.values()
    for training in (
        trainings if any(each != MethodTraining(each.method) for each in trainings) else ()
    ):
        steps = "" if training.steps is None else f"{training.steps:,}"
        if training.chosen:
            steps += f" ({' / '.join(f'{step:,}' for step in training.chosen)})"
        cells = [report.regime_cell(training.method), Cell(training.learns_from), Cell(steps)]
        rows[training.method in report.controls].append((training.method, list(cells)))
    columns = [("", "regime"), ("", "learns from"), ("", "optimiser steps")]
    notes = [LEGEND, *([CHOSEN] if any(training.chosen for training in trainings) else [])]
    return Grid("Methods", "method", columns, _blocks(rows[False], rows[True]), notes)


def _blocks(rows: list[Row], controls: list[Row]) -> list[Block]:
    return [block for block in (Block("", rows), Block("controls", controls)) if block.rows]


def _layout_grid(report: Report, layout: Layout) -> Grid:
    """Return a layout's table, one row per method."""
    marks = {(c.method, c.place): _mark(c) for c in report.comparisons}
    shown = [score for score in report.scores if score.place in layout.columns]
    asked_places = {score.place for score in shown if score.metric.endswith(ASKED)}
    places = [
        place for place in layout.columns if place in asked_places or not place[1].endswith(ASKED)
    ]
    best = {
        place: _best(report, (s for s in shown if s.place == place))
        for place in places
        if layout.ranked
    }
    results = [
        Result(
            s.method,
            s.place,
            s.value,
            s.interval,
            s in best.get(s.place, ()),
            marks.get((s.method, s.place), ""),
        )
        for s in shown
    ]
    rows: dict[bool, list[Row]] = {False: [], True: []}
    for method, cells in pivot(results, places).items():
        rows[method in report.controls].append(
            (with_mark(method, shown), [*report.regime(method), *cells])
        )
    blocks = _blocks(rows[False], rows[True])
    if report.paper and shown and layout.published:
        highest = [
            max(column)
            for column in zip(*(row.figures.values() for row in layout.published), strict=True)
        ]
        results = [
            Result(row.method, place, value, bold=value == most)
            for row in layout.published
            for place, value, most in zip(places, row.figures.values(), highest, strict=True)
        ]
        regime = [Cell("")] * len(report.regimes)
        published_rows = [
            (method, [*regime, *cells]) for method, cells in pivot(results, places).items()
        ]
        blocks.append(Block(layout.published[0].source, published_rows))
    notes = [
        *_sizes(shown),
        *_seen_notes(shown),
        *([_ASKED] if asked_places else []),
        _legend(report, layout.ranked),
    ]
    return Grid(layout.title, "method", [*report.regimes, *map(heading, places)], blocks, notes)


def _pairs(report: Report) -> Grid:
    """Return Table S2: a row per embedding of a pair, a column per method that has several."""
    first = [s for s in report.scores if (s.setting.task, s.setting.variant) == ("diffmcq", "V1")]
    varied = {score.method for score in first if score.setting.pair != "average"}
    shown = [score for score in first if score.method in varied]
    methods = list(dict.fromkeys(score.method for score in shown))
    best = [
        score
        for method in methods
        for score in _best(report, (s for s in shown if s.method == method))
    ]
    supplement = published("S2") if report.paper else ()
    results = [
        Result(PAIRS[s.setting.pair], s.method, s.value, s.interval, s in best) for s in shown
    ]
    results += [
        Result(PAIRS[pair], name, value, bold=pair == "average")
        for pair, row in zip(PAIRS, supplement, strict=False)
        for name, value in row.figures.items()
    ]
    names = list(supplement[0].figures) if supplement else []
    cells = pivot(results, [*methods, *names])
    rows: list[Row] = [(pair, cells.get(pair, [None] * len(methods))) for pair in PAIRS.values()]
    columns = [("DiffMCQ V1 accuracy", with_mark(method, shown)) for method in methods]
    columns += [(supplement[0].source, name) for name in names]
    if report.regimes:
        rows.insert(0, ("regime", [*map(report.regime_cell, methods), *[Cell("")] * len(names)]))
    blocks, notes = (
        [Block("", rows)] if methods else [],
        [*_sizes(shown), *_seen_notes(shown), _legend(report)],
    )
    return Grid(
        "Table S2: VLEmb by the embedding that represents a pair", "pair", columns, blocks, notes
    )


def _trainings(report: Report) -> Grid:
    """Return the table of trainings: a row per figure, a column per method."""
    cells = {
        (s.method, s.place): Cell(
            f"{number(fmean(s.seeds), '.3f')} ± {number(stdev(s.seeds), '.3f')}"
        )
        for s in report.scores
        if len(s.seeds) > 1
    }
    methods = list(dict.fromkeys(method for method, _ in cells))
    rows: list[Row] = (
        [("regime", list(map(report.regime_cell, methods)))] if report.regimes and cells else []
    )
    for place in dict.fromkeys(place for _, place in cells):
        pair = place[0].pair
        name = " ".join(heading(place)) + ("" if pair == "average" else f", {PAIRS[pair]}")
        rows.append((name, [cells.get((method, place)) for method in methods]))
    columns = [("", with_mark(method, report.scores)) for method in methods]
    return Grid("Trainings: how much seeds differ", "figure", columns, [Block("", rows)], [_SEEDS])


def _comparisons(report: Report) -> Grid:
    """Return the table of our gains over the best baseline of each column."""
    rows: list[Row] = []
    for c in report.comparisons:
        gain = Cell(number(c.difference, "+.3f"), between(c.interval), mark=_mark(c))
        seen = [score for score in report.scores if score.place == c.place]
        names = [
            cell
            for name in (c.method, c.baseline)
            for cell in (Cell(with_mark(name, seen)), *report.regime(name))
        ]
        rows.append(
            (
                " ".join(heading(c.place)),
                [*names, gain, Cell(f"{c.p:.4f}"), Cell(f"{c.corrected_p:.4f}")],
            )
        )
    columns = [("", "method"), *report.regimes, ("", "best baseline"), *report.regimes]
    columns += [("", name) for name in ("difference", "p", "corrected p")]
    notes = [
        f"p: two-sided, paired, from {report.resamples} resamples of the reference videos that "
        f"both methods share, widened for their small number; corrected for {len(rows)} "
        f"comparisons (Holm). {ABOVE} above, {BELOW} below the best baseline, corrected p under "
        f"{LEVEL:.2f}. The best baseline is the highest figure on the same rows among "
        f"{', '.join(report.baselines) or 'methods that are neither ours nor controls'}.",
    ]
    if report.regimes:
        notes.append(
            "A baseline with more supervision than ours is not compared (in this order: –, s1, "
            "supervised, truth). Where ours has more, that may explain its lead."
        )
    videos = max((score.videos for score in report.scores), default=0)
    least = paired_p(np.ones(report.resamples), videos)
    if least is not None and least * len(rows) >= LEVEL:
        few = (
            f"{report.resamples} resamples of {videos} videos are too few for a mark among "
            f"{len(rows)}"
        )
        notes.append(f"{few}: raise --bootstrap, or compare fewer figures.")
    return Grid("Against the best baseline", "figure", columns, [Block("", rows)], notes)


def heading(place: Place) -> tuple[str, str]:
    """Return the names of a task in its form and of a metric."""
    setting, metric = place
    if metric in AMONG:
        return PUBLISHED[setting.task].title + AMONG[metric], METRICS[metric]
    form = {
        "diffcap": "" if setting.parsed else ", raw",
        "diffmcq": f" {setting.variant}",
        "diffrank": "",
    }
    return PUBLISHED[setting.task].title + form[setting.task], METRICS[metric]


def with_mark(method: str, scores: Iterable[Score]) -> str:
    """Return the name of a method, with the MARK if its head was trained on videos of one of these
    test sets."""
    return f"{method} {MARK}" if any(s.seen_clips for s in scores if s.method == method) else method


def _seen_notes(scores: Iterable[Score]) -> list[str]:
    """Return a note for each test set of a method that its head has partly seen."""
    notes = (
        f"{MARK} {s.method}, {heading(s.place)[0]}: "
        f"{s.seen_clips} of {s.test_clips} test clips are from videos that trained this head."
        for s in scores
        if s.seen_clips
    )
    return list(dict.fromkeys(notes))


def _best(report: Report, scores: Iterable[Score]) -> list[Score]:
    """Return the scores that are shown as the highest of a column, controls aside."""
    ranked = [
        score for score in scores if score.value is not None and score.method not in report.controls
    ]
    shown = [number(score.value or 0.0, ".3f") for score in ranked]
    highest = number(max((score.value or 0.0 for score in ranked), default=0.0), ".3f")
    return [score for score, value in zip(ranked, shown, strict=True) if value == highest]


def _mark(comparison: BaselineComparison) -> str:
    if comparison.corrected_p >= LEVEL:
        return ""
    return ABOVE if comparison.difference > 0 else BELOW


def _legend(report: Report, ranked: bool = True) -> str:
    notes = ["Bold: the best of a column, controls aside."] if ranked else []
    if report.resamples:
        notes.append(
            f"Brackets: 95 % intervals from {report.resamples} resamples of the reference videos, "
            "widened for their small number."
        )
    if report.comparisons and ranked:
        notes.append(
            f"{ABOVE} above, {BELOW} below the best baseline: see the table of comparisons."
        )
    return " ".join(notes)


def _sizes(scores: Sequence[Score]) -> list[str]:
    """Return notes on the rows and videos of each task's figures, undecided rows, and methods with
    several seeds."""
    order = list(PUBLISHED)
    of_task: dict[str, list[Score]] = {}
    for score in sorted(
        scores, key=lambda score: (order.index(score.setting.task), score.setting.variant)
    ):
        of_task.setdefault(heading(score.place)[0], []).append(score)
    notes = []
    for task, group in of_task.items():
        methods: dict[tuple[str, int, int], dict[str, None]] = {}
        undecided: dict[str, int] = {}
        for score in group:
            methods.setdefault((score.test_set, score.rows, score.videos), {})[score.method] = None
            undecided[score.method] = max(undecided.get(score.method, 0), score.undecided_rows)
        counts = [
            f"{rows} rows of {videos} videos"
            + (f" for {', '.join(names)}" if len(methods) > 1 else "")
            for (_, rows, videos), names in methods.items()
        ]
        notes.append(f"{task}: {'; '.join(counts)}.")
        if none := [f"{name} {rows}" for name, rows in undecided.items() if rows]:
            notes.append(f"{task}: {_UNDECIDED[group[0].setting.task]}: {', '.join(none)}.")
    trained = {
        score.method: len(score.seeds)
        for group in of_task.values()
        for score in group
        if score.seeds
    }
    if trained:
        several = ", ".join(f"{name} {count}" for name, count in trained.items())
        notes.append(
            f"Mean over trainings that differ only in their seed: {several} (table of trainings)."
        )
    return notes


def read_scores(entries: Sequence[BenchmarkEntry]) -> list[BenchmarkScore]:
    """Return the scores of each entry. StepDiffError: no score record of a benchmark next to its
    predictions, or two entries for one row of a table."""
    read: dict[tuple[str, str], BenchmarkScore] = {}
    for entry in entries:
        record = score_record(entry.predictions)
        task, scores = str(section(record, "options").get("task")), section(record, "scores")
        if task == "None" or published_task(task) or not {"rows", "intervals"} <= scores.keys():
            raise StepDiffError(
                f"{entry.predictions}: no score record of a benchmark next to it; write both with "
                "python -m heads.evaluate, and list published tasks among predictions"
            )
        if entry.task not in (None, task):
            raise StepDiffError(
                f"{entry.predictions}: its record is of {task}, not of {entry.task}; correct the "
                "task"
            )
        if entry.task is None and task not in registry.names():  # a record may be a stranger's
            raise StepDiffError(
                f"{entry.predictions}: its record names the task {task}, which is none of ours and "
                f"of no installed package; if it is yours, give the entry the task {task}"
            )
        score = BenchmarkScore(task, entry.method, entry.predictions, scores, marked(record))
        first = read.setdefault((task, entry.method), score)
        if first is not score:
            raise StepDiffError(
                f"{entry.predictions}: {first.predictions} is the row {entry.method!r} of {task} "
                "too; rename one"
            )
    return list(read.values())


def _benchmark(scores: Sequence[BenchmarkScore]) -> Grid:
    """Return the table of a benchmark: ours, chance, and rows of its authors."""
    benchmark = registry.get(scores[0].task)
    largest = max(scores, key=lambda score: score.scores["rows"])
    most = largest.scores["rows"]

    results: list[Result] = []
    notes = [f"{benchmark.title}: {most} rows. Brackets: 95 % intervals."]
    methods_of_note: dict[str, list[str]] = {}
    for score in scores:
        count, seen = score.scores["rows"], score.seen
        name = score.method if count == most else f"{score.method} ({count} rows)"
        if seen is not None:
            notes.append(f"{MARK} {score.method}: {footnote(seen)}.")
        figures = {
            figure: score.scores[figure] for figure in benchmark.figures if figure in score.scores
        }
        results += results_of(
            f"{name} {MARK}" if seen else name, figures, score.scores["intervals"]
        )
        for note in dict.fromkeys(score.scores.get("notes", ())):
            methods_of_note.setdefault(note, []).append(score.method)
    for note, methods in methods_of_note.items():
        notes.append(note if len(methods) == len(scores) else f"{', '.join(methods)}: {note}")
    parts = {"measured here": results}
    if chance := largest.scores.get("chance") or benchmark.chance:
        parts[""] = results_of("chance", chance)
    if benchmark.published:
        rows = [results_of(row.method, row.figures) for row in benchmark.published]
        parts["as published"] = list(chain.from_iterable(rows))
        notes.append(
            "As published: "
            + "; ".join(dict.fromkeys(other.source for other in benchmark.published))
            + "."
        )
    if benchmark.licence:
        notes.append(f"Licence of the data: {benchmark.licence}.")
    blocks = [
        Block(title, list(pivot(part, benchmark.figures, benchmark.form).items()))
        for title, part in parts.items()
    ]
    return Grid(
        benchmark.title,
        "method",
        [("", name) for name in benchmark.figures.values()],
        blocks,
        notes,
    )
