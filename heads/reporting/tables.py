"""The paper's tables as grids: columns, rows and footnotes.

Guarantees
- every published number is the supplement's own, to its last digit
- a figure that was not measured is a dash, and an undefined one says so
- the best of a column is bold, controls excluded; figures equal to the last digit shown are equally bold
- every table states the rows and videos of its figures, and which methods differ in them
- a method whose head was trained on clips or videos of its test set has a mark, and a note with the counts
- if the resamples are too few to show anything after correction, the table says so
- a method with several trainings has a table of every figure that each of them has
- every table shows the regime of its methods, if the regime of any is known
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from heads.reporting.benchmarks import BenchmarkScore, benchmark_grids
from heads.reporting.entries import (
    ASKED,
    CAPTIONS,
    CHOICES,
    DECLINING,
    MARK,
    PAIRS,
    RANK,
    RAW,
    TASKS,
    TRUTH,
    WITHIN,
    Place,
    heading,
)
from heads.reporting.figures import Comparison, Score
from heads.reporting.grid import Block, Cell, Grid, Row, number
from heads.reporting.methods import Trainings, methods_grid, regime_cell
from tasks.bootstrap import CONFIDENCE, paired_p

ABOVE, BELOW = "*", "†"
_UNDECIDED = {
    "diffrank": "τ counts as 0 in rows to which a method gives no order",
    "diffmcq": "the first option counts as chosen if several share the highest score (if they do in every row, the "
    "accuracy is undefined)",
}
LEVEL = 1 - CONFIDENCE


# The figures that the paper's supplement prints, by table.
Published = dict[str, tuple[float, ...]]

# DiffCap without parsing: BLEU, CIDEr, ROUGE-L
TABLE_S1: Published = {
    "Socratic (BLIP-2)": (0.122, 0.016, 0.139),
    "Socratic (LLaVA)": (0.117, 0.015, 0.135),
    "Socratic (step desc.)": (0.113, 0.009, 0.139),
    "VCLM (LLaVA)": (0.143, 0.037, 0.144),
    "VCLM (AnyMAL)": (0.183, 0.079, 0.181),
    "Interleaved (IDEFICS)": (0.156, 0.041, 0.160),
    "Interleaved (AnyMAL)": (0.184, 0.068, 0.185),
    "StepDiff": (0.193, 0.061, 0.191),
}

# DiffMCQ of VLEmb by the embedding of a pair: with CLIP, with InternVideo
TABLE_S2: Published = {
    "reference": (0.359, 0.424),
    "candidate": (0.353, 0.413),
    "average": (0.396, 0.451),
}

# language models of 7B to 13B: BLEU, CIDEr, ROUGE-L, DiffMCQ accuracy, DiffRank tau
TABLE_S3: Published = {
    "Socratic (BLIP-2)": (0.164, 0.035, 0.174, 0.341, 0.000),
    "Socratic (LLaVA)": (0.155, 0.027, 0.169, 0.332, 0.000),
    "Socratic (step desc.)": (0.138, 0.019, 0.169, 0.400, 0.006),
    "VCLM (LLaVA)": (0.235, 0.072, 0.199, 0.385, 0.009),
    "VCLM (AnyMAL)": (0.193, 0.106, 0.196, 0.496, 0.041),
    "Interleaved (IDEFICS)": (0.187, 0.058, 0.189, 0.340, 0.022),
    "Interleaved (AnyMAL)": (0.221, 0.105, 0.216, 0.475, 0.048),
    "StepDiff": (0.216, 0.124, 0.205, 0.527, 0.175),
}

# DiffMCQ accuracy: V1, V2, V3
TABLE_S4: Published = {
    "VLEmb (CLIP)": (0.396, 0.311, 0.657),
    "VLEmb (InternVideo)": (0.451, 0.336, 0.683),
    "Socratic (BLIP-2)": (0.335, 0.219, 0.644),
    "Socratic (LLaVA)": (0.332, 0.217, 0.646),
    "Socratic (step desc.)": (0.392, 0.258, 0.648),
    "VCLM (LLaVA)": (0.381, 0.319, 0.561),
    "VCLM (AnyMAL)": (0.471, 0.344, 0.648),
    "Interleaved (IDEFICS)": (0.376, 0.304, 0.638),
    "Interleaved (AnyMAL)": (0.497, 0.351, 0.653),
    "StepDiff": (0.541, 0.382, 0.654),
}


@dataclass(frozen=True)
class Report:
    """All contents of the tables."""

    scores: list[Score]
    comparisons: list[Comparison]
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
    def regimes(self) -> bool:
        """Whether the regime of any method is known; the tables then show it."""
        return any(training.regime is not None for training in self.methods.values())

    def regime(self, method: str) -> list[Cell | None]:
        """Return the cell of a method's regime, if the tables show it."""
        return [regime_cell(method, self.methods)] if self.regimes else []

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Layout:
    title: str
    columns: list[Place]
    published: Published
    source: str = ""
    ranked: bool = True
    """whether a column has a best: a method that always declines invents nothing, and is no better for it"""


LAYOUTS = [
    Layout("Table S1: DiffCap, raw captions", RAW, TABLE_S1, "supplement, S1"),
    Layout("DiffCap, captions parsed to the form of the annotations", CAPTIONS, {}),
    Layout(
        "Table S3: all methods on three tasks",
        [*CAPTIONS, CHOICES[0], RANK],
        TABLE_S3,
        "supplement, S3 (7B to 13B)",
    ),
    Layout("Table S4: DiffMCQ by choice of wrong options", CHOICES, TABLE_S4, "supplement, S4"),
    Layout("DiffRank: all targets, and those of the reference's own step", [RANK, WITHIN], {}),
    Layout("DiffCap: details that captions name, checked against the exact attributes", TRUTH, {}, ranked=False),
    Layout("DiffCap: differences invented where clips agree, declined where they differ", DECLINING, {}, ranked=False),
]


def grids(report: Report) -> list[Grid]:
    """Return the methods, the tables that have figures in the paper's order, the trainings and the comparisons."""
    raw, parsed, *others = (_methods(report, layout) for layout in LAYOUTS)
    first = methods_grid(report.methods, report.controls)
    last = [_trainings(report), _comparisons(report), *benchmark_grids(report.benchmarks)]
    return [grid for grid in (first, raw, parsed, _pairs(report), *others, *last) if grid.blocks]


def _methods(report: Report, layout: Layout) -> Grid:
    """Return a layout's table, one row per method."""
    marks = {(c.method, (c.setting, c.metric)): _mark(c) for c in report.comparisons}
    found = [score for score in report.scores if (score.setting, score.metric) in layout.columns]
    scores = {(score.method, (score.setting, score.metric)): score for score in found}
    asked = {place for _, place in scores if place[1].endswith(ASKED)}
    places = [place for place in layout.columns if place in asked or not place[1].endswith(ASKED)]
    highest = {
        place: _highest(s.value for (method, p), s in scores.items() if p == place and method not in report.controls)
        for place in places
    }

    def row(method: str) -> Row:
        best = {} if method in report.controls or not layout.ranked else highest
        cells = [
            _cell(scores.get((method, place)), best.get(place), marks.get((method, place), "")) for place in places
        ]
        return marked(method, found), [*report.regime(method), *cells]

    methods = list(dict.fromkeys(score.method for score in found))
    blocks = [
        Block("", [row(method) for method in methods if method not in report.controls]),
        Block("controls", [row(method) for method in methods if method in report.controls]),
    ]
    if report.paper and methods:
        blocks.append(_published(layout, [Cell("")] if report.regimes else []))
    blocks = [block for block in blocks if block.rows]
    notes = [*_sizes(found), *seen_notes(found), _legend(report, layout.ranked)]
    columns = [*([("", "regime")] if report.regimes else []), *map(heading, places)]
    if asked:
        notes.insert(-1, _ASKED)
    return Grid(layout.title, "method", columns, blocks, notes)


_ASKED = (
    "Asked first: the caption counts as declining where the method answers YES rather than NO to DiffRank's question, "
    "whether the clips share a similar category (heads.evaluate --ask-similar)."
)


def _published(layout: Layout, first: list[Cell]) -> Block:
    highest = [_highest(column) for column in zip(*layout.published.values(), strict=True)]
    rows: list[Row] = []
    for method, values in layout.published.items():
        cells = [Cell(f"{v:.3f}", bold=v == top) for v, top in zip(values, highest, strict=True)]
        rows.append((method, [*first, *cells]))
    return Block(layout.source, rows)


def _pairs(report: Report) -> Grid:
    """Return Table S2: a row per embedding of a pair, a column per method that has several."""
    first = [s for s in report.scores if (s.setting.task, s.setting.variant) == ("diffmcq", "V1")]
    varied = {score.method for score in first if score.setting.pair != "average"}
    found = [score for score in first if score.method in varied]
    scores = {(score.method, score.setting.pair): score for score in found}
    methods = list(dict.fromkeys(score.method for score in found))
    columns = [("DiffMCQ V1 accuracy", marked(method, found)) for method in methods]
    highest = {
        method: _highest(s.value for (m, _), s in scores.items() if m == method and m not in report.controls)
        for method in methods
    }
    rows: list[Row] = []
    for pair, name in PAIRS.items():
        rows.append((name, [_cell(scores.get((method, pair)), highest[method]) for method in methods]))
    if report.paper:
        columns += [("supplement, S2", name) for name in ("CLIP", "InternVideo")]
        for (name, cells), values in zip(rows, (TABLE_S2[pair] for pair in PAIRS), strict=True):
            cells += [Cell(f"{value:.3f}", bold=name == PAIRS["average"]) for value in values]
    if report.regimes:
        blank: list[Cell | None] = [Cell("")] * (len(columns) - len(methods))
        rows.insert(0, ("regime", [*(regime_cell(method, report.methods) for method in methods), *blank]))
    blocks, notes = [Block("", rows)] if methods else [], [*_sizes(found), *seen_notes(found), _legend(report)]
    return Grid("Table S2: VLEmb by the embedding that represents a pair", "pair", columns, blocks, notes)


def _comparisons(report: Report) -> Grid:
    """Return the table of our gains over the best baseline of each column."""
    rows: list[Row] = []
    for c in report.comparisons:
        gain = Cell(number(c.difference, "+.3f"), _between(c.interval), mark=_mark(c))
        seen = [score for score in report.scores if (score.setting, score.metric) == (c.setting, c.metric)]
        names = [cell for name in (c.method, c.baseline) for cell in (Cell(marked(name, seen)), *report.regime(name))]
        cells = [*names, gain, Cell(f"{c.p:.4f}"), Cell(f"{c.corrected_p:.4f}")]
        rows.append((" ".join(heading((c.setting, c.metric))), list(cells)))
    regime = ["regime"] if report.regimes else []
    headings = ["method", *regime, "best baseline", *regime, "difference", "p", "corrected p"]
    columns = [("", name) for name in headings]
    notes = [
        f"p: two-sided, paired, from {report.resamples} resamples of the reference videos that both methods share, "
        f"widened for their small number; corrected for {len(rows)} comparisons (Holm). {ABOVE} above, {BELOW} below "
        f"the best baseline, corrected p under {LEVEL:.2f}. The best baseline is the highest figure on the same rows "
        f"among {', '.join(report.baselines) or 'methods that are neither ours nor controls'}.",
    ]
    if report.regimes:
        notes.append(
            "A baseline with more supervision than ours is not compared (in this order: –, s1, supervised). Where ours "
            "has more, that may explain its lead."
        )
    videos = max((score.videos for score in report.scores), default=0)
    least = paired_p(np.ones(report.resamples), videos) if videos > 1 else None
    if least is not None and rows and least * len(rows) >= LEVEL:
        few = f"{report.resamples} resamples of {videos} videos are too few for a mark among {len(rows)}"
        notes.append(f"{few}: raise --bootstrap, or compare fewer figures.")
    return Grid("Against the best baseline", "figure", columns, [Block("", rows)] if rows else [], notes)


def marked(method: str, scores: Iterable[Score]) -> str:
    """Return the name of a method, with the MARK if its head was trained on videos of one of these test sets."""
    return f"{method} {MARK}" if any(s.seen_clips for s in scores if s.method == method) else method


def seen_notes(scores: Iterable[Score]) -> list[str]:
    """Return a note for each test set of a method that its head has partly seen."""
    found: dict[str, None] = {}
    for s in scores:
        if s.seen_clips:
            where = heading((s.setting, s.metric))[0]
            note = f"{s.seen_clips} of {s.test_clips} test clips are from videos that trained this head"
            found[f"{MARK} {s.method}, {where}: {note}."] = None
    return list(found)


def _cell(score: Score | None, highest: float | None, mark: str = "") -> Cell | None:
    if score is None:
        return None
    if score.value is None:
        return Cell("undefined")
    best = highest is not None and number(score.value, ".3f") == number(highest, ".3f")
    return Cell(number(score.value, ".3f"), _between(score.interval), best, mark)


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{number(interval[0], '.3f')}, {number(interval[1], '.3f')}]"


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _mark(comparison: Comparison) -> str:
    if comparison.corrected_p >= LEVEL:
        return ""
    return ABOVE if comparison.difference > 0 else BELOW


def _legend(report: Report, ranked: bool = True) -> str:
    notes = ["Bold: the best of a column, controls aside."] if ranked else []
    if report.resamples:
        notes.append(
            f"Brackets: 95 % intervals from {report.resamples} resamples of the reference videos, widened for their "
            "small number."
        )
    if report.comparisons and ranked:
        notes.append(f"{ABOVE} above, {BELOW} below the best baseline: see the table of comparisons.")
    return " ".join(notes)


def _sizes(scores: Sequence[Score]) -> list[str]:
    """Return notes on the rows and videos of each task's figures, undecided rows, and methods with several seeds."""
    order = list(TASKS)
    scores = sorted(scores, key=lambda score: (order.index(score.setting.task), score.setting.variant))
    notes = []
    for task in dict.fromkeys(heading((score.setting, score.metric))[0] for score in scores):
        own = [score for score in scores if heading((score.setting, score.metric))[0] == task]
        sizes: dict[tuple[str, int, int], list[str]] = {}
        for score in own:
            names = sizes.setdefault((score.test_set, score.rows, score.videos), [])
            if score.method not in names:
                names.append(score.method)
        counts = [f"{rows} rows of {videos} videos" for _, rows, videos in sizes]
        if len(counts) > 1:
            counts = [f"{count} for {', '.join(names)}" for count, names in zip(counts, sizes.values(), strict=True)]
        notes.append(f"{task}: {'; '.join(counts)}.")
        most: dict[str, int] = {}
        for score in own:
            most[score.method] = max(most.get(score.method, 0), score.undecided_rows)
        if none := [f"{name} {rows}" for name, rows in most.items() if rows]:
            notes.append(f"{task}: {_UNDECIDED[own[0].setting.task]}: {', '.join(none)}.")
    trained = {score.method: len(score.seeds) for score in scores if score.seeds}
    if trained:
        several = ", ".join(f"{name} {count}" for name, count in trained.items())
        notes.append(f"Mean over trainings that differ only in their seed: {several} (table of trainings).")
    return notes


_SEEDS = (
    "Mean and standard deviation (n - 1) over the trainings of a method, which differ only in their seed. Brackets and "
    "p of the other tables reflect differences between videos, not between trainings."
)


def _trainings(report: Report) -> Grid:
    """Return the table of trainings: a row per figure, a column per method."""
    scores = report.scores
    found = {(s.method, (s.setting, s.metric)): s.seeds for s in scores if len(s.seeds) > 1}
    methods = list(dict.fromkeys(method for method, _ in found))
    rows: list[Row] = []
    for place in dict.fromkeys(place for _, place in found):
        rows.append((_figure_name(place), [_seeds_cell(found.get((method, place))) for method in methods]))
    if report.regimes and rows:
        rows.insert(0, ("regime", [regime_cell(method, report.methods) for method in methods]))
    columns = [("", marked(method, scores)) for method in methods]
    return Grid("Trainings: how much seeds differ", "figure", columns, [Block("", rows)] if rows else [], [_SEEDS])


def _figure_name(place: Place) -> str:
    pair = place[0].pair
    return " ".join(heading(place)) + ("" if pair == "average" else f", {PAIRS[pair]}")


def _seeds_cell(seeds: tuple[float, ...] | None) -> Cell | None:
    if seeds is None:
        return None
    return Cell(f"{number(fmean(seeds), '.3f')} ± {number(stdev(seeds), '.3f')}")
