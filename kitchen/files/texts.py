"""Sentences from ground truth: what a clip shows, and what differs between two clips.

Every function takes its own seeded generator, so a text depends on nothing but its arguments.
"""

import random

from kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, Difference, differences
from kitchen.phrases import narration, pairqa, tests
from kitchen.phrases.words import Pool, listed, phrase, with_article
from kitchen.steps import CATEGORIES, MAIN, STEPS

MENTIONED = 3
"""A text names at most so many differences of plain attributes (added and skipped things all)."""


def value_phrase(pool: Pool, attribute: str, value: str, step: str, rng: random.Random) -> str:
    """What a pool calls a value, ready for a template."""
    if attribute == "order" or attribute == "subaction":
        if value == MAIN:
            return phrase(pool, "step", step, rng)
        return phrase(pool, "subaction", value, rng)
    words = phrase(pool, attribute, value, rng)
    return with_article(words) if attribute == "tool" else words


def mentioned(category: str, a: Attributes, b: Attributes) -> tuple[Difference, ...]:
    """The differences that a text about this pair names; the stripe only where nothing else is."""
    found = differences(category, a, b)
    plain = [d for d in found if d.attribute not in ("extras", "subaction", "trim")]
    if any(d.attribute == "subaction" for d in found):
        plain = []
    rest = [d for d in found if d.attribute in ("extras", "subaction")]
    stripe = [d for d in found if d.attribute == "trim"] if not plain else []
    return (*plain[:MENTIONED], *rest, *stripe)


def facts(truth: Attributes) -> list[tuple[str, str]]:
    """All (attribute, value) of a clip in the order a cook would tell them."""
    told: list[tuple[str, str]] = []
    for category in CATEGORIES:
        for name in CATEGORY_ATTRIBUTES[category]:
            if name == "extras":
                told += [("has", extra) for extra in truth.extras]
            elif name == "sequence":
                told += [("subaction", sub) for sub in truth.sequence if sub != MAIN]
            elif name == "detail":
                if truth.detail != STEPS[truth.step].detail[0]:
                    told.append(("detail", truth.detail))
            elif getattr(truth, name) is not None:
                told.append((name, getattr(truth, name)))
    return told


def _key(d: Difference) -> tuple[str, str]:
    """Template name and attribute whose words fill it."""
    if d.attribute == "extras":
        return ("has" if d.new else "lacks"), "extras"
    if d.attribute == "subaction":
        return ("subaction" if d.new else "without"), "subaction"
    if d.attribute == "detail":
        return ("plain" if d.new == "plain" else "detail"), "detail"
    return d.attribute, d.attribute


def _grouped(found: tuple[Difference, ...]) -> list[list[Difference]]:
    """Things added together, things skipped together, every other difference by itself."""
    groups: dict[str, list[Difference]] = {}
    for d in found:
        groups.setdefault(_key(d)[0], []).append(d)
    return list(groups.values())


def _values(pool: Pool, group: list[Difference], side: str, step: str, rng: random.Random) -> list[str]:
    attribute = _key(group[0])[1]
    values = [getattr(d, side) for d in group]
    return [value_phrase(pool, attribute, v, step, rng) for v in values if v]


_PREPOSITIONS = ("in", "on", "with", "over")


def _compared(pool: Pool, group: list[Difference], step: str, rng: random.Random) -> dict[str, str]:
    """The words of a change: `in a pan` instead of `a pot`, not instead of `in a pot`."""
    new, old = (_values(pool, group, side, step, rng) for side in ("new", "old"))
    x, y = listed(new), listed(old)
    first, _, rest = y.partition(" ")
    if first in _PREPOSITIONS and x.startswith(f"{first} "):
        y = rest
    return {"x": x, "y": y, "z": listed(old, "or")}


def change_for_test(category: str, a: Attributes, b: Attributes, tone: int, rng: random.Random) -> str:
    """What `b` does differently from `a`, in test phrasing number `tone`."""
    clauses: list[str] = []
    opened = ""
    for group in _grouped(mentioned(category, a, b)):
        template = tests.CHANGE[_key(group[0])[0]][tone]
        clause = template.format(**_compared("test", group, a.step, rng))
        for opening in tests.REPEATED:
            if opened == opening and clause.startswith(opening):
                clause = clause.removeprefix(opening)
                break
            if clause.startswith(opening):
                opened = opening
                break
        else:
            opened = ""
        clauses.append(clause)
    return tests.SUBJECTS[category][tone] + listed(clauses)


def change_for_pairqa(category: str, a: Attributes, b: Attributes, rng: random.Random) -> str:
    """What happens in Video 2 instead of Video 1."""
    clauses: list[str] = []
    for group in _grouped(mentioned(category, a, b)):
        template = rng.choice(pairqa.CHANGE[_key(group[0])[0]])
        clause = template.format(**_compared("pairqa", group, a.step, rng))
        clauses.append(clause.removeprefix("the person ") if clauses else clause)
    return listed(clauses)


def _seen(group: list[Difference], step: str, rng: random.Random) -> tuple[str, dict[str, str]]:
    """Template name and words of what one video shows; it is the candidate of `group`."""
    name = _key(group[0])[0]
    absent = name in ("lacks", "without", "plain")
    values = _values("pairqa", group, "old" if absent else "new", step, rng)
    words = {"v": listed(values), "z": listed(values, "or")}
    if name == "order":
        words["w"] = listed(_values("pairqa", group, "old", step, rng))
    return name, words


def state_for_pairqa(category: str, a: Attributes, b: Attributes, side: str, rng: random.Random) -> str:
    """What holds in Video 1 (side "old") or Video 2 ("new") where the two differ."""
    found = mentioned(category, a, b)
    seen = found if side == "new" else tuple(d.reversed() for d in found)
    clauses: list[str] = []
    subject = ""
    for group in _grouped(seen):
        name, words = _seen(group, a.step, rng)
        clause = rng.choice(pairqa.STATE[name]).format(**words)
        clauses.append(clause.removeprefix("the cook ") if subject == "the cook" else clause)
        if subject != "the cook" or not clause.startswith("the cook "):
            subject = "the cook" if clause.startswith("the cook ") else "other"
    return listed(clauses)


def which_for_pairqa(d: Difference, step: str, rng: random.Random) -> tuple[str, bool]:
    """A question that one of the two videos answers, and whether that is Video 2."""
    second = rng.random() < 0.5
    name, words = _seen([d if second else d.reversed()], step, rng)
    return rng.choice(pairqa.WHICH[name]).format(**words), second


def caption(truth: Attributes, rng: random.Random) -> str:
    """All that a still of the step's own action shows."""
    told = []
    for attribute, value in facts(truth):
        if attribute in pairqa.VISIBLE:
            name = "extras" if attribute == "has" else attribute
            words = value_phrase("pairqa", name, value, truth.step, rng)
            told.append(rng.choice(pairqa.VISIBLE[attribute]).format(v=words))
    step = phrase("pairqa", "step", truth.step, rng)
    return rng.choice(pairqa.CAPTIONS).format(step=step, facts=listed(told))


def spoken(truth: Attributes, share: float, rng: random.Random) -> list[str]:
    """What a cook says over a clip: an opener, then each attribute with chance `share`."""
    said = [rng.choice(narration.OPENERS).format(v=phrase("narration", "step", truth.step, rng))]
    for attribute, value in facts(truth):
        if attribute in narration.SPOKEN and rng.random() < share:
            name = "extras" if attribute == "has" else attribute
            words = value_phrase("narration", name, value, truth.step, rng)
            line = rng.choice(narration.SPOKEN[attribute]).format(v=words)
            if rng.random() < 0.35:
                line = f"{rng.choice(narration.FILLERS)} {line}"
            said.append(line)
    return said
