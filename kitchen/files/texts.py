"""Words for attribute values, and what texts of every kind share: facts of a clip, differences of a pair.

The narration, the paired questions and the test sets have disjoint pools of phrasings, each in its own file. Nouns may
be shared by the pools; some synonyms are not. Every function takes its own seeded generator, so a text depends on
nothing but its arguments.
"""

import random
from typing import Literal

from kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, Difference, differences
from kitchen.steps import MAIN, STEPS
from tasks.testsets import CATEGORIES

Pool = Literal["narration", "pairqa", "test"]

MENTIONED = 3
"""Plain attributes whose differences one text names, at most; added and skipped things are all named."""
SYNONYM_SHARE = 0.3
"""How often a synonym replaces the common word, if there is one."""
_PREPOSITIONS = ("in", "on", "with", "over")
_PLURAL = (
    "tongs", "chopsticks", "scissors", "shears", "hen eggs", "quail eggs", "bananas", "grapes",
    "potatoes", "rubber gloves", "oven mitts",
)  # fmt: skip
_COMMON: dict[str, str] = {  # attribute:value -> its phrase, where that is not the value itself
    "trim:red": "a red stripe",
    "trim:blue": "a blue stripe",
    "amount:small": "a small amount",
    "amount:large": "a large amount",
    "speed:slow": "slowly",
    "speed:fast": "quickly",
    "hands:one hand": "with one hand",
    "hands:both hands": "with both hands",
    "heat:low": "over low heat",
    "heat:high": "over high heat",
    "manner:level": "keeping the bowl level",
    "manner:tilted": "tilting the bowl",
    "manner:slices": "cutting slices",
    "manner:dice": "cutting dice",
    "manner:from low": "pouring from low down",
    "manner:from high": "pouring from high up",
    "manner:thin layer": "spreading a thin layer",
    "manner:thick layer": "spreading a thick layer",
    "manner:upright": "holding the grater upright",
    "manner:slanted": "slanting the grater",
    "motion:in circles": "moving in circles",
    "motion:back and forth": "moving back and forth",
    "motion:folding": "folding it over",
    "motion:straight down": "cutting straight down",
    "motion:rocking": "rocking the blade",
    "motion:sawing": "sawing across",
    "motion:tossing": "tossing the pan",
    "motion:low turn": "turning it low",
    "motion:high flip": "flipping it high",
    "motion:pan toss": "tossing it from the pan",
    "motion:steady stream": "pouring a steady stream",
    "motion:circling stream": "pouring a circling stream",
    "motion:dollops": "dropping dollops",
    "motion:long strokes": "making long strokes",
    "motion:dabbing": "dabbing it on",
    "motion:forwards and back": "rolling forwards and back",
    "motion:side to side": "rolling from side to side",
    "motion:pounding": "pounding the dough",
    "motion:up and down": "grating up and down",
    "subaction:wipe": "wiping the counter",
    "subaction:cover": "covering it with a lid",
    "subaction:taste": "tasting it",
    "subaction:timer": "setting a timer",
    "subaction:rinse": "rinsing it under the tap",
    "subaction:read": "reading the recipe book",
    "subaction:thermometer": "checking the temperature",
    "detail:streaks": "orange streaks",
    "detail:stems left on": "green stems",
    "detail:seeds left in": "dark seeds",
    "detail:toasted crust": "dark toasted crust",
    "detail:rind left on": "bits of rind",
    "tool:turner": "slotted turner",
    "step:whisk the eggs": "whisking the eggs",
    "step:mix the batter": "mixing the batter",
    "step:toss the salad": "tossing the salad",
    "step:chop the vegetables": "chopping the vegetables",
    "step:slice the fruit": "slicing the fruit",
    "step:stir-fry the vegetables": "stir-frying the vegetables",
    "step:simmer the sauce": "simmering the sauce",
    "step:flip the pancake": "flipping the pancake",
    "step:pour the batter": "pouring the batter",
    "step:spread the topping": "spreading the topping",
    "step:roll out the dough": "rolling out the dough",
    "step:grate the topping": "grating the topping",
}
_SYNONYMS: dict[Pool, dict[str, tuple[str, ...]]] = {
    "narration": {
        "tool:rubber spatula": ("silicone spatula",),
        "tool:electric mixer": ("hand mixer",),
        "tool:cleaver": ("big cleaver",),
        "speed:slow": ("nice and slow", "real gently"),
        "speed:fast": ("super fast", "real quick"),
        "texture:runny": ("kind of runny",),
        "main:chilli": ("chilli pepper",),
        "extras:herbs": ("fresh herbs",),
        "amount:small": ("just a little bit",),
        "amount:large": ("a whole lot",),
        "subaction:wipe": ("wiping things down",),
        "subaction:taste": ("having a taste",),
    },
    "pairqa": {
        "speed:slow": ("at a slow pace",),
        "speed:fast": ("at a fast pace",),
        "vessel:black pan": ("in a black non-stick pan",),
        "subaction:read": ("looking at the recipe book",),
    },
    "test": {
        "tool:turner": ("metal turner",),
        "tool:scissors": ("kitchen scissors",),
        "tool:measuring cup": ("plastic measuring cup",),
        "speed:slow": ("unhurriedly",),
        "speed:fast": ("rapidly",),
        "extras:herbs": ("green herbs",),
        "extras:chilli flakes": ("red chilli flakes",),
        "texture:runny": ("thin and runny",),
        "subaction:thermometer": ("measuring the temperature",),
        "subaction:timer": ("winding a timer",),
    },
}


def phrase(pool: Pool, attribute: str, value: str, rng: random.Random) -> str:
    """Return what `pool` calls this value, without an article unless the phrase brings its own."""
    key = f"{attribute}:{value}"
    others = _SYNONYMS[pool].get(key, ())
    if others and rng.random() < SYNONYM_SHARE:
        return rng.choice(others)
    if attribute in ("vessel", "surface"):
        inside = attribute == "vessel" and value.endswith(("bowl", "pan", "pot"))
        return f"{'in' if inside else 'on'} {with_article(value)}"
    return _COMMON.get(key, value)


def with_article(noun: str) -> str:
    """Return a noun with its article: `a whisk`, `an onion`, `tongs`."""
    if noun.endswith(_PLURAL):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`; with a comma before the last if an item contains `and`."""
    if len(items) < 2:
        return "".join(items)
    comma = "," if any(f" {last} " in item for item in items) else ""
    return f"{', '.join(items[:-1])}{comma} {last} {items[-1]}"


def value_phrase(pool: Pool, attribute: str, value: str, step: str, rng: random.Random) -> str:
    """Return a value's phrase in a pool, ready for a template."""
    if attribute in ("order", "subaction"):
        return phrase(pool, "step", step, rng) if value == MAIN else phrase(pool, "subaction", value, rng)
    words = phrase(pool, attribute, value, rng)
    return with_article(words) if attribute == "tool" else words


def mentioned(category: str, a: Attributes, b: Attributes) -> tuple[Difference, ...]:
    """Return the differences that a text about this pair names; the stripe only if no other attribute differs."""
    found = differences(category, a, b)
    plain = [d for d in found if d.attribute not in ("extras", "subaction", "trim")]
    rest = [d for d in found if d.attribute in ("extras", "subaction")]
    if any(d.attribute == "subaction" for d in rest):
        plain = []
    return (*plain[:MENTIONED], *rest, *(d for d in found if d.attribute == "trim" and not plain))


def facts(truth: Attributes) -> list[tuple[str, str]]:
    """Return (attribute, value) of all facts about a clip, in a cook's order."""
    found: list[tuple[str, str]] = []
    for category in CATEGORIES:
        for name in CATEGORY_ATTRIBUTES[category]:
            if name == "extras":
                found += [("has", extra) for extra in truth.extras]
            elif name == "sequence":
                found += [("subaction", sub) for sub in truth.sequence if sub != MAIN]
            elif name == "detail":
                if truth.detail != STEPS[truth.step].detail[0]:
                    found.append(("detail", truth.detail))
            elif getattr(truth, name) is not None:
                found.append((name, getattr(truth, name)))
    return found


def template_of(d: Difference) -> str:
    """Return the name of the templates for a difference."""
    added, skipped = {"extras": ("has", "lacks"), "subaction": ("subaction", "without")}.get(d.attribute, (None, None))
    if added and skipped:
        return added if d.new else skipped
    return "plain" if d.attribute == "detail" and d.new == "plain" else d.attribute


def grouped(found: tuple[Difference, ...]) -> list[list[Difference]]:
    """Group what was added and what was skipped; every other difference is a group of its own."""
    groups: dict[str, list[Difference]] = {}
    for d in found:
        groups.setdefault(template_of(d), []).append(d)
    return list(groups.values())


def values_of(pool: Pool, group: list[Difference], side: str, step: str, rng: random.Random) -> list[str]:
    values = [getattr(d, side) for d in group]
    return [value_phrase(pool, group[0].attribute, v, step, rng) for v in values if v]


def compared(pool: Pool, group: list[Difference], step: str, rng: random.Random) -> dict[str, str]:
    """Return the words of a change: `in a pan` instead of `a pot`, not instead of `in a pot`."""
    new, old = (values_of(pool, group, side, step, rng) for side in ("new", "old"))
    x, y = listed(new), listed(old)
    first, _, rest = y.partition(" ")
    if first in _PREPOSITIONS and x.startswith(f"{first} "):
        y = rest
    return {"x": x, "y": y, "z": listed(old, "or")}
