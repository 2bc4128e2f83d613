"""The bank of phrasings: clauses that say how a candidate differs from its reference, split into train, val and test.

A clause is a statement about one clip ("use {v}") in a frame that compares ("{s} instead of {y}"). Statements and
frames are words of people; a phrasing is a statement in a frame. A phrasing is in one split only, so a test text has a
form that no training text has, but each statement and each frame is in training texts: the words are known.

In statements {v} is the phrase of a value. In frames {s} is the statement of the candidate's value {x}, {y} the value
of the reference; several values are joined by "and", in {z} by "or". Verbs are in their base form.

Guarantees
- no phrasing of one split is in another, for any attribute
- every attribute has phrasings in every split, and every category has 40 or more in all
- every word of a statement or frame is in a training phrasing
"""

import itertools
import random
from functools import cache
from typing import Literal

from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES

Split = Literal["train", "val", "test"]

STATEMENTS: dict[str, tuple[str, ...]] = {
    "main": ("use {v}", "prepare {v}", "work with {v}", "go for {v}", "cook with {v}", "have {v} as the main part"),
    "amount": ("use {v}", "make {v}", "prepare {v}", "handle {v}", "go for {v}"),
    "tool": ("use {v}", "work with {v}", "pick up {v}", "hold {v}", "go for {v}", "have {v} at hand"),
    "vessel": ("keep it {v}", "have it {v}", "leave it {v}", "make it {v}", "keep the food {v}"),
    "surface": ("work {v}", "do it {v}", "be busy {v}", "set up {v}", "stay {v}"),
    "gloves": ("show {v}", "work with {v}", "use {v}", "go with {v}", "touch it with {v}"),
    "trim": ("use a dish with {v}", "have a dish with {v}", "pick a dish that has {v}", "show a dish with {v}"),
    "speed": ("work {v}", "move {v}", "do it {v}", "go about it {v}", "proceed {v}"),
    "motion": ("do it by {v}", "work by {v}", "be busy {v}", "go about it by {v}", "proceed by {v}"),
    "hands": ("work {v}", "do it {v}", "move {v}", "go about it {v}", "handle it {v}"),
    "manner": ("do it by {v}", "be busy {v}", "work by {v}", "go about it by {v}", "insist on {v}"),
    "heat": ("cook it {v}", "heat it {v}", "have it {v}", "keep it {v}", "leave it {v}"),
    "colour": ("be {v}", "look {v}", "come out {v}", "turn out {v}", "be {v} in colour"),
    "shade": ("be {v} in tone", "have a {v} tone", "look {v} in tone", "come out in a {v} shade", "show a {v} shade"),
    "texture": ("be {v}", "look {v}", "come out {v}", "turn out {v}", "be {v} in consistency"),
    "size": ("be cut {v}", "be in {v} pieces", "come in {v} pieces", "have {v} pieces", "show {v} portions"),
    "has": ("add {v}", "put in {v}", "throw in {v}", "include {v}", "use {v}"),
    "subaction": ("take time for {v}", "spend a moment {v}", "find time for {v}", "be busy {v}", "make time for {v}"),
    "detail": ("show {v}", "come with {v}", "have {v} on it", "end up with {v}", "reveal {v}"),
    "order": ("go for", "start with", "put", "choose", "get to"),
    "step": ("be busy {v}",),
}
"""What is true of one clip."""

OMISSIONS: dict[str, tuple[str, ...]] = {
    "lacks": ("skip {y}", "leave out {y}", "omit {y}", "go without {z}", "do without {z}"),
    "without": ("skip {y}", "leave out {y}", "omit {y}", "drop {y}", "do without {z}"),
    "plain": ("lack {y}", "come without {z}", "end up without {z}", "be free of {z}", "show no {z}"),
}
"""What is missing in the candidate."""
_PRESENT = {"lacks": "has", "without": "subaction", "plain": "detail"}

_REPLACED = ("{s} instead of {y}", "{s} rather than {y}", "{s} and not {y}", "{s}, not {y}")
_NOUNS = ("{s} in place of {y}",)
_ADDED = ("{s}", "also {s}", "{s} too", "{s} as well", "{s} besides")
_MISSING = ("{s}", "simply {s}", "{s} altogether", "{s} entirely")
_DENIED = ("not {s}", "not {s} at all", "never {s}")
_RELATIONS = ("{s} {x} before {y}", "{s} {x} ahead of {y}", "{s} {x} prior to {y}", "{s} {x} first and {y} after that")
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


@cache
def clauses(template: str, split: Split) -> tuple[str, ...]:
    """Return the phrasings of a kind of difference (stepdiff.kitchen.files.texts.template_of) in a split."""
    return tuple(clause for clause, own in bank()[template].items() if own == split)


@cache
def bank() -> dict[str, dict[str, Split]]:
    """Return each kind of difference with its phrasings and their splits.

    The split of a phrasing follows from the places of its statement and of its frame, counted over all attributes, so
    an attribute that shares a statement with another shares its splits.
    """
    places = {statement: i for i, statement in enumerate(dict.fromkeys(itertools.chain(*STATEMENTS.values())))}
    found: dict[str, dict[str, Split]] = {}
    for name, statements in STATEMENTS.items():
        frames: tuple[str, ...] = _RELATIONS if name == "order" else _ADDED if name in _PRESENT.values() else _REPLACED
        if name in ("main", "tool", "gloves"):
            frames += _NOUNS
        # The first frame of what is added is the bare statement, which training texts use everywhere.
        bare = frames is _ADDED
        cells = itertools.product(statements, enumerate(frames))
        found[name] = {
            _fill(frame, statement, name): "train" if bare and not j else _CYCLE[(places[statement] + 2 * j) % 5]
            for statement, (j, frame) in cells
        }
        if name in _SWAPPED:
            found[name] |= _SWAPS
    for name, statements in OMISSIONS.items():
        places_of = itertools.product(enumerate(statements), enumerate(_MISSING))
        found[name] = {f.format(s=s): _CYCLE[(i + 2 * j) % 5] if j else "train" for (i, s), (j, f) in places_of}
        places_of = itertools.product(enumerate(STATEMENTS[_PRESENT[name]]), enumerate(_DENIED))
        found[name] |= {f.format(s=s.format(v="{z}")): _CYCLE[(i + 2 * j) % 5] for (i, s), (j, f) in places_of}
    return found


def _fill(frame: str, statement: str, name: str) -> str:
    said = statement if name == "order" else statement.format(v="{x}")
    # After "has a light tone rather than" comes "a dark one", after "large pieces" come "small ones".
    old = "a {y} one" if "a {v} " in statement else "{y} ones" if "{v} p" in statement else "{y}"
    return frame.format(s=said, x="{x}", y=old, z="{z}")


def category_of(template: str) -> str:
    """Return the category of a kind of difference."""
    name = {"has": "extras", "subaction": "sequence", "order": "sequence", **_OMITTED}.get(template, template)
    return next(category for category, names in CATEGORY_ATTRIBUTES.items() if name in names)


_OMITTED = {"lacks": "extras", "without": "sequence", "plain": "detail"}


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
