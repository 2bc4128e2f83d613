"""Predictions and agreement of people of ConViS-Bench, from files in the authors' formats."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np

from stepdiff_core.streams import generator
from stepdiff_core.tasks.agreement import alpha, spearman
from stepdiff_core.tasks.benchmarks.convis import CONCEPTS, clip_of
from stepdiff_core.tasks.benchmarks.rows import Rating

UNPARSED, NEUTRAL = 0.0, 3.0
"""what a published file contains for an answer without a score, and what the authors score
instead"""


@dataclass(frozen=True)
class Predicted:
    """Published predictions of the rows that they contain."""

    rows: list[Rating]
    predictions: list[list[float]]
    missing: Counter[str]
    """concept -> rows without a prediction"""


def read_published_predictions(pattern: str | Path, rows: Sequence[Rating]) -> Predicted:
    """Return the predictions of one method, matched by the clips' ids in the given order. A file
    whose name has a concept (Main_Action, ...) is about that concept, any other one about all."""
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for file in map(Path, sorted(glob(str(pattern), recursive=True))):
        for concept in [c for c in CONCEPTS if c.file in file.name] or CONCEPTS:
            scores[concept.name] = {
                (clip_of(entry["video1"]), clip_of(entry["video2"])): float(entry["similarity"])
                for entry in json.loads(file.read_text())
            }
    expected = [row for row in rows if row.clips in scores.get(row.concept, {})]
    values = [scores[row.concept][row.clips] for row in expected]
    missing = Counter(row.concept for row in rows) - Counter(row.concept for row in expected)
    return Predicted(
        expected, [[NEUTRAL if value == UNPARSED else value] for value in values], missing
    )


def ordinal_alphas(file: Path) -> list[float]:
    """Return Krippendorff's alpha of each concept, from the last answer of each person about a
    pair."""
    answers = json.loads(file.read_text())
    last = {(one["video_pair_id"], one["user_id"]): one["user_inputs"] for one in answers}
    places = {pair: place for place, pair in enumerate(dict.fromkeys(pair for pair, _ in last))}
    counts = np.zeros((len(CONCEPTS), len(places), 5), np.int64)
    for (pair, _), inputs in last.items():
        scores = [int(inputs[concept.key]) for concept in CONCEPTS]
        counts[range(len(CONCEPTS)), places[pair], np.array(scores) - 1] += 1
    return [alpha(own, "ordinal") or 0.0 for own in counts]


def ceilings(file: Path, splits: int = 50) -> list[float]:
    """Return the highest rho that a method can expect in each concept.

    The answers about each pair are split at random into two halves; rho of the halves' means,
    corrected to the full number of answers by 2 rho / (1 + rho) (Spearman-Brown), is the
    reliability of the mean scores, and its root the correlation of a method that knows what all
    people would say on average.
    """
    by_pair: dict[str, list[list[int]]] = defaultdict(list)
    for one in json.loads(file.read_text()):
        by_pair[one["video_pair_id"]].append(
            [int(one["user_inputs"][concept.key]) for concept in CONCEPTS]
        )
    shared = [np.array(scores, float) for scores in by_pair.values() if len(scores) > 1]
    draws, roots = generator(0, "split halves of answers"), []
    for _ in range(splits):
        halves = np.empty((2, len(shared), len(CONCEPTS)))
        for number, answers in enumerate(shared):
            order, middle = draws.permutation(len(answers)), len(answers) // 2
            halves[:, number] = (
                answers[order[:middle]].mean(axis=0),
                answers[order[middle:]].mean(axis=0),
            )
        rho = np.array(
            [spearman(one, two)[0] for one, two in zip(*halves.transpose(0, 2, 1), strict=True)]
        )
        roots.append(np.sqrt(2 * rho / (1 + rho)))
    return np.mean(roots, axis=0).tolist()
