"""DiffCap and DiffRank rows from ground truth, in the published formats.

DiffMCQ is made from DiffCap and the features of its clips (python -m retrieval negatives), as in
supplement S5. So that the number of differences does not tell its answer, a pair of DiffCap differs
in every category and is asked about in each, and pairs with about two differences in a category
come first, if the world has enough such pairs.

The texts of a row have phrasings of the row's split (stepdiff.kitchen.files.texts), which no
training text has.

Guarantees
- all clips of a row are of the given split; DiffCap asks about a pair once a category;
- in a large split a pair of DiffCap differs in every category, and its clips are in one or two
  pairs;
- DiffRank scores are the documented scores, never all equal within a row; the rows of a reference,
  one a category, are adjacent and have the same targets;
- in a large split DiffRank has targets of other steps as often as the published set: in 85 % of the
  rows, 30 % of the targets.
"""

import itertools
import random
from collections import Counter
from math import ceil

from stepdiff.kitchen.attributes import differences, score
from stepdiff.kitchen.files.texts import Split, changes
from stepdiff.kitchen.world import Clip, by_step
from stepdiff_core.tasks.testsets import CATEGORIES, OTHER_STEP, TARGETS, DiffCap, DiffRank

Pair = tuple[Clip, Clip]

SIZES: dict[Split, tuple[int, int]] = {"test": (180, 300), "val": (72, 180)}
"""Most pairs of DiffCap and rows of DiffRank of each split."""
PAIRS_OF_CLIPS = 0.6
"""Most pairs of DiffCap for each clip of the split: in a small world the others differ in few
categories."""
PAIRS_A_CLIP, AGAIN = 2, 0.3
"""Most pairs of DiffCap that a clip is in, and how often a pair takes clips that are in one
already: together 1.5 pairs a clip, as in the published set."""
USUAL = 2
"""Differences in a category of the pairs that DiffCap prefers."""
DRAWS = 20
"""Sets of targets that are drawn for a reference; the one with the most different scores is
taken."""

TEXTS = 3
"""Texts of a row of DiffCap, as different people would write them."""


def _pairs(clips: list[Clip], limit: int, rng: random.Random) -> list[Pair]:
    """Return (reference, candidate) of one step, the steps in turn: first pairs that differ in
    every category, of these the pairs with about as many differences in each."""
    queues = []
    for group in by_step(clips).values():
        pairs = [rng.sample(pair, 2) for pair in itertools.combinations(group, 2)]
        rng.shuffle(pairs)
        ranked = [(_rank(one, two), (one, two)) for one, two in pairs]
        queues.append(
            sorted((entry for entry in ranked if entry[0][0]), key=lambda entry: entry[0])
        )
    used: Counter[str] = Counter()
    chosen: list[Pair] = []
    while any(queues) and len(chosen) < limit:
        for queue in queues:
            queue[:] = [
                entry for entry in queue if max(used[clip.id] for clip in entry[1]) < PAIRS_A_CLIP
            ]
            if queue and len(chosen) < limit:
                most = [entry for entry in queue if entry[0][0] == queue[0][0][0]]
                sign = 1 if rng.random() < AGAIN else -1
                best = max(most, key=lambda entry: sign * sum(used[clip.id] for clip in entry[1]))
                queue.remove(best)
                used.update(clip.id for clip in best[1])
                chosen.append(best[1])
    return chosen


def _rank(one: Clip, two: Clip) -> tuple[int, int]:
    """Return minus the number of categories that differ, and how far these are from the usual
    number of differences."""
    counts = [len(differences(category, one.truth, two.truth)) for category in CATEGORIES]
    return -sum(map(bool, counts)), sum(abs(count - USUAL) for count in counts if count)


def diffcap(clips: list[Clip], limit: int, seed: int, split: Split) -> list[DiffCap]:
    """Return the rows of at most `limit` pairs, one a category, in phrasings of the split."""
    rng = random.Random(f"diffcap {seed}")
    rows = []
    for one, two in _pairs(clips, min(limit, ceil(PAIRS_OF_CLIPS * len(clips))), rng):
        for category in CATEGORIES:
            if differences(category, one.truth, two.truth):
                texts = changes(category, one.truth, two.truth, split, TEXTS, rng)
                rows.append(DiffCap(one.id, two.id, category, tuple(texts)))
    return rows


def diffrank(clips: list[Clip], limit: int, seed: int) -> list[DiffRank]:
    """Return rows in which, as in the published set, a reference has the same targets in every
    category; categories with equal scores for all targets are left out."""
    rng = random.Random(f"diffrank {seed}")
    groups = by_step(clips)
    rows: list[DiffRank] = []
    foreign_counts: list[int] = []
    for reference in rng.sample(clips, len(clips)):
        if len(rows) >= limit:
            break
        same_step = [clip for clip in groups[reference.truth.step] if clip.id != reference.id]
        others = [clip for clip in clips if clip.truth.step != reference.truth.step]
        if len(same_step) + len(others) < TARGETS:
            continue
        foreign_counts = foreign_counts or rng.sample(OTHER_STEP, len(OTHER_STEP))
        foreign = foreign_counts.pop()
        foreign = max(min(foreign, len(others)), TARGETS - len(same_step))
        drawn = [
            rng.sample(same_step, TARGETS - foreign) + rng.sample(others, foreign)
            for _ in range(DRAWS)
        ]
        targets = max(drawn, key=lambda targets: _levels(reference, targets))
        rng.shuffle(targets)
        for category in CATEGORIES:
            scores = tuple(score(category, reference.truth, target.truth) for target in targets)
            if len(set(scores)) > 1:
                rows.append(
                    DiffRank(reference.id, tuple(target.id for target in targets), category, scores)
                )
    return rows[:limit]


def _levels(reference: Clip, targets: list[Clip]) -> int:
    """Return how many scores the targets have, over all categories."""
    return sum(
        len({score(category, reference.truth, target.truth) for target in targets})
        for category in CATEGORIES
    )
