"""The truth score: details that captions name, checked against the exact attributes of both clips.

A detail is a value of an attribute that one of two clips has and the other lacks. A caption names the details whose
words it says, each for one of its clips: "uses a whisk instead of a fork" says that the candidate has the whisk and the
reference the fork; "skips the nuts" says that the reference has nuts.

| a named detail is | if |
| --- | --- |
| true | only the clip that it is named for has it |
| swapped | only the other clip has it |
| shared | both clips have it |
| invented | no clip has it |

Precision is the share of true details among the named ones, recall the share of named ones among the pair's details.

Guarantees
- every text of the world's own test sets has precision 1, and recall 1 for the details that it is made of
- a text with the roles of the clips exchanged has no true detail
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Literal

from kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, differences
from kitchen.files.texts import wordings
from kitchen.steps import MAIN, STEPS
from tasks.postprocess import parse

Side = Literal["candidate", "reference"]
Detail = tuple[str, str, Side]
"""attribute, value, and the clip that has it; of an order of two actions, the value is the one that comes first"""
Judgement = Literal["true", "swapped", "shared", "invented"]

_MARKERS = {
    "reference": (
        r"instead of|rather than|in place of|as opposed to|unlike|and not|but not|not|no|never|without|free of"
        r"|over(?! \w+ heat)|skip\w*|omit\w*|drop\w*|lack\w*|miss\w*|lea\w+ (?=[^.,;]*\bout\b)"
    ),
    "exchanged": r"replac\w+|swap\w*|trad\w+|exchang\w+|switch\w* from|chang\w+ from",
    "preferred": r"prefer\w*",
    "turn": r"with|by|for|to|into",
    "first": r"before|ahead of|prior to|first",
    "boundary": r"and|but|then|also",
}
"""Words that say which clip the values after them belong to; `turn` counts only after "replace" and "prefer"."""
_LISTED = re.compile(r"(?:\s|,|\band\b|\bor\b|\bthe\b|\ba\b|\ban\b|\bsome\b)*")


@dataclass(frozen=True)
class Truth:
    """The judgements of some captions: how many details were named, by judgement, and how many there were to name."""

    named: Counter[Judgement]
    details: int
    found: int
    """different true details that were named"""

    def __add__(self, other: "Truth") -> "Truth":
        return Truth(self.named + other.named, self.details + other.details, self.found + other.found)

    @property
    def precision(self) -> float | None:
        """The share of true details among the named ones; None if none is named."""
        total = self.named.total()
        return self.named["true"] / total if total else None

    @property
    def recall(self) -> float | None:
        """The share of the details of the pairs that are named; None if they have none."""
        return self.found / self.details if self.details else None


def judge(caption: str, category: str, reference: Attributes, candidate: Attributes) -> Truth:
    """Return how true a caption about a pair of one step is in a category."""
    details = details_of(category, reference, candidate)
    named = Counter[Judgement]()
    said = named_details(caption, category, candidate.step)
    for attribute, value, side in said:
        own, other = (candidate, reference) if side == "candidate" else (reference, candidate)
        named[_judgement(_has(own, attribute, value), _has(other, attribute, value))] += 1
    return Truth(named, len(details), len(details & said))


def _judgement(own: bool, other: bool) -> Judgement:
    if own:
        return "shared" if other else "true"
    return "swapped" if other else "invented"


def details_of(category: str, reference: Attributes, candidate: Attributes) -> set[Detail]:
    """Return all details of a pair in a category. An order of actions is a detail of the candidate."""
    found: set[Detail] = set()
    for d in differences(category, reference, candidate):
        if d.attribute == "order":
            found.add((d.attribute, f"{d.new}<{d.old}", "candidate"))
            continue
        if d.old not in ("", "plain"):
            found.add((d.attribute, d.old, "reference"))
        if d.new not in ("", "plain"):
            found.add((d.attribute, d.new, "candidate"))
    return found


def _has(clip: Attributes, attribute: str, value: str) -> bool:
    if attribute == "extras":
        return value in clip.extras
    if attribute == "subaction":
        return value in clip.sequence
    if attribute == "order":
        first, second = (clip.sequence.index(v) if v in clip.sequence else -1 for v in value.split("<"))
        return 0 <= first < second
    return bool(getattr(clip, attribute) == value)


def named_details(caption: str, category: str, step: str) -> set[Detail]:
    """Return the details that a caption names in a category.

    A value belongs to the candidate, unless a word before it in its clause gives it to the reference. What the
    candidate lacks, the reference has.
    """
    pattern, values = _pattern(category, step)
    text = parse(caption).lower()
    found: set[Detail] = set()
    side: Side = "candidate"
    kept: Side = "candidate"
    mode, last, end = "", "", 0
    actions: list[str] = []
    ordered = False
    for match in pattern.finditer(text):
        kind = str(match.lastgroup)
        if kind == "value":
            attribute, value = values[match[0]]
            if _LISTED.fullmatch(text[end : match.start()]) and attribute == last and last in ("extras", "subaction"):
                side = kept
            if attribute == "subaction":
                actions.append(value)
            if (attribute, value) != ("subaction", MAIN):
                found.add((attribute, value, side))
            last, end, kept = attribute, match.end(), side
        elif kind == "reference":
            side = "reference"
        elif kind == "exchanged":
            mode, side = kind, "reference"
        elif kind == "preferred":
            mode, side = kind, "candidate"
        elif kind == "turn" and mode:
            mode, side = "", "candidate" if mode == "exchanged" else "reference"
        elif kind == "first":
            ordered = True
        elif kind in ("boundary", "stop") and not mode:
            side = "candidate"
    if ordered and len(actions) == 2:
        return {("order", f"{actions[0]}<{actions[1]}", "candidate")}
    return found


@cache
def _pattern(category: str, step: str) -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Return the pattern of the words of all values of a step and of markers, and the value of each of these words."""
    values: dict[str, tuple[str, str]] = {}
    for name in CATEGORY_ATTRIBUTES[category]:
        own = "subaction" if name == "sequence" else name
        choices = STEPS[step].subactions if own == "subaction" else STEPS[step].options(name)
        for value in choices:
            values |= dict.fromkeys(wordings(own, value), (own, value)) if value != "plain" else {}
        if own == "subaction":
            values |= dict.fromkeys(wordings("step", step), (own, MAIN))
    words = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    markers = "|".join(f"(?P<{name}>{form})" for name, form in _MARKERS.items())
    return re.compile(rf"\b(?:(?P<value>{words})|{markers})\b|(?P<stop>[.,;:])"), values
