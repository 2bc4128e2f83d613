"""VidDiffBench, closed: of which of two videos is a statement more true?

As in the authors' own runs, only statements that are more true of one video are asked about.

Guarantees
- a_statement_without_a_video_is_not_asked_about
- a_missing_prediction_counts_wrong
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.choosing import chosen, share_right
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Choice, check_keys
from stepdiff.tasks.benchmarks.summary import check_count, scores_of, summary, truths_of
from stepdiff.tasks.benchmarks.viddiff.files import (
    LETTERS,
    LICENCE,
    SOURCE,
    SPLITS,
    Letter,
    by_pair,
    clips,
    describe,
    digest,
    published,
    read_samples,
    split_figures,
    without_splits,
    write_published,
)
from stepdiff.tasks.bootstrap import mean_figure
from stepdiff.tasks.spec import Asked, TaskSpec
from stepdiff.tasks.testsets import Prediction

QUESTION = 'Both videos show this action: {action}. Of which video is this statement more true: "{statement}"?'
"""ours, because the published prompt asks about all statements of a pair at once"""
OPTIONS = ("The statement is more true of Video 1.", "The statement is more true of Video 2.")


@dataclass(frozen=True)
class Truth:
    """What a statement of the closed setting is true of."""

    letter: Letter
    pair: str
    split: str
    domain: str


def read(folder: Path) -> Asked:
    """Read the statements with a video. Raises StepDiffError: a file is missing or damaged."""
    samples = read_samples(folder)
    rows, truth = [], {}
    for sample in samples:
        for name, statement in sample.statements.items():
            if statement.truth == "c":
                continue
            question = QUESTION.format(action=sample.action.rstrip(". "), statement=statement.description)
            rows.append(Choice(f"{sample.key}/{name}", sample.clips, question, OPTIONS, statement.description))
            truth[rows[-1].key] = Truth(statement.truth, sample.key, sample.split, sample.domain)
    check_keys(rows, str(folder))
    if not rows:
        raise StepDiffError(f"{folder}: no statement is truer of one video; get the files again from {SOURCE}")
    notes = (describe(samples), "the question is ours; the authors ask about all statements of a pair at once")
    return Asked(rows, truth, notes, digest=digest(samples))


def score(
    rows: Sequence[Choice],
    predictions: Sequence[Prediction | None],
    truth: Mapping[str, Truth],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """Return accuracy of each split, their plain mean (average), and over all statements.

    Args:
        rows: Statements; those of a pair are drawn together for the intervals.
        predictions: One score for each video, or None for a statement without a prediction, which counts wrong.
        truth: The truth of each statement.
        bootstrap: Resamples for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.
    """
    check_count(rows, predictions)
    places = [place for place, prediction in enumerate(predictions) if prediction is not None]
    scores = scores_of([rows[i] for i in places], [predictions[i] for i in places]) if places else []  # type: ignore[misc]
    truths = truths_of(rows, truth)
    right, ties = np.zeros(len(rows)), np.zeros(len(rows), bool)
    for place, own in zip(places, scores, strict=True):
        right[place] = share_right(own, LETTERS.index(truths[place].letter))
        ties[place] = own[0] == own[1]
    missing = np.array([prediction is None for prediction in predictions])
    splits = {name: np.array([own.split == name for own in truths]) for name in SPLITS}
    domains = {name: np.array([own.domain == name for own in truths]) for name in sorted({t.domain for t in truths})}
    figures, chance = (
        split_figures(values, np.ones(len(rows)), splits) | {"accuracy": mean_figure(values)}
        for values in (right, np.full(len(rows), 0.5))
    )
    counts = {"ties": ties, "missing": missing}
    pairs = [own.pair for own in truths]
    return without_splits(summary("viddiff-closed", rows, figures, chance, pairs, counts, domains, bootstrap, seed))


def export(
    data: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction | None], folder: Path
) -> list[Path]:
    """Write predictions in the authors' format, a list in the order of all pairs, and one by their keys."""
    found: dict[str, dict[str, str]] = {sample.key: {} for sample in read_samples(data)}
    for row, prediction in zip(rows, predictions, strict=True):
        sample, _, name = row.key.rpartition("/")
        if prediction is not None:
            found[sample][name] = LETTERS[chosen([float(score) for score in prediction])]
    return write_published(found, folder)


def read_published(path: Path, folder: Path) -> list[list[float] | None]:
    """Return the prediction of each row of `read` from a file in the authors' format, None for a missing one.

    Args:
        path: A list of {key: letter} or {key: {description, prediction}} in the order of the pairs, or an object of
            them by the pairs' keys.
        folder: The benchmark.

    Raises:
        StepDiffError: The file is damaged, has another number of pairs, or a key that the pair lacks.
    """
    samples = read_samples(folder)
    letters = {}
    for sample, own in zip(samples, by_pair(path, samples), strict=True):
        for name, given in own.items():
            letter = given.get("prediction") if isinstance(given, dict) else given
            if name not in sample.statements:
                raise StepDiffError(f"{path}: pair {sample.key!r} has no statement {name!r}; remove the prediction")
            letters[f"{sample.key}/{name}"] = letter
    marks = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    return [marks.get(str(letters.get(row.key))) for row in read(folder).rows]


SPEC = TaskSpec(
    name="viddiff-closed",
    title="VidDiffBench, closed",
    figures={"average": "average", "easy": "easy", "medium": "medium", "hard": "hard", "accuracy": "all statements"},
    read=read,
    score=score,
    clips=clips,
    export=export,
    published=(
        published("Gemini-1.5-Pro", 67.8, 53.6, 51.7, 57.7),
        published("VidDiff", 62.7, 56.2, 50.0, 56.3),
        published("GPT-4o", 58.3, 53.2, 48.9, 53.5),
        published("Claude-3.5-Sonnet", 57.1, 50.5, 52.5, 53.4),
        published("LLaVA-Video-7B", 56.6, 52.0, 48.3, 52.3),
        published("Qwen2-VL-7B", 49.0, 52.6, 49.6, 50.4),
    ),
    chance=dict.fromkeys(("average", *SPLITS, "accuracy"), 0.5),
    licence=LICENCE,
)
