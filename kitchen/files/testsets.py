"""DiffCap, DiffMCQ and DiffRank rows from ground truth, in the published formats.

Guarantees
- all clips of a row are of the asked split; pairs of DiffCap and DiffMCQ answers are distinct;
- a DiffMCQ negative is another pair of the same step that does not exhibit the difference text:
  nothing the text names is true of it, in part or reversed;
- among many clips of a step the answer shares no clip with a negative, and negatives hardly any
  with each other, so that it cannot be guessed from shared clips; in a split with few clips they may;
- DiffRank scores are the documented scores, never all equal within a row; the rows of a reference, one a
  category, are adjacent and have the same targets.
"""

import itertools
import random
from collections import Counter

from kitchen.attributes import PLAIN, Attributes, Difference, differences
from kitchen.files.texts import change_for_test, mentioned
from kitchen.phrases.tests import TONES
from kitchen.scoring import score
from kitchen.steps import CATEGORIES
from kitchen.world import Clip
from tasks.testsets import DiffCap, DiffMCQ, DiffRank

Pair = tuple[Clip, Clip]

SIZES = {"test": (150, 260, 540), "val": (75, 130, 180)}
"""At most so many DiffCap, DiffMCQ and DiffRank rows a split."""
TARGETS = 4
OTHER_STEP_REFERENCES = 0.25
"""Part of DiffRank's references with targets of another step."""
DRAWS = 20
"""Of so many sets of targets drawn by chance the one is taken whose scores differ most."""


def _by_step(clips: list[Clip]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.truth.step, []).append(clip)
    return groups


def _differing(clips: list[Clip], rng: random.Random) -> list[tuple[Clip, Clip, str]]:
    """(reference, candidate, category) with a difference; every pair once, categories in turn."""
    pairs = []
    for group in _by_step(clips).values():
        for one, two in itertools.combinations(group, 2):
            pairs.append((one, two) if rng.random() < 0.5 else (two, one))
    rng.shuffle(pairs)
    counts = dict.fromkeys(CATEGORIES, 0)
    chosen = []
    for one, two in pairs:
        options = [c for c in CATEGORIES if differences(c, one.truth, two.truth)]
        if options:
            category = min(options, key=lambda c: (counts[c], rng.random()))
            counts[category] += 1
            chosen.append((one, two, category))
    return chosen


def diffcap(clips: list[Clip], limit: int, seed: int) -> list[DiffCap]:
    """Return rows whose text holds one phrasing of each tone."""
    rng = random.Random(f"diffcap {seed}")
    rows = []
    for one, two, category in _differing(clips, rng)[:limit]:
        texts = tuple(change_for_test(category, one.truth, two.truth, t, rng) for t in range(TONES))
        rows.append(DiffCap(one.id, two.id, category, texts))
    return rows


def exhibits(named: tuple[Difference, ...], found: tuple[Difference, ...]) -> bool:
    """Whether any difference that a text names is among those of a pair, in part or reversed."""
    for own in found:
        for d in named:
            if own.attribute != d.attribute:
                continue
            if own.attribute in ("extras", "subaction"):
                if {own.old, own.new} == {d.old, d.new}:
                    return True
            elif own.old == d.old or own.new == d.new or own == d.reversed():
                return True
    return False


def _alike(a: Attributes, b: Attributes) -> int:
    same = sum(getattr(a, name) == getattr(b, name) for name in PLAIN)
    return same - len(set(a.extras) ^ set(b.extras)) - len(set(a.sequence) ^ set(b.sequence))


_OVERLAP = 6
"""How many equal attributes a clip shared with a negative chosen before outweighs."""


def _negatives(answer: Pair, category: str, others: list[tuple[Pair, tuple[Difference, ...]]]) -> list[Pair]:
    """Three pairs without the difference, alike to the answer and sharing few clips.

    Pairs that share no clip with the answer come first. Clips repeated among the negatives cost
    likeness, or else the answer would be the only one of its kind.
    """
    one, two = answer
    named = mentioned(category, one.truth, two.truth)
    options = []
    for pair, found in others:
        shared = len({pair[0].id, pair[1].id} & {one.id, two.id})
        if shared < 2 and not exhibits(named, found):
            alike = _alike(one.truth, pair[0].truth) + _alike(two.truth, pair[1].truth)
            options.append((shared, -alike, pair))
    chosen: list[Pair] = []
    used: Counter[str] = Counter()
    while options and len(chosen) < 3:
        costs = [
            (shared, unlike + _OVERLAP * (used[first.id] + used[second.id]), first.id, second.id)
            for shared, unlike, (first, second) in options
        ]
        pair = options[costs.index(min(costs))][2]
        chosen.append(pair)
        taken = {pair[0].id, pair[1].id}
        used.update(taken)
        options = [o for o in options if {c.id for c in o[2]} != taken]
    return chosen


def diffmcq(clips: list[Clip], limit: int, seed: int) -> list[DiffMCQ]:
    """Return rows with three negatives each; pairs with fewer are left out."""
    rng = random.Random(f"diffmcq {seed}")
    others = {
        (step, category): [
            ((a, b), differences(category, a.truth, b.truth)) for a, b in itertools.permutations(group, 2)
        ]
        for step, group in _by_step(clips).items()
        for category in CATEGORIES
    }
    rows: list[DiffMCQ] = []
    for one, two, category in _differing(clips, rng):
        if len(rows) == limit:
            break
        negatives = _negatives((one, two), category, others[one.truth.step, category])
        if len(negatives) < 3:
            continue
        options = [(a.id, b.id) for a, b in ((one, two), *negatives)]
        rng.shuffle(options)
        text = change_for_test(category, one.truth, two.truth, rng.randrange(TONES), rng)
        rows.append(DiffMCQ(text, category, tuple(options), (one.id, two.id)))
    return rows


def diffrank(clips: list[Clip], limit: int, seed: int) -> list[DiffRank]:
    """Return rows in which, as in the published set, a reference has the same targets in every category; categories
    with equal scores for all targets are left out."""
    rng = random.Random(f"diffrank {seed}")
    groups = _by_step(clips)
    rows: list[DiffRank] = []
    for reference in rng.sample(clips, len(clips)):
        if len(rows) >= limit:
            break
        own = [clip for clip in groups[reference.truth.step] if clip.id != reference.id]
        others = [clip for clip in clips if clip.truth.step != reference.truth.step]
        if len(own) + len(others) < TARGETS:
            continue
        foreign = rng.choice((1, 2)) if rng.random() < OTHER_STEP_REFERENCES else 0
        foreign = max(min(foreign, len(others)), TARGETS - len(own))
        drawn = [rng.sample(own, TARGETS - foreign) + rng.sample(others, foreign) for _ in range(DRAWS)]
        targets = max(drawn, key=lambda targets: _levels(reference, targets))
        rng.shuffle(targets)
        for category in CATEGORIES:
            scores = tuple(score(category, reference.truth, target.truth) for target in targets)
            if len(set(scores)) > 1:
                rows.append(DiffRank(reference.id, tuple(target.id for target in targets), category, scores))
    return rows[:limit]


def _levels(reference: Clip, targets: list[Clip]) -> int:
    """How many scores the targets have, over all categories."""
    return sum(len({score(category, reference.truth, target.truth) for target in targets}) for category in CATEGORIES)
