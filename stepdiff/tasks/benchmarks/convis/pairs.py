"""ConViS-Bench: how similar are two clips in a concept, in the scores of people?

A row is a pair of clips and one of five concepts; its truth is the mean of all answers about it. The figures are the
published ones: Spearman's rho and Kendall's tau-b of predictions and truths over the pairs, for each concept, times
100. A method that does not know the concept gives a pair the same score in all of them.

    asked = read(folder)
    found = read_published_predictions(file, asked.rows)
    score(found.rows, found.predictions, asked.truth)

Pairs are drawn for the intervals. They share clips, but those that share a video cannot be drawn together, because 483
of the 610 are connected. Drawing videos, where a pair weighs the product of its videos, gives intervals 1.7 times as
wide, which is what that procedure gives for pairs that are independent (the square root of 3).

Guarantees
- figures of the published predictions equal the published table to its digit
- a pair without a prediction is not scored but counted
- a constant prediction has no figure
- a mean over concepts has all five
- the truth is the mean of all answers about a pair
- figures of agreement are those of the last answer of each person about a pair
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.agreement import alpha, ceiling
from stepdiff.tasks.benchmarks.convis.files import CONCEPTS, SCORES, clips, export, read_answers, video_of
from stepdiff.tasks.benchmarks.convis.published import PUBLISHED
from stepdiff.tasks.benchmarks.rows import Rating
from stepdiff.tasks.benchmarks.summary import scores_of, truths_of
from stepdiff.tasks.bootstrap import Resamples, interval
from stepdiff.tasks.correlation import kendall, spearman
from stepdiff.tasks.spec import Asked, TaskSpec
from stepdiff.tasks.testsets import Pair, Prediction

CORRELATIONS = {"rho": spearman, "tau": kendall}
LICENCE = "not stated by the authors"


def key_of(pair: Pair, concept: str) -> str:
    """Return the key of a row."""
    return f"{pair[0]}-{pair[1]}: {concept}"


def read(folder: Path) -> Asked:
    """Read the pairs and the people's scores, in the order of the answers. StepDiffError: no answers, or damaged."""
    given: dict[Pair, list[tuple[int, ...]]] = defaultdict(list)
    for answer in read_answers(folder):
        given[answer.pair].append(answer.scores)
    rows, truth = [], {}
    for pair, scores in given.items():
        for concept, mean in zip(CONCEPTS, np.mean(scores, axis=0).tolist(), strict=True):
            rows.append(Rating(key_of(pair, concept.name), pair, concept.name))
            truth[rows[-1].key] = mean
    return Asked(rows, truth, (f"{len(given)} pairs, {sum(map(len, given.values()))} answers of people",))


def score(
    rows: Sequence[Rating],
    predictions: Sequence[Prediction],
    truth: Mapping[str, float],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return rho and tau of each concept, times 100.

    Args:
        rows: The rows with a prediction.
        predictions: One score for each row.
        truth: The mean score of each row of the benchmark, also of rows without a prediction.
        bootstrap: Resamples of the pairs for each 95 % interval; 0 omits the intervals.
        seed: Seed of the resamples.

    Returns:
        {"task", "rho CONCEPT": number or None, "tau CONCEPT", "rho" and "tau": their means over the concepts (ours),
        "rows", "missing", "videos", "chance", "intervals", "per_category": {concept: {"rho", "tau", "rows",
        "missing"}}}

    Raises:
        StepDiffError: No rows, another number of predictions, or one that does not fit its row.
    """
    if bootstrap < 0 or seed < 0:
        raise StepDiffError(f"bootstrap {bootstrap}, seed {seed}: neither may be negative")
    values = np.array(scores_of(rows, predictions))[:, 0]
    means = np.array(truths_of(rows, truth))
    draws = Resamples(["-".join(row.clips) for row in rows], bootstrap, seed)
    asked = Counter(key.rpartition(": ")[2] for key in truth)
    concepts = np.array([row.concept for row in rows])
    parts: dict[str, Any] = {}
    resampled: dict[str, np.ndarray] = {}
    for concept in [c.name for c in CONCEPTS if asked[c.name]]:
        chosen = np.flatnonzero(concepts == concept)
        parts[concept] = {"rows": len(chosen), "missing": asked[concept] - len(chosen)}
        for name, correlation in CORRELATIONS.items():
            both = values[chosen], means[chosen]
            parts[concept][name] = _percent(correlation(*both)[0] if len(chosen) > 1 else np.nan)
            given = parts[concept][name] is not None
            weights = draws.counts[:, draws.member[chosen]]
            resampled[f"{name} {concept}"] = (
                100 * correlation(*both, weights) if given else np.full(len(weights), np.nan)
            )
    found = {f"{name} {concept}": part[name] for name in CORRELATIONS for concept, part in parts.items()}
    for name in CORRELATIONS:
        own = [f"{name} {concept}" for concept in parts]
        found[name] = None if None in (each := [found[key] for key in own]) else float(np.mean(each))
        resampled[name] = np.mean([resampled[key] for key in own], axis=0)
    low_high = {name: interval(resampled[name], draws.groups) for name in found} if bootstrap else {}
    videos = {video_of(clip) for row in rows for clip in row.clips}
    return {
        "task": "convis",
        **found,
        "rows": len(rows),
        "missing": len(truth) - len(rows),
        "videos": len(videos),
        "chance": dict.fromkeys(found, 0.0),
        "intervals": {name: both if both is None else list(both) for name, both in low_high.items()},
        "per_category": parts,
    }


def _percent(value: float) -> float | None:
    return 100 * float(value) if math.isfinite(value) else None


def people(folder: Path, splits: int = 50, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Return how far people agree, for each concept.

    Args:
        folder: The benchmark.
        splits: Splits of the answers into halves.
        seed: Seed of the splits.

    Returns:
        {concept: {"ceiling": the highest rho that a method can expect (stepdiff.tasks.agreement.ceiling), "nominal",
        "ordinal", "interval": Krippendorff's alpha}}
    """
    answers = read_answers(folder)
    given: dict[Pair, list[tuple[int, ...]]] = defaultdict(list)
    for answer in answers:
        given[answer.pair].append(answer.scores)
    highest = ceiling([np.array(scores) for scores in given.values()], splits, seed)
    last = {(answer.pair, answer.person): answer.scores for answer in answers}
    places = {pair: place for place, pair in enumerate(given)}
    counts = np.zeros((len(CONCEPTS), len(given), len(SCORES)), np.int64)
    for (pair, _), scores in last.items():
        counts[range(len(CONCEPTS)), places[pair], np.array(scores) - 1] += 1
    return {
        concept.name: {"ceiling": float(top) if math.isfinite(top) else None}
        | {level: alpha(own, level) for level in ("nominal", "ordinal", "interval")}
        for concept, top, own in zip(CONCEPTS, highest, counts, strict=True)
    }


SPEC = TaskSpec(
    name="convis",
    title="ConViS-Bench",
    figures={f"{kind} {concept.name}": f"{concept.name}, {kind}" for kind in CORRELATIONS for concept in CONCEPTS},
    read=read,
    score=score,
    clips=clips,
    export=export,
    published=PUBLISHED,
    chance={f"{kind} {concept.name}": 0.0 for kind in CORRELATIONS for concept in CONCEPTS},
    form=".1f",
    licence=LICENCE,
)
