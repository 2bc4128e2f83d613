"""The scores of a benchmark, as a dict for JSON.

    {"task", figure: value or None, count: number, "rows", "videos", "groups", "chance": {figure: value},
     "intervals": {figure: [low, high] or None}, "per_category": {category: {figure: value, count, "rows"}}}

Whole groups of rows are drawn for the intervals, because rows that share videos are not independent. `chance` is the
expected value of the figures over random orders of the options or targets of the same rows.

Guarantees
- rows_that_share_a_video_are_in_one_group
- a_constant_prediction_scores_chance
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.rows import BenchmarkRow
from stepdiff.tasks.bootstrap import Figure, intervals
from stepdiff.tasks.testsets import Prediction, check_prediction, parts_of

Truth = TypeVar("Truth")
Mask = Bool[np.ndarray, " rows"]
PREDICTIONS, VERDICTS = "predictions for {} rows", "verdicts for {} pairs"


def scores_of(rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction]) -> list[list[float]]:
    """Return the scores of each row, as floats.

    Raises:
        StepDiffError: No rows, another number of predictions than rows, or one that does not fit its row.
    """
    check_count(rows, predictions)
    found = []
    for row, prediction in zip(rows, predictions, strict=True):
        try:
            found.append([float(score) for score in check_prediction("scores", row, prediction)])
        except StepDiffError as error:
            raise StepDiffError(f"row {row.key!r}: {error}") from error
    return found


def check_count(rows: Sequence[BenchmarkRow], answers: Sequence[Any], words: str = PREDICTIONS) -> None:
    """Raise StepDiffError unless there is one answer for each row, and at least one row."""
    if not rows or len(rows) != len(answers):
        raise StepDiffError(f"{len(answers)} {words.format(len(rows))}: nothing to score")


def truths_of(rows: Sequence[BenchmarkRow], truth: Mapping[str, Truth]) -> list[Truth]:
    """Return the truth of each row. StepDiffError: a row that has none."""
    if unknown := [row.key for row in rows if row.key not in truth]:
        raise StepDiffError(
            f"row {unknown[0]!r} has no truth ({len(unknown)} such rows): give the folder that the rows were read from"
        )
    return [truth[row.key] for row in rows]


def video_of(clip: str) -> str:
    """Return the video that a clip's id names; an id of another form is a video of its own."""
    parts = parts_of(clip)
    return clip if parts is None else parts[0]


def groups_of(videos: Sequence[Collection[str]]) -> list[str]:
    """Return the name of each row's group. Rows that share a video are in one group, as are rows that other rows
    connect.

    Args:
        videos: The videos of each row, at least one.
    """
    parent: dict[str, str] = {}

    def root(video: str) -> str:
        while parent.setdefault(video, video) != video:
            parent[video] = parent[parent[video]]
            video = parent[video]
        return video

    for row in videos:
        first, *others = row
        for other in others:
            one, two = sorted((root(first), root(other)))
            parent[two] = one
    return [root(next(iter(row))) for row in videos]


def summary(
    task: str,
    rows: Sequence[BenchmarkRow],
    figures: Mapping[str, Figure],
    chance: Mapping[str, Figure],
    groups: Sequence[str],
    counts: Mapping[str, Mask],
    categories: Mapping[str, Mask],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return the scores as a dict for JSON.

    Args:
        task: Name of the benchmark.
        rows: The rows that were answered.
        figures: Figure -> its parts of the rows.
        chance: The same for constant predictions.
        groups: The group of each row, which is drawn whole.
        counts: Name -> the rows that are counted under it.
        categories: Category -> its rows; a row may be in several.
        bootstrap: Resamples of the groups for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.

    Raises:
        StepDiffError: A negative number of resamples, or a negative seed.
    """
    if bootstrap < 0 or seed < 0:
        raise StepDiffError(f"bootstrap {bootstrap}, seed {seed}: neither may be negative")
    low_high = intervals(dict(figures), groups, bootstrap, seed) if bootstrap else {}
    everything = np.ones(len(rows), bool)
    return {
        "task": task,
        **_part(figures, counts, everything),
        "videos": len({video_of(clip) for row in rows for clip in row.clips}),
        "groups": len(set(groups)),
        "chance": values_of(chance),
        "intervals": {name: found if found is None else list(found) for name, found in low_high.items()},
        "per_category": {name: _part(figures, counts, mask) for name, mask in categories.items() if mask.any()},
    }


def _part(figures: Mapping[str, Figure], counts: Mapping[str, Mask], mask: Mask) -> dict[str, Any]:
    numbers = {name: int((counted & mask).sum()) for name, counted in counts.items()}
    return {**values_of(figures, mask), **numbers, "rows": int(mask.sum())}


def values_of(figures: Mapping[str, Figure], mask: Mask | None = None) -> dict[str, float | None]:
    """Return figures over the marked rows (default: all), None where one is undefined."""
    values = {name: figure.of(mask) for name, figure in figures.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
