"""What each attribute value is called. Nouns may be shared by the pools; some synonyms are not.

A phrase is looked up by `attribute:value`, then by value. `Pool` names who speaks.
"""

import random
from typing import Literal

Pool = Literal["narration", "pairqa", "test"]

_PLURAL = (
    "tongs", "chopsticks", "scissors", "shears", "hen eggs", "quail eggs", "bananas", "grapes",
    "potatoes", "rubber gloves", "oven mitts",
)  # fmt: skip

_COMMON: dict[str, str] = {
    "vessel:glass bowl": "in a glass bowl",
    "vessel:metal bowl": "in a metal bowl",
    "vessel:ceramic bowl": "in a ceramic bowl",
    "vessel:steel pan": "in a steel pan",
    "vessel:black pan": "in a black pan",
    "vessel:copper pan": "in a copper pan",
    "vessel:steel pot": "in a steel pot",
    "vessel:enamel pot": "in an enamel pot",
    "vessel:clay pot": "in a clay pot",
    "vessel:wooden board": "on a wooden board",
    "vessel:plastic board": "on a plastic board",
    "vessel:slate board": "on a slate board",
    "vessel:ceramic plate": "on a ceramic plate",
    "vessel:wooden plate": "on a wooden plate",
    "vessel:metal tray": "on a metal tray",
    "surface:wooden table": "on a wooden table",
    "surface:marble counter": "on a marble counter",
    "surface:steel counter": "on a steel counter",
    "surface:gas stove": "on a gas stove",
    "surface:electric stove": "on an electric stove",
    "gloves:bare hands": "bare hands",
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
    "texture:runny": "runny",
    "size:small": "small",
    "size:large": "large",
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
    "motion:moving the grater": "moving the grater",
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
    "detail:glossy dressing": "glossy dressing",
    "detail:toasted crust": "dark toasted crust",
    "detail:rind left on": "bits of rind",
    "tool:turner": "slotted turner",
    "tool:electric mixer": "electric mixer",
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

SYNONYM_SHARE = 0.3
"""How often a synonym stands in for the common word, where there is one."""


def phrase(pool: Pool, attribute: str, value: str, rng: random.Random) -> str:
    """What `pool` calls this value, without an article unless the phrase brings its own."""
    key = f"{attribute}:{value}"
    others = _SYNONYMS[pool].get(key, ())
    if others and rng.random() < SYNONYM_SHARE:
        return rng.choice(others)
    return _COMMON.get(key, value)


def with_article(noun: str) -> str:
    """`a whisk`, `an onion`, `tongs`."""
    if noun.endswith(_PLURAL):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; with a comma before the last where an item holds `and`."""
    if len(items) < 2:
        return "".join(items)
    comma = "," if any(f" {last} " in item for item in items) else ""
    return f"{', '.join(items[:-1])}{comma} {last} {items[-1]}"
