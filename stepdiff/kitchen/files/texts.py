"""Words for attribute values, clauses about differences, and what texts of every kind share: facts,
differences.

Written texts (paired questions, test sets) name a value by the same words in every split; spoken
ones have colloquial words of their own. A text depends on nothing but its arguments, of which one
is a seeded generator.

A clause says how a candidate differs from its reference: a statement about one clip ("use {v}") in
a frame that compares ("{s} instead of {y}"). Such a phrasing is in one split only, so a test text
has a form that no training text has, but each statement and each frame is in training texts: the
words are known. In statements {v} is the phrase of a value. In frames {s} is the statement of the
candidate's value {x}, {y} the value of the reference; several values are joined by "and", in {z} by
"or". Verbs are in their base form.

Guarantees
- no phrasing of one split is in another, for any attribute
- every attribute has phrasings in every split, and every category has 40 or more in all
- every word of a statement or frame is in a training phrasing
"""

import itertools
import random
import re
from functools import cache
from typing import Literal

from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, Difference, differences
from stepdiff.kitchen.steps import MAIN, STEPS
from stepdiff_core.tasks.testsets import CATEGORIES

Split = Literal["train", "val", "test"]

STATEMENTS: dict[str, tuple[str, ...]] = {
    "main": (
        "use {v}",
        "prepare {v}",
        "work with {v}",
        "go for {v}",
        "cook with {v}",
        "have {v} as the main part",
    ),
    "amount": ("use {v}", "make {v}", "prepare {v}", "handle {v}", "go for {v}"),
    "tool": (
        "use {v}",
        "work with {v}",
        "pick up {v}",
        "hold {v}",
        "go for {v}",
        "have {v} at hand",
    ),
    "vessel": ("keep it {v}", "have it {v}", "leave it {v}", "make it {v}", "keep the food {v}"),
    "surface": ("work {v}", "do it {v}", "be busy {v}", "set up {v}", "stay {v}"),
    "gloves": ("show {v}", "work with {v}", "use {v}", "go with {v}", "touch it with {v}"),
    "trim": (
        "use a dish with {v}",
        "have a dish with {v}",
        "pick a dish that has {v}",
        "show a dish with {v}",
    ),
    "speed": ("work {v}", "move {v}", "do it {v}", "go about it {v}", "proceed {v}"),
    "motion": (
        "do it by {v}",
        "work by {v}",
        "be busy {v}",
        "go about it by {v}",
        "proceed by {v}",
    ),
    "hands": ("work {v}", "do it {v}", "move {v}", "go about it {v}", "handle it {v}"),
    "manner": ("do it by {v}", "be busy {v}", "work by {v}", "go about it by {v}", "insist on {v}"),
    "heat": ("cook it {v}", "heat it {v}", "have it {v}", "keep it {v}", "leave it {v}"),
    "colour": ("be {v}", "look {v}", "come out {v}", "turn out {v}", "be {v} in colour"),
    "shade": (
        "be {v} in tone",
        "have a {v} tone",
        "look {v} in tone",
        "come out in a {v} shade",
        "show a {v} shade",
    ),
    "texture": ("be {v}", "look {v}", "come out {v}", "turn out {v}", "be {v} in consistency"),
    "size": (
        "be cut {v}",
        "be in {v} pieces",
        "come in {v} pieces",
        "have {v} pieces",
        "show {v} portions",
    ),
    "has": ("add {v}", "put in {v}", "throw in {v}", "include {v}", "use {v}"),
    "subaction": (
        "take time for {v}",
        "spend a moment {v}",
        "find time for {v}",
        "be busy {v}",
        "make time for {v}",
    ),
    "detail": ("show {v}", "come with {v}", "have {v} on it", "end up with {v}", "reveal {v}"),
    "order": ("go for", "start with", "put", "choose", "get to"),
    "step": ("be busy {v}",),
}
"""What is true of one clip."""

OMISSIONS: dict[str, tuple[str, ...]] = {
    "lacks": ("skip {y}", "leave out {y}", "omit {y}", "go without {z}", "do without {z}"),
    "without": ("skip {y}", "leave out {y}", "omit {y}", "drop {y}", "do without {z}"),
    "plain": (
        "lack {y}",
        "come without {z}",
        "end up without {z}",
        "be free of {z}",
        "show no {z}",
    ),
}
"""What is missing in the candidate."""
_PRESENT = {"lacks": "has", "without": "subaction", "plain": "detail"}

_REPLACED = ("{s} instead of {y}", "{s} rather than {y}", "{s} and not {y}", "{s}, not {y}")
_NOUNS = ("{s} in place of {y}",)
_ADDED = ("{s}", "also {s}", "{s} too", "{s} as well", "{s} besides")
_MISSING = ("{s}", "simply {s}", "{s} altogether", "{s} entirely")
_DENIED = ("not {s}", "not {s} at all", "never {s}")
_RELATIONS = (
    "{s} {x} before {y}",
    "{s} {x} ahead of {y}",
    "{s} {x} prior to {y}",
    "{s} {x} first and {y} after that",
)
_SWAPS: dict[str, Split] = {
    "replace {y} with {x}": "train",
    "swap {y} for {x}": "train",
    "choose {x} over {y}": "train",
    "prefer {x} to {y}": "train",
    "opt for {x} rather than {y}": "train",
    "switch from {y} to {x}": "train",
    "pick {x} over {y}": "val",
    "swap {y} with {x}": "val",
    "replace {y} by {x}": "test",
    "opt for {x} instead of {y}": "test",
}
"""Whole phrasings for values that are things or activities."""
_SWAPPED = ("main", "tool", "gloves", "amount", "motion", "manner")
_CYCLE: tuple[Split, ...] = ("train", "train", "test", "train", "val")
_SUBJECTS = ("the person", "the cook", "this cook", "they", "someone")
_FOOD = ("the food", "it", "the result", "the dish", "the whole thing")
PLURAL = ("they",)

Style = Literal["spoken", "written"]

MENTIONED = 3
"""Plain attributes whose differences one text names, at most; added and skipped things are all
named."""
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


@cache
def clauses(template: str, split: Split) -> tuple[str, ...]:
    """Return the phrasings of a kind of difference (`template_of`) in a split."""
    return tuple(clause for clause, words_of in bank()[template].items() if words_of == split)


@cache
def bank() -> dict[str, dict[str, Split]]:
    """Return each kind of difference with its phrasings and their splits.

    The split of a phrasing follows from the places of its statement and of its frame, counted over
    all attributes, so an attribute that shares a statement with another shares its splits.
    """
    places = {
        statement: i
        for i, statement in enumerate(dict.fromkeys(itertools.chain(*STATEMENTS.values())))
    }
    by_kind: dict[str, dict[str, Split]] = {}
    for name, statements in STATEMENTS.items():
        frames: tuple[str, ...] = (
            _RELATIONS if name == "order" else _ADDED if name in _PRESENT.values() else _REPLACED
        )
        if name in ("main", "tool", "gloves"):
            frames += _NOUNS
        # The first frame of what is added is the bare statement, which training texts use
        # everywhere.
        bare = frames is _ADDED
        cells = itertools.product(statements, enumerate(frames))
        by_kind[name] = {
            _fill(frame, statement, name): "train"
            if bare and not j
            else _CYCLE[(places[statement] + 2 * j) % 5]
            for statement, (j, frame) in cells
        }
        if name in _SWAPPED:
            by_kind[name] |= _SWAPS
    for name, statements in OMISSIONS.items():
        places_of = itertools.product(enumerate(statements), enumerate(_MISSING))
        by_kind[name] = {
            f.format(s=s): _CYCLE[(i + 2 * j) % 5] if j else "train" for (i, s), (j, f) in places_of
        }
        places_of = itertools.product(enumerate(STATEMENTS[_PRESENT[name]]), enumerate(_DENIED))
        by_kind[name] |= {
            f.format(s=s.format(v="{z}")): _CYCLE[(i + 2 * j) % 5] for (i, s), (j, f) in places_of
        }
    return by_kind


def _fill(frame: str, statement: str, name: str) -> str:
    sentence = statement if name == "order" else statement.format(v="{x}")
    # After "has a light tone rather than" comes "a dark one", after "large pieces" come "small
    # ones".
    old = "a {y} one" if "a {v} " in statement else "{y} ones" if "{v} p" in statement else "{y}"
    return frame.format(s=sentence, x="{x}", y=old, z="{z}")


def subject(category: str, rng: random.Random) -> str:
    """Return the subject of a text about a category."""
    return rng.choice(_FOOD if category == "Visuals" else _SUBJECTS)


def conjugated(subject: str, clause: str, plural: bool = False) -> str:
    """Return a clause with its verb in the form of the subject; an empty subject is left out."""
    lead, *words = clause.split(" ")
    if lead not in ("also", "simply", "never"):
        lead, words = "", [lead, *words]
    verb, *rest = words
    if verb == "not":
        verb, rest = ("be not", rest[1:]) if rest[0] == "be" else ("do not", rest)
    first, _, negation = verb.partition(" ")
    forms = {"be": ("is", "are"), "have": ("has", "have"), "do": ("does", "do")}
    form = forms[first][plural] if first in forms else first if plural else third_person(first)
    before = [form, lead] if first == "be" else [lead, form]  # "is also busy", "also adds"
    return " ".join(word for word in (subject, *before, negation, *rest) if word)


def third_person(verb: str) -> str:
    """Return a verb after a singular noun: uses, touches, goes."""
    return f"{verb}{'es' if verb.endswith(('s', 'x', 'ch', 'sh', 'o')) else 's'}"


def phrase(style: Style, attribute: str, value: str, rng: random.Random) -> str:
    """Return what texts of a style call this value, without an article unless the phrase brings its
    own."""
    key = f"{attribute}:{value}"
    others = _SYNONYMS[style].get(key, ())
    if others and rng.random() < SYNONYM_SHARE:
        return rng.choice(others)
    if attribute in ("vessel", "surface"):
        inside = attribute == "vessel" and value.endswith(("bowl", "pan", "pot"))
        return f"{'in' if inside else 'on'} {with_article(value)}"
    return _COMMON.get(key, value)


def wordings(attribute: str, value: str) -> list[str]:
    """Return all words for a value in texts of either style, without an article or preposition of
    place."""
    key = f"{attribute}:{value}"
    words_of = value if attribute in ("vessel", "surface") else _COMMON.get(key, value)
    alternatives = [
        words_of,
        value,
        *(words for style in _SYNONYMS.values() for words in style.get(key, ())),
    ]
    return list(
        dict.fromkeys(
            re.sub(r"^(?:(?:in|on|with|over) )?(?:an? )?", "", words) for words in alternatives
        )
    )


def with_article(noun: str) -> str:
    """Return a noun with its article: `a whisk`, `an onion`, `tongs`."""
    if noun.endswith(_PLURAL):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`; with a comma before the last if an item contains `and`
    or a comma."""
    if len(items) < 2:
        return "".join(items)
    comma = "," if any(f" {last} " in item or "," in item for item in items) else ""
    return f"{', '.join(items[:-1])}{comma} {last} {items[-1]}"


def value_phrase(style: Style, attribute: str, value: str, step: str, rng: random.Random) -> str:
    """Return the phrase of a value of an attribute or of a fact (`facts`), ready for a template."""
    if attribute in ("order", "subaction"):
        return (
            phrase(style, "step", step, rng)
            if value == MAIN
            else phrase(style, "subaction", value, rng)
        )
    words = phrase(style, "extras" if attribute == "has" else attribute, value, rng)
    return with_article(words) if attribute == "tool" else words


def mentioned(category: str, a: Attributes, b: Attributes) -> tuple[Difference, ...]:
    """Return the differences that a text about this pair names; the stripe only if no other
    attribute differs."""
    changes = differences(category, a, b)
    plain = [d for d in changes if d.attribute not in ("extras", "subaction", "trim")]
    rest = [d for d in changes if d.attribute in ("extras", "subaction")]
    if any(d.attribute == "subaction" for d in rest):
        plain = []
    return (*plain[:MENTIONED], *rest, *(d for d in changes if d.attribute == "trim" and not plain))


def facts(truth: Attributes) -> list[tuple[str, str]]:
    """Return (attribute, value) of all facts about a clip, in a cook's order."""
    pairs: list[tuple[str, str]] = []
    for category in CATEGORIES:
        for name in CATEGORY_ATTRIBUTES[category]:
            if name == "extras":
                pairs += [("has", extra) for extra in truth.extras]
            elif name == "sequence":
                pairs += [("subaction", sub) for sub in truth.sequence if sub != MAIN]
            elif name == "detail":
                if truth.detail != STEPS[truth.step].detail[0]:
                    pairs.append(("detail", truth.detail))
            elif getattr(truth, name) is not None:
                pairs.append((name, getattr(truth, name)))
    return pairs


def template_of(d: Difference) -> str:
    """Return the name of the templates for a difference."""
    added, skipped = {"extras": ("has", "lacks"), "subaction": ("subaction", "without")}.get(
        d.attribute, (None, None)
    )
    if added and skipped:
        return added if d.new else skipped
    return "plain" if d.attribute == "detail" and d.new == "plain" else d.attribute


def grouped(named: tuple[Difference, ...]) -> list[list[Difference]]:
    """Group what was added and what was skipped; every other difference is a group of its own."""
    groups: dict[str, list[Difference]] = {}
    for d in named:
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


def changes(
    category: str, a: Attributes, b: Attributes, split: Split, count: int, rng: random.Random
) -> list[str]:
    """Return `count` texts (at most 3) of what `b` does differently from `a`; their clauses all
    differ."""
    texts = []
    groups = grouped(mentioned(category, a, b))
    drawn = [rng.sample(clauses(template_of(group[0]), split), count) for group in groups]
    for phrasings in zip(*drawn, strict=True):
        who = subject(category, rng)
        sentence: list[str] = []
        for phrasing, group in zip(phrasings, groups, strict=True):
            clause = phrasing.format(**compared(group, a.step, rng))
            sentence.append(conjugated("" if sentence else who, clause, who in PLURAL))
        texts.append(listed(sentence))
    return texts
