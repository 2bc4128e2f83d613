"""Retrieval of ConViS-Bench: which of four clips is the most similar one in a concept?

The published lists have 133 clips with four targets each. Their ground truth (ranked.json) is not published, so the
mean scores of pairs are the truth, and only clips whose four pairs all have scores are rows.

P@1, R@1 and F1@1 compare the targets with the highest score of the method and those with the highest one of people:
several where scores are equal. They are means over rows, times 100. tau is the mean tau-b of the rows that have one,
times 100. Ties gain a method recall: a constant prediction has R@1 100. `chance` is that of random orders without ties.

Guarantees
- targets with equal scores share a rank
- a row without a tau does not count in tau
- a clip with a pair that people did not score is not a row
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepdiff.tasks.benchmarks.convis.files import CONCEPTS, clips, read_rankings, video_of
from stepdiff.tasks.benchmarks.convis.pairs import LICENCE
from stepdiff.tasks.benchmarks.convis.pairs import read as read_pairs
from stepdiff.tasks.benchmarks.rows import Ranking
from stepdiff.tasks.benchmarks.summary import scores_of, summary, truths_of
from stepdiff.tasks.bootstrap import mean_figure
from stepdiff.tasks.correlation import kendall
from stepdiff.tasks.spec import Asked, TaskSpec
from stepdiff.tasks.testsets import Prediction

FIGURES = ("P@1", "R@1", "F1@1", "tau")


def read(folder: Path) -> Asked:
    """Read the lists whose pairs have scores, each in five concepts. StepDiffError: a file is missing or damaged."""
    pairs = read_pairs(folder)
    scores = {(frozenset(row.clips), row.concept): pairs.truth[row.key] for row in pairs.rows}
    rankings = read_rankings(folder)
    rows, truth = [], {}
    for reference, targets in rankings.items():
        for concept in CONCEPTS:
            found = [scores.get((frozenset((reference, target)), concept.name)) for target in targets]
            if None not in found:
                rows.append(Ranking(f"{reference}: {concept.name}", reference, targets, concept.name))
                truth[rows[-1].key] = found
    kept = len({row.reference for row in rows})
    note = f"{kept} of {len(rankings)} lists, those whose pairs all have scores; their own ranking is not published"
    return Asked(rows, truth, (note,))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float, float]:
    """Return precision, recall and F1 of the best targets, and tau-b, which is NaN where all values of a side tie."""
    best, right = ({i for i, value in enumerate(side) if value == max(side)} for side in (ours, theirs))
    hits = len(best & right)
    precision, recall = hits / len(best), hits / len(right)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1, float(kendall(np.array(ours, float), np.array(theirs, float))[0])


def _by_chance(theirs: Sequence[float]) -> list[float]:
    """Return the mean precision, recall and F1 of one target at random."""
    orders = np.eye(len(theirs)).tolist()
    return [float(np.mean(values)) for values in list(zip(*(compare(o, theirs) for o in orders), strict=True))[:3]]


def score(
    rows: Sequence[Ranking],
    predictions: Sequence[Prediction],
    truth: Mapping[str, Sequence[float]],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures as stepdiff.tasks.benchmarks.summary does; lists are drawn for the intervals, not their
    concepts."""
    both = zip(scores_of(rows, predictions), truths_of(rows, truth), strict=True)
    values = np.array([compare(*sides) for sides in both])
    level = np.array([_by_chance(own) for own in truths_of(rows, truth)])
    defined = ~np.isnan(values[:, 3])
    figures = {name: mean_figure(100 * values[:, i]) for i, name in enumerate(FIGURES[:3])}
    chance = {name: mean_figure(100 * level[:, i]) for i, name in enumerate(FIGURES[:3])}
    figures["tau"], chance["tau"] = mean_figure(100 * values[:, 3], defined), mean_figure(np.zeros(len(rows)))
    concepts = {c.name: np.array([row.concept == c.name for row in rows]) for c in CONCEPTS}
    lists = [row.reference for row in rows]
    counts = {"rows_with_tau": defined}
    found = summary("convis-retrieval", rows, figures, chance, lists, counts, concepts, bootstrap, seed)
    return found | {"videos": len({video_of(clip) for row in rows for clip in row.clips})}


SPEC = TaskSpec(
    name="convis-retrieval",
    title="ConViS-Bench, retrieval",
    figures={name: name for name in FIGURES},
    read=read,
    score=score,
    clips=clips,
    form=".1f",
    licence=LICENCE,
)
