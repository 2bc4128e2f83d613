"""DiffCap, DiffMCQ and DiffRank rows from ground truth, in the published formats.

In templates {x} is the value in the candidate, {y} the value in the reference; several values are joined by "and", in
{z} by "or". Every attribute has one phrasing for each of three tones, so that a text keeps its tone.

Guarantees
- all clips of a row are of the given split; pairs of DiffCap and DiffMCQ answers are distinct;
- a DiffMCQ negative is another pair of the same step that does not exhibit the difference text: nothing that the text
  names is true of it, in part or reversed;
- in a large split the answer shares no clip with a negative, and negatives share few with each other, so that the
  answer cannot be guessed from shared clips;
- DiffRank scores are the documented scores, never all equal within a row; the rows of a reference, one a category, are
  adjacent and have the same targets.
"""

import itertools
import random
from collections import Counter

from kitchen.attributes import PLAIN, Attributes, Difference, differences, score
from kitchen.files.texts import compared, grouped, listed, mentioned, template_of
from kitchen.steps import CATEGORIES
from kitchen.world import Clip
from tasks.testsets import DiffCap, DiffMCQ, DiffRank

Pair = tuple[Clip, Clip]

SIZES = {"test": (150, 260, 540), "val": (75, 130, 180)}
"""Most DiffCap, DiffMCQ and DiffRank rows of each split."""
TARGETS = 4
OTHER_STEP_REFERENCES = 0.25
"""Fraction of DiffRank's references with targets of another step."""
DRAWS = 20
"""Sets of targets that are drawn for a reference; the one with the most different scores is taken."""

TONES = 3
SUBJECTS = dict.fromkeys(CATEGORIES, ("the person ", "this cook ", "they ")) | {"Visuals": ("", "", "they ")}
"""The beginning of a text in each tone."""

CHANGE: dict[str, tuple[str, str, str]] = {
    "main": ("uses {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "has": ("adds {x}", "throws in {x} too", "sprinkle {x} over it"),
    "lacks": ("does not add {z}", "skips the {y}", "leave the {y} out"),
    "amount": ("uses {x} instead of {y}", "handles {x} and not {y}", "opt for {x} rather than {y}"),
    "tool": ("uses {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "vessel": ("keeps it {x} instead of {y}", "has it {x} and not {y}", "opt to have it {x} rather than {y}"),
    "surface": ("stands at work {x} instead of {y}", "is busy {x} and not {y}", "opt to be {x} rather than {y}"),
    "gloves": ("shows {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "trim": (
        "uses a dish bearing {x} instead of {y}",
        "owns a dish marked by {x} and not {y}",
        "opt for {x} on the dish rather than {y}",
    ),
    "speed": ("moves {x} instead of {y}", "goes about it {x} and not {y}", "opt to move {x} rather than {y}"),
    "motion": ("does it by {x} instead of {y}", "replaces {y} by {x}", "opt for {x} rather than {y}"),
    "hands": ("does it {x} instead of {y}", "goes about it {x} and not {y}", "opt to do it {x} rather than {y}"),
    "manner": ("does it by {x} instead of {y}", "replaces {y} by {x}", "opt for {x} rather than {y}"),
    "heat": ("heats it {x} instead of {y}", "has it {x} and not {y}", "opt to heat it {x} rather than {y}"),
    "subaction": ("takes time for {x}", "spends a moment {x} too", "fit in {x} besides"),
    "without": ("takes no time for {z}", "skips {y}", "leave out {y}"),
    "order": ("goes for {x} before {y}", "moves {x} ahead of {y}", "put {x} before {y}"),
    "colour": (
        "the food is {x} in colour instead of {y}",
        "its colour is {x} and not {y}",
        "end up with {x} food rather than {y}",
    ),
    "shade": (
        "it is {x} in tone instead of {y}",
        "it has a {x} tone and not a {y} one",
        "end up with a {x} tone rather than a {y} one",
    ),
    "texture": (
        "it is {x} instead of {y}",
        "the mass is {x} and not {y}",
        "end up with a {x} mass rather than a {y} one",
    ),
    "size": (
        "the pieces are {x} instead of {y}",
        "everything is {x} in size and not {y}",
        "end up with {x} pieces rather than {y} ones",
    ),
    "detail": ("it comes with {x}", "one can make out {x}", "end up with {x} on it"),
    "plain": ("it comes without {y}", "one can make out no {y}", "end up without {y}"),
}

REPEATED = ("opt for ", "end up with ")
"""Openings that a clause drops when the one before it opens the same way."""


def change_for_test(category: str, a: Attributes, b: Attributes, tone: int, rng: random.Random) -> str:
    """Return what `b` does differently from `a`, in phrasing number `tone`."""
    clauses: list[str] = []
    opened = ""
    for group in grouped(mentioned(category, a, b)):
        template = CHANGE[template_of(group[0])][tone]
        clause = template.format(**compared("test", group, a.step, rng))
        for opening in REPEATED:
            if opened == opening and clause.startswith(opening):
                clause = clause.removeprefix(opening)
                break
            if clause.startswith(opening):
                opened = opening
                break
        else:
            opened = ""
        clauses.append(clause)
    return SUBJECTS[category][tone] + listed(clauses)


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
