"""Figures of every entry with their intervals, and comparisons of our methods with the best
baseline.

Guarantees
- only figures on the same rows are compared, and on the same resamples
- tau is the mean over the same rows for all methods: a row to which a method gives no order counts
  0, as chance does
- a method trained with several seeds has one figure, their mean, with the interval of the mean
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from heads.reporting.entries import (
    TRUTH_METRICS,
    PredictionEntry,
    Setting,
    Trainings,
    comparable,
    marked,
    score_record,
)
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.bootstrap import Resamples, holm, interval, paired_p
from stepdiff_core.tasks.declining import asked_first
from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.scoring import ASKED, PUBLISHED, Marks, TruthFigures, ordered, task_figures
from stepdiff_core.tasks.testsets import (
    Task,
    digest,
    read_test_set,
    read_with_similar,
    reference_video,
)

COMPARED = {"BLEU", "CIDEr", "ROUGE-L", "accuracy", "ktau_all_rows", "ktau_within_step_all_rows"}

Place = tuple[Setting, str]  # a setting and a metric: a column


@dataclass(frozen=True)
class Score:
    """One figure of one method."""

    method: str
    setting: Setting
    metric: str
    value: float | None
    """None if undefined"""
    interval: tuple[float, float] | None
    """95 %, by resampling the reference videos"""
    rows: int
    videos: int
    undecided_rows: int
    """rows of diffrank to which the method gives no order; of diffmcq, whose highest score several
    options share"""
    test_set: str
    """the first file with these rows: equal names mean equal rows"""
    seen_clips: int = 0
    """clips of the test set from videos that trained the method's head (with several heads, the
    most)"""
    test_clips: int = 0
    """clips of the test set; 0 if seen_clips is 0"""
    seeds: tuple[float, ...] = ()
    """the figure of each training, if the method was trained with several seeds"""

    @property
    def place(self) -> Place:
        return self.setting, self.metric


@dataclass(frozen=True)
class BaselineComparison:
    """One of our methods and the best baseline on the same rows."""

    method: str
    baseline: str
    setting: Setting
    metric: str
    difference: float
    interval: tuple[float, float] | None
    p: float
    """two-sided, under no difference"""
    corrected_p: float
    """corrected (Holm) for all comparisons of the report"""

    @property
    def place(self) -> Place:
        return self.setting, self.metric


Measured = list[tuple[Score, Float64[np.ndarray, " resamples"]]]


def measure(
    entries: Sequence[PredictionEntry], resamples: int, seed: int, truth: TruthFigures | None = None
) -> Measured:
    """Return scores in the order of the entries, each with its values on the resamples.
    StepDiffError: a missing or damaged file, or a prediction that does not fit its row (file and
    line).

    truth: the figures of the truth score of parsed captions (stepdiff.kitchen.truth.truth_figures).
    """
    listed = {(entry.method, entry.setting, entry.seed) for entry in entries}
    for method, setting, number in listed:
        if number is None and any(
            (method, setting) == other[:2] and other[2] is not None for other in listed
        ):
            raise StepDiffError(
                f"{method}, {setting.task}: some entries have a seed and one has none; give each a "
                "seed"
            )
    files = sorted({(entry.task, entry.test_set) for entry in entries})
    rows_of = {(task, path): read_test_set(task, path) for task, path in files}
    first_of: dict[tuple[Task, str], tuple[str, Resamples]] = {}
    measured: Measured = []
    for entry in entries:
        task, rows = entry.task, rows_of[entry.task, entry.test_set]
        videos, content = [reference_video(row) for row in rows], digest(rows)
        if (task, content) not in first_of:
            first_of[task, content] = entry.test_set, Resamples(videos, resamples, seed)
        name, draws = first_of[task, content]
        predictions, similar = read_with_similar(task, entry.predictions, rows)
        readings = [(entry.setting, predictions)]
        if not entry.parsed and (entry.method, Setting(task), entry.seed) not in listed:
            readings.append((Setting(task), [parse(caption) for caption in predictions]))
        seen = marked(score_record(entry.predictions)) or {}
        seen_of = seen.get("clips_of_videos", 0), seen.get("of_clips", 0)
        for setting, answers in readings:
            figures, marks = task_figures(task, rows, answers)
            if truth is not None and task == "diffcap" and setting.parsed:
                figures |= truth(rows, answers)
            if similar is not None:
                asked_figures, _ = task_figures(task, rows, asked_first(rows, answers, similar))
                figures |= {metric + ASKED: figure for metric, figure in asked_figures.items()}
            for metric in _metrics(setting, rows):
                if metric not in figures:
                    continue
                figure, counted = figures[metric], defined_rows(metric, rows)
                value, values = figure.of(), draws.values(figure)
                groups = len(set(compress(videos, counted)))
                within, finite = interval(values, groups), value if math.isfinite(value) else None
                counts = int(counted.sum()), groups, _undecided(metric, marks, counted)
                measured.append(
                    (
                        Score(
                            entry.method, setting, metric, finite, within, *counts, name, *seen_of
                        ),
                        values,
                    )
                )
    return over_seeds(measured)


def _metrics(setting: Setting, rows: Sequence[Any]) -> list[str]:
    """Return the figures to show: declining is measured on parsed captions, if some pairs agree."""
    more = [
        metric for metric in PUBLISHED[setting.task].further if defined_rows(metric, rows).any()
    ]
    if setting.task == "diffcap" and not (setting.parsed and "invented" in more):
        more = []
    return [
        *PUBLISHED[setting.task].figures,
        *more,
        *(TRUTH_METRICS if setting.task == "diffcap" else ()),
    ]


def defined_rows(metric: str, rows: Sequence[Any]) -> Bool[np.ndarray, " rows"]:
    """Return the rows that a figure is defined on: for tau those with an order (within the step,
    among targets of score above 0); for captions those whose pairs differ, or agree."""
    least = {"ktau_all_rows": 0, "ktau_within_step_all_rows": 1}.get(metric)
    if least is not None:
        return ordered(rows, least)
    if metric == "accuracy":
        return np.ones(len(rows), bool)
    return np.array([bool(row.text) != metric.startswith("invented") for row in rows])


def _undecided(metric: str, marks: Marks, counted: Bool[np.ndarray, " rows"]) -> int:
    """Return the number of rows with one score for all targets, or with the highest score for
    several options."""
    if metric == "ktau_within_step_all_rows":
        return int((~marks["within_step_rows"] & counted).sum())
    mark = {"accuracy": "ties", "ktau_all_rows": "nan_rows"}.get(metric)
    return 0 if mark is None else int((marks[mark] & counted).sum())


def over_seeds(measured: Measured) -> Measured:
    """Average the trainings of a method that differ only in their seed; undefined if one of them
    is. StepDiffError: they answer different rows."""
    groups: dict[tuple[str, Place], Measured] = {}
    for score, values in measured:
        groups.setdefault((score.method, score.place), []).append((score, values))
    means: Measured = []
    for (method, (setting, _)), group in groups.items():
        scores = [score for score, _ in group]
        first = scores[0]
        if len(scores) == 1:
            means += group
            continue
        if odd := [score.test_set for score in scores if score.test_set != first.test_set]:
            raise StepDiffError(
                f"{method}, {setting.task}: seeds on different rows ({first.test_set}, {odd[0]})"
            )
        resampled = np.mean([values for _, values in group], axis=0)
        of_seeds = [score.value for score in scores if score.value is not None]
        most = max(scores, key=lambda score: score.seen_clips)
        mean = replace(
            first,
            value=sum(of_seeds) / len(of_seeds) if len(of_seeds) == len(scores) else None,
            interval=interval(resampled, first.videos),
            undecided_rows=max(score.undecided_rows for score in scores),
            seen_clips=most.seen_clips,
            test_clips=most.test_clips,
            seeds=tuple(of_seeds),
        )
        means.append((mean, resampled))
    return means


def compare(
    measured: Measured,
    ours: Sequence[str],
    controls: Sequence[str],
    methods: Trainings | None = None,
    baselines: Sequence[str] = (),
) -> list[BaselineComparison]:
    """Compare each figure of ours with the best baseline's, corrected for their number; not
    declining and truth.

    Of VLEmb's pair embeddings only the average is a baseline.

    Args:
        methods: regime of each method; a baseline with more supervision than ours is not compared
            with it.
        baselines: the methods to compare with; none: all that are neither ours nor controls.
    """
    figures = [(score, values) for score, values in measured if score.value is not None]
    rivals_of_all = baselines or {score.method for score, _ in figures} - {*ours, *controls}
    comparisons: list[BaselineComparison] = []
    for score, values in figures:
        if (
            score.method not in ours
            or score.setting.pair != "average"
            or score.metric not in COMPARED
        ):
            continue
        rivals = [
            (other, theirs)
            for other, theirs in figures
            if other.method in rivals_of_all
            and comparable(score.method, other.method, methods or {})
            and (other.place, other.test_set) == (score.place, score.test_set)
        ]
        if not rivals:
            continue
        best, theirs = max(rivals, key=lambda rival: rival[0].value or 0.0)
        p = paired_p(values - theirs, score.videos)
        if p is None:
            continue
        assert score.value is not None and best.value is not None
        gain, within = score.value - best.value, interval(values - theirs, score.videos)
        comparisons.append(
            BaselineComparison(score.method, best.method, *score.place, gain, within, p, p)
        )
    corrected = holm([comparison.p for comparison in comparisons])
    return [replace(each, corrected_p=p) for each, p in zip(comparisons, corrected, strict=True)]
