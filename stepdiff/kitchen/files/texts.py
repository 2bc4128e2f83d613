"""Words for attribute values, and what texts of every kind share: facts of a clip, differences of a pair.

Written texts (paired questions, test sets) name a value by the same words in every split; spoken ones have colloquial
words of their own. Every function takes its own seeded generator, so a text depends on nothing but its arguments.
"""

import random
import re
from typing import Literal

from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, Difference, differences
from stepdiff.kitchen.files.phrasings import PLURAL, Split, clauses, conjugated, subject
from stepdiff.kitchen.steps import MAIN, STEPS
from stepdiff.tasks.testsets import CATEGORIES

Style = Literal["spoken", "written"]

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
    "motion:folding": "folding it from below",
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
    "detail:toasted crust": "dark toasted bits",
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
_SYNONYMS: dict[Style, dict[str, tuple[str, ...]]] = {
    "spoken": {
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
    "written": {
        "tool:turner": ("metal turner",),
        "tool:scissors": ("kitchen scissors",),
        "tool:measuring cup": ("plastic measuring cup",),
        "speed:slow": ("unhurriedly", "at a slow pace"),
        "speed:fast": ("rapidly", "at a fast pace"),
        "vessel:black pan": ("in a black non-stick pan",),
        "extras:herbs": ("green herbs",),
        "extras:chilli flakes": ("red chilli flakes",),
        "texture:runny": ("thin and runny",),
        "subaction:thermometer": ("measuring the temperature",),
        "subaction:timer": ("winding a timer",),
        "subaction:read": ("looking at the recipe book",),
    },
}


def phrase(style: Style, attribute: str, value: str, rng: random.Random) -> str:
    """Return what texts of a style call this value, without an article unless the phrase brings its own."""
    key = f"{attribute}:{value}"
    others = _SYNONYMS[style].get(key, ())
    if others and rng.random() < SYNONYM_SHARE:
        return rng.choice(others)
    if attribute in ("vessel", "surface"):
        inside = attribute == "vessel" and value.endswith(("bowl", "pan", "pot"))
        return f"{'in' if inside else 'on'} {with_article(value)}"
    return _COMMON.get(key, value)


def wordings(attribute: str, value: str) -> list[str]:
    """Return all words for a value in texts of either style, without an article or preposition of place."""
    key = f"{attribute}:{value}"
    own = value if attribute in ("vessel", "surface") else _COMMON.get(key, value)
    found = [own, value, *(words for style in _SYNONYMS.values() for words in style.get(key, ()))]
    return list(dict.fromkeys(re.sub(r"^(?:(?:in|on|with|over) )?(?:an? )?", "", words) for words in found))


def with_article(noun: str) -> str:
    """Return a noun with its article: `a whisk`, `an onion`, `tongs`."""
    if noun.endswith(_PLURAL):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`; with a comma before the last if an item contains `and` or a comma."""
    if len(items) < 2:
        return "".join(items)
    comma = "," if any(f" {last} " in item or "," in item for item in items) else ""
    return f"{', '.join(items[:-1])}{comma} {last} {items[-1]}"


def value_phrase(style: Style, attribute: str, value: str, step: str, rng: random.Random) -> str:
    """Return a value's phrase, ready for a template."""
    if attribute in ("order", "subaction"):
        return phrase(style, "step", step, rng) if value == MAIN else phrase(style, "subaction", value, rng)
    words = phrase(style, attribute, value, rng)
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


def compared(group: list[Difference], step: str, rng: random.Random) -> dict[str, str]:
    """Return the words of a change: `in a pan` instead of `a pot`, not instead of `in a pot`."""
    name = group[0].attribute
    new, old = ([value_phrase("written", name, v, step, rng) for v in values if v]
                for values in zip(*((d.new, d.old) for d in group), strict=True))  # fmt: skip
    x, y = listed(new), listed(old)
    first, _, rest = y.partition(" ")
    if first in _PREPOSITIONS and x.startswith(f"{first} "):
        y = rest
    return {"x": x, "y": y, "z": listed(old, "or")}


def change(category: str, a: Attributes, b: Attributes, split: Split, rng: random.Random) -> str:
    """Return what `b` does differently from `a`, in phrasings of a split, without a full stop."""
    return changes(category, a, b, split, 1, rng)[0]


def changes(category: str, a: Attributes, b: Attributes, split: Split, count: int, rng: random.Random) -> list[str]:
    """Return `count` texts about the same differences (at most 3), whose clauses all differ."""
    texts = []
    groups = grouped(mentioned(category, a, b))
    drawn = [rng.sample(clauses(template_of(group[0]), split), count) for group in groups]
    for phrasings in zip(*drawn, strict=True):
        who = subject(category, rng)
        said: list[str] = []
        for phrasing, group in zip(phrasings, groups, strict=True):
            clause = phrasing.format(**compared(group, a.step, rng))
            said.append(conjugated("" if said else who, clause, who in PLURAL))
        texts.append(listed(said))
    return texts
