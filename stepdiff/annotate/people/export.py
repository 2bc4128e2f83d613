"""Collected answers as rows of the published test sets.

DiffCap: the texts of all people about a pair in a category. A text says how the right video differs from the left one,
so the left clip is the row's reference. DiffRank: a reference and up to four clips with known scores; clips of another
step, whose score is 0, fill a row where steps are known. A score has no direction, so each clip of a pair is a
reference. The score of a pair in a category is the median over people, a half rounded down: where two people disagree
about a difference, there is one. Scores: 5 = not different, 1 = very different, 0 = a clip of another step.

Only work counts, an adjudication wins over it, and a pair that at least half of its people reject is in no row.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from stepdiff.annotate.people.answers import latest
from stepdiff.annotate.people.form import Answer
from stepdiff.common.streams import generator
from stepdiff.tasks.testsets import DiffCap, DiffRank

TARGETS = 4  # of a published DiffRank row
OTHER_STEP = 3 * (0,) + 10 * (1,) + 7 * (2,)
"""Numbers of targets of another step of 20 references, as published: 85 % have some, 30 % of all targets are."""


@dataclass(frozen=True)
class Decided:
    """What people found about a pair together."""

    pair: str
    reference: str
    candidate: str
    people: int
    scores: Mapping[str, int]  # 5 = not different, 1 = very different
    texts: Mapping[tuple[str, str, str], tuple[str, ...]]
    """(left clip, right clip, category) -> texts, which say how the right clip differs"""
    adjudicated: bool


def decide(answers: Iterable[Answer]) -> tuple[list[Decided], list[str]]:
    """Return what was decided about each pair, and the ids of rejected pairs."""
    by_pair: dict[str, list[Answer]] = defaultdict(list)
    for answer in latest(answers):
        if answer.kind in ("work", "adjudication"):
            by_pair[answer.pair].append(answer)
    decided, rejected = [], []
    for pair, given in by_pair.items():
        final = [answer for answer in given if answer.kind == "adjudication"]
        counted = [max(reversed(final), key=lambda answer: answer.time)] if final else given
        accepting = [answer for answer in counted if answer.rejected is None]
        if 2 * len(accepting) <= len(counted):
            rejected.append(pair)
            continue
        scores: dict[str, list[int]] = defaultdict(list)
        texts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for answer in accepting:
            for category, difference in answer.differences.items():
                scores[category].append(difference.score)
                if difference.text.strip():
                    texts[*answer.shown, category].append(difference.text.strip())
        decided.append(
            Decided(
                pair=pair,
                reference=counted[0].reference,
                candidate=counted[0].candidate,
                people=len(accepting),
                scores={category: math.floor(median(values)) for category, values in scores.items()},
                texts={key: tuple(dict.fromkeys(written)) for key, written in texts.items()},
                adjudicated=bool(final),
            )
        )
    return decided, rejected


def diffcap_rows(decided: Iterable[Decided]) -> list[DiffCap]:
    """Return one row for each category and direction of a pair in which at least one person wrote a text."""
    return [DiffCap(*key, texts) for pair in decided for key, texts in pair.texts.items()]


def diffrank_rows(decided: Sequence[Decided], steps: Mapping[str, str] | None = None, seed: int = 0) -> list[DiffRank]:
    """Return rows of DiffRank, those of one reference next to each other.

    A reference has the same targets, TARGETS at most, in every category in which all of them have a score. A category
    in which all targets have the same score is left out, because it ranks nothing. `steps` (clip -> its step) allows
    targets of another step; `seed` decides which targets are taken, and their order.
    """
    near: dict[str, dict[str, Mapping[str, int]]] = defaultdict(dict)
    for pair in decided:
        near[pair.reference][pair.candidate] = near[pair.candidate][pair.reference] = pair.scores
    categories = list(dict.fromkeys(category for pair in decided for category in pair.scores))
    steps = steps or {}
    clips = sorted(clip for clip in near if clip in steps)
    rows = []
    for reference, scores in near.items():
        rng = generator(seed, "DiffRank rows of answers", reference)
        step = steps.get(reference)
        others = [clip for clip in clips if step is not None and steps[clip] != step and clip not in scores]
        foreign = int(rng.choice(OTHER_STEP)) if others else 0
        near_clips = _some(rng, sorted(scores), TARGETS - foreign)
        drawn = _some(rng, others, TARGETS - len(near_clips))
        chosen = _some(rng, [*near_clips, *drawn], TARGETS)
        for category in categories:
            known = [0 if clip in drawn else scores[clip].get(category) for clip in chosen]
            values = tuple(score for score in known if score is not None)
            if len(values) == len(chosen) and len(set(values)) > 1:
                rows.append(DiffRank(reference, tuple(chosen), category, values))
    return rows


def _some(rng: np.random.Generator, clips: Sequence[str], most: int) -> list[str]:
    """Return at most `most` of the clips, in random order."""
    return [clips[place] for place in rng.permutation(len(clips))[:most]]
