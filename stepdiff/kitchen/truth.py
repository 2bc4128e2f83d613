"""The truth score: details that captions name, checked against the exact attributes of both clips.

A detail is a value of an attribute of the row's category, named for one of the two clips. The words
of a value are those of the world's texts, their inflections, and words that leave one value only
("mixer", but not "bowl").

| a named detail is | if |
| --- | --- |
| true | only the clip that it is named for has it |
| swapped | only the other clip has it |
| shared | both clips have it |
| invented | no clip has it |

Precision is the share of true details among the named ones, recall the share of named ones among
the pair's details.

Which clip a value is named for:

1. The last video named before it in its sentence, or in "a whisk in Video 1 and a fork in Video 2"
   the next one.
2. Without such a name, the sentence continues about the video before it; a caption starts with the
   candidate, as the supplement's seed "In Video 2," does. After "while" or "whereas" without a name
   it is the other video.
3. A contrast ("instead of", "rather than", "replaces", "swapped for") gives one side to the other
   video, and so does an absence ("skips", "without", "is left out"): what one video lacks, the
   other has.

An order of two actions counts for clips that have both; otherwise it names the actions. A detail
that is named twice for a clip counts once, what is said of both videos not at all, and a caption
that declines names nothing.

Guarantees
- every text of the world's own test sets has precision 1, and recall 1 for the details that it is
  made of
- a text with the roles of the clips exchanged has no true detail
- captions without an order, a name or a verb are read like others, and no caption is refused
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from stepdiff.kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, differences
from stepdiff.kitchen.files.texts import wordings
from stepdiff.kitchen.steps import MAIN, STEPS
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.tasks.bootstrap import Figure, ratio_figure
from stepdiff_core.tasks.declining import declines
from stepdiff_core.tasks.scoring import TruthFigures
from stepdiff_core.tasks.testsets import DiffCap, Pair

Side = Literal["reference", "candidate"]
Detail = tuple[str, str, Side]
"""attribute, value, and the clip that has it; of an order of two actions, the value is
"first<second" """
Judgement = Literal["true", "swapped", "shared", "invented"]
JUDGEMENTS: tuple[Judgement, ...] = ("true", "swapped", "shared", "invented")
Flip = Literal["", "contrast", "absent"]
_OTHER: dict[Side, Side] = {"candidate": "reference", "reference": "candidate"}

_FREE = {  # attribute:value -> words of people that no text of the world has, as patterns
    "gloves:bare hands": r"bare[- ]?hand(?:ed|s)?",
    "main:hen eggs": r"chicken eggs",
    "amount:small": r"less|(?:a )?little(?: bit)?",
    "amount:large": r"more|(?:a )?lots?|big(?:ger)?",
    "size:large": r"big(?:ger)?",
    "speed:slow": r"slow(?:er|ly)?|gently|tak\w+ (?:her|his|their) time",
    "speed:fast": r"fast(?:er)?|quick(?:er|ly)?",
    "hands:one hand": r"(?:one|single)[- ]hand(?:ed(?:ly)?)?",
    "hands:both hands": r"two[- ]hand(?:s|ed)?|both of (?:\w+ )?hands",
    "motion:back and forth": r"back[ -]forth",
    "manner:tilted": r"(?:at|on) an angle",
    "manner:slanted": r"at an angle",
    "shade:light": r"paler?",
    "texture:frothy": r"foamy",
}
_NOUNS = ("main", "extras", "tool", "vessel", "surface", "gloves", "colour", "texture", "detail")
"""Attributes whose values are words for nothing else, so that those of other steps are seen, too:
invented ones."""
_COMMON_WORDS = frozenset(
    "a an and at back big blade both bits checking chef's cutting dark down fresh from green hand "
    "hands having holding in it just keeping kitchen left long looking lot low made making "
    "measuring moving of off on one orange out over pace pan pouring put real red setting super "
    "the things to turning under up whole with".split()
)
"""Words that do not name a value alone."""
_FORMS = {
    "keeping": "keep(?:s|ing)?|kept",
    "holding": "h[oe]ld(?:s|ing)?",
    "making": "ma(?:kes?|king|de)",
    "wooden": "wood(?:en)?",
    "knife": "kni(?:fe|ves)",
    "slices": "slices(?! the)",
    "it": "(?:it|them|the \\w+)",
}
"""Patterns of words with forms of their own."""

_LISTED = re.compile(r"(?:\s|,|\band\b|\bor\b|\bnor\b|\bthe\b|\ba\b|\ban\b|\bsome\b)*")
_WHO = "video|clip|one|cook|person|chef"
_NAME = (
    r"(?:(?:in|of|from|for|with) )?(?:(?:the |this )?(?:(?:video|clip) "
    r"?#?(?:(?P<r1>1|one)|(?P<c1>2|two))"
    r"|(?:(?P<r2>first|reference)|(?P<c2>second|candidate)|(?P<o1>other)) "
    rf"(?:{_WHO})|(?P<c3>(?<=this )one))|the (?:(?P<r4>first|reference)|(?P<c4>second|candidate))"
    r"|(?P<r5>previously|originally|before(?=[,.;]|$)))"
)
_MARKERS = {
    "both": (
        r"(?:in )?both(?: of)?(?: the)? (?:videos|clips)|both(?= (?:use|show|have|are))|the same"
    ),
    "against": (
        r"unlike|differ(?:s|ent) from|compared (?:to|with)|in contrast to|in comparison "
        r"(?:to|with)|than"
    ),
    "contrast": (
        r"instead of|rather than|in place of|as opposed to|(?:and|but) not|(?<=, )not|not "
        r"in|over(?! \w+ heat)"
    ),
    "instead": r"instead",
    "gone": (
        r"(?:is|are|was|were|gets?|got|goes|go)(?:n't| "
        r"(?:not|never|missing|gone|absent|omitted|skipped|left out))"
    ),
    "absent": (
        r"not|less|no(?: one)?|nothing|nobody|never|without|free of|neither|nor|\w+n't"
        r"|skip\w*|omit\w*|drop(?:s|ped|ping)?|lack\w*|miss(?:es|ing)?"
        r"|lea\w+(?= [^.,;]*\bout\b)"
    ),
    "passive": r"(?:is|are|was|were|gets?|got|been) (?:replaced|swapped|exchanged|traded)",
    "exchanged": r"replac\w+|swap\w*|trad(?:es?|ed|ing)|exchang\w+|(?:switch|chang)\w* from",
    "preferred": r"prefer\w*",
    "turn": r"with|by|for|to|into",
    "before": r"before|ahead of|prior to",
    "after": r"after(?!wards| that)",
    "first": r"first",
    "while": r"while(?! \w+ing)|whilst|whereas|although|where(?= the other)|vs|versus",
    "but": r"but|then|also",
    "and": r"and|or",
}


@dataclass
class _Named:
    """A value in a caption; flip: whether a contrast or an absence before it gives it to the other
    video."""

    attribute: str
    value: str
    at: int
    flip: Flip = ""
    side: Side | None = None


def judgements(
    caption: str, category: str, reference: Attributes, candidate: Attributes
) -> dict[Detail, Judgement]:
    """Return the details that a caption about a pair of one step names in a category, and whether
    they are true."""
    judged: dict[Detail, Judgement] = {}
    for attribute, value, side in named_details(caption, category, reference, candidate):
        own, other = (candidate, reference) if side == "candidate" else (reference, candidate)
        has, other_has = _has(own, attribute, value), _has(other, attribute, value)
        kind: Judgement = (
            ("shared" if other_has else "true") if has else ("swapped" if other_has else "invented")
        )
        judged[attribute, value, side] = kind
    return judged


def details_of(category: str, reference: Attributes, candidate: Attributes) -> set[Detail]:
    """Return all details of a pair in a category. An order of actions is a detail of the
    candidate."""
    named: set[Detail] = set()
    for d in differences(category, reference, candidate):
        if d.attribute == "order":
            named.add((d.attribute, f"{d.new}<{d.old}", "candidate"))
            continue
        if d.old not in ("", "plain"):
            named.add((d.attribute, d.old, "reference"))
        if d.new not in ("", "plain"):
            named.add((d.attribute, d.new, "candidate"))
    return named


def read_world(file: str | Path) -> dict[str, Attributes]:
    """Return the attributes of each clip of a world, from its attributes.jsonl. StepDiffError: it
    cannot be read."""
    try:
        return {str(row["clip"]): Attributes.from_dict(row) for _, row in read_objects(file)}
    except (KeyError, TypeError) as error:
        raise StepDiffError(
            f"{file}: not the attributes.jsonl of a world of stepdiff kitchen ({error})"
        ) from error


def as_true_by(file: str | Path) -> Callable[[str, str, Pair, Pair], bool]:
    """Return a function that tells the pairs that are no wrong options of a DiffMCQ question.

    It takes a text, its category, its own pair and another pair, and returns whether the text is as
    true of the other pair: every detail that it states is true of it, and it leaves out no more of
    its details than of its own pair's.

    Args:
        file: attributes.jsonl of the world that the clips are of.

    Raises:
        StepDiffError: The file cannot be read. The function: a pair is not of that world.
    """
    world = read_world(file)

    @cache
    def details(category: str, pair: Pair) -> set[Detail]:
        reference, candidate = _attributes(world, file, pair)
        return (
            details_of(category, reference, candidate)
            if reference.step == candidate.step
            else set()
        )

    @cache
    def stated(text: str, category: str, pair: Pair) -> set[Detail]:
        return named_details(text, *_of_one_step(world, file, category, pair))

    def as_true(text: str, category: str, own: Pair, other: Pair) -> bool:
        stated_details, theirs = stated(text, category, own), details(category, other)
        # of a pair without both actions an order names them
        has_order = any(attribute == "order" for attribute, *_ in stated_details)
        if not theirs or not (has_order or stated_details <= theirs):
            return False
        read = stated(text, category, other)
        # of another step a word may mean nothing
        is_true = bool(stated_details) and len(read) >= len(stated_details) and read <= theirs
        return is_true and len(theirs - read) <= len(details(category, own) - stated_details)

    return as_true


def _attributes(
    world: Mapping[str, Attributes], file: str | Path, pair: Pair
) -> tuple[Attributes, Attributes]:
    for clip in pair:
        if clip not in world:
            raise StepDiffError(
                f"{clip}: not in {file}; name the attributes.jsonl of the test set's world"
            )
    return world[pair[0]], world[pair[1]]


def _of_one_step(
    world: Mapping[str, Attributes], file: str | Path, category: str, pair: Pair
) -> tuple[str, Attributes, Attributes]:
    """Return the category and the attributes of both clips. StepDiffError: not a row of the
    world."""
    reference, candidate = _attributes(world, file, pair)
    if category not in CATEGORY_ATTRIBUTES or reference.step != candidate.step:
        raise StepDiffError(
            f"{' and '.join(pair)}, {category}: not a row of the sample world, whose pairs show "
            "one step; leave out --truth"
        )
    return category, reference, candidate


def truth_figures(file: str | Path) -> TruthFigures:
    """Return a function from rows and captions to the figures of the truth score, over rows with a
    text.

    Its figures are truth_precision, truth_swapped, truth_shared and truth_invented, shares of the
    named details, and truth_recall.

    Args:
        file: attributes.jsonl of the world that the rows are of.

    Raises:
        StepDiffError: The file cannot be read. The function: a row is not of that world.
    """
    world = read_world(file)

    def figures(rows: Sequence[DiffCap], captions: Sequence[str]) -> dict[str, Figure]:
        counts = np.zeros((len(rows), 2 + len(JUDGEMENTS)))
        for at, (row, caption) in enumerate(zip(rows, captions, strict=True)):
            if not row.text:
                continue
            pair = _of_one_step(world, file, row.category, (row.reference, row.candidate))
            details, judged = details_of(*pair), judgements(caption, *pair)
            kinds = Counter(judged.values())
            counts[at] = [
                len(details & judged.keys()),
                len(details),
                *(kinds[kind] for kind in JUDGEMENTS),
            ]
        named = counts[:, 2:].sum(1)
        shares: dict[str, tuple[np.ndarray, np.ndarray]] = {
            "precision": (counts[:, 2], named),
            "recall": (counts[:, 0], counts[:, 1]),
        }
        shares |= {kind: (counts[:, 2 + at], named) for at, kind in enumerate(JUDGEMENTS) if at}
        return {f"truth_{name}": ratio_figure(*parts) for name, parts in shares.items()}

    return figures


def _has(clip: Attributes, attribute: str, value: str) -> bool:
    if attribute == "extras":
        return value in clip.extras
    if attribute == "subaction":
        return value in clip.sequence
    if attribute == "order":
        first, second = (clip.sequence.index(action) for action in value.split("<"))
        return first < second
    return bool(getattr(clip, attribute) == value)


def named_details(
    caption: str, category: str, reference: Attributes, candidate: Attributes
) -> set[Detail]:
    """Return the details that a caption about a pair of one step names in a category."""
    text = " ".join(caption.lower().replace("\u2019", "'").split())
    if declines(caption):
        return set()
    common = set(reference.sequence) & set(candidate.sequence)
    result: set[Detail] = set()
    about: Side = "candidate"
    for at, part in enumerate(_parts(text, category, candidate.step)):
        values, about = _sided(part, about, not at)
        values = [named for named in values if not _of_both(part, named)]
        ordered = _order(part, values)
        if ordered is not None and common.issuperset(action.value for action in ordered):
            one, two = (action.value for action in ordered)
            if ordered[0].side == "reference":
                one, two = two, one
            result.add(("order", f"{one}<{two}", "candidate"))
            values = [named for named in values if named.value not in (one, two)]
        for named in values:
            assert named.side is not None
            if named.value != MAIN:
                result.add((named.attribute, named.value, named.side))
    return result


@dataclass(frozen=True)
class _Token:
    kind: str
    at: int
    end: int
    meaning: tuple[str, str] = ("", "")
    """of a value: attribute and value; of a name: the side or "other", and "who" if a clause about
    it follows"""
    listed: bool = False
    """of a value: only a comma or "and" separates it from the value before it"""
    either: bool = False
    """of a value: only "or" does: what is absent of one is absent of the other"""


def _parts(text: str, category: str, step: str) -> Iterator[list[_Token]]:
    """Yield the values, names and markers of each sentence, and of its clauses with "while"."""
    pattern, values = _pattern(category, step)
    part: list[_Token] = []
    end = 0
    for match in pattern.finditer(text):
        kind, meaning = str(match.lastgroup), ("", "")
        if kind[0] == "v" and kind[1:].isdigit():
            kind, meaning = "value", values[int(kind[1:])]
        elif kind == "name":
            named = next(
                group for group, words in match.groupdict().items() if words and group[1:].isdigit()
            )
            goes_on = re.match(r",? (?:who|where|which)\b", text[match.end() :])
            meaning = (
                {"r": "reference", "c": "candidate", "o": "other"}[named[0]],
                "who" if goes_on else "",
            )
        if kind in ("while", "stop") and part:
            yield part
            part = []
        if kind != "stop":
            between = text[end : match.start()]
            joined = bool(meaning[0] and _LISTED.fullmatch(between))
            either = joined and re.search(r"\bor\b", between) is not None
            part.append(
                _Token(
                    kind,
                    match.start(),
                    match.end(),
                    meaning,
                    joined and meaning[0] in ("extras", "subaction"),
                    either,
                )
            )
        end = match.end() if kind == "value" else end
    if part:
        yield part


def _sided(part: list[_Token], about: Side, first: bool) -> tuple[list[_Named], Side]:
    """Return the values of a part of a caption with their sides, and which video the next part is
    about."""
    names = sum(token.kind == "name" for token in part)
    here = _OTHER[about] if part[0].kind == "while" and not names and not first else about
    lead: Side | None = None
    values: list[_Named] = []
    waiting: list[_Named] = []  # for the name of their video
    clause: list[_Named] = []
    flip: Flip = ""
    mode, before = "", _Token("", 0, 0)

    def settle(side: Side) -> None:
        for named in waiting:
            named.side = _OTHER[side] if named.flip else side
        waiting.clear()

    for token in part:
        match token.kind:
            case "value":
                last = values[-1] if values else _Named("", "", 0)
                continues = (
                    (token.listed and last.attribute == token.meaning[0])
                    or (token.either and last.flip == "absent")
                    # "the timer isn't set": both words name the timer
                    or (before.kind == "gone" and (last.attribute, last.value) == token.meaning)
                )
                named = _Named(*token.meaning, token.at, flip or (last.flip if continues else ""))
                for values_so_far in (values, waiting, clause):
                    values_so_far.append(named)
                flip = ""
                if lead is not None:
                    settle(lead)
            case "name":
                is_other = token.meaning[0] == "other"
                side: Side = _OTHER[lead or here] if is_other else token.meaning[0]  # type: ignore[assignment]
                flips = {named.flip for named in waiting}
                if before.kind == "against":
                    settle(_OTHER[side])
                    lead, flip = (side if token.meaning[1] else lead or _OTHER[side]), ""
                elif not waiting or before.kind in ("comma", "and", "but"):
                    settle(here)
                    lead, clause = side, []
                else:  # "a whisk instead of a fork in Video 1" is about the candidate
                    settle(
                        _OTHER[side]
                        if flips == {"contrast"}
                        else "candidate"
                        if "contrast" in flips
                        else side
                    )
                    here = side
            case "contrast" | "against" | "absent":
                flip = "absent" if token.kind == "absent" else "contrast"
            case "gone" | "passive" if clause and before.kind in ("value", "name"):
                for named in (named for named in clause if named in waiting or lead is not None):
                    named.flip = "" if named.flip else "absent"
                    named.side = None if named.side is None else _OTHER[named.side]
            case "gone":
                flip = "absent"
            case "instead" if values:
                flip = "contrast"
            case "exchanged":
                mode, flip = "exchanged", "contrast"
            case "preferred":
                mode, flip = "preferred", ""
            case "turn" if mode:
                mode, flip = "", "" if mode == "exchanged" else "contrast"
            case "comma" | "but" if not mode:
                flip, clause = "", []
            case "and" if not mode:
                flip = ""
        before = token if token.kind not in ("turn", "first", "before", "after") else before
    settle(here)
    return values, (
        about if names == 0 else lead if lead is not None and names == 1 else "candidate"
    )


def _of_both(part: list[_Token], named: _Named) -> bool:
    """Return whether a value is said of both videos: after "both videos" or "the same", and before
    a "but"."""
    before = [token.kind for token in part if token.at < named.at]
    return "both" in before and "but" not in before[before.index("both") :]


def _order(part: list[_Token], values: list[_Named]) -> tuple[_Named, _Named] | None:
    """Return two actions of which a part of a caption says that the first comes before the
    second."""
    actions = [named for named in values if named.attribute == "subaction"]
    for token in part:
        earlier, later = (
            [a for a in actions if (a.at < token.at) == side] for side in (True, False)
        )
        if token.kind in ("before", "after") and len(later) > (not earlier):
            pair = (earlier[-1], later[0]) if earlier else (later[1], later[0])
            return pair if token.kind == "before" else (pair[1], pair[0])
        if token.kind == "first" and len(actions) > 1:
            return actions[0], actions[1]
    return None


@cache
def _pattern(category: str, step: str) -> tuple[re.Pattern[str], list[tuple[str, str]]]:
    """Return the pattern of names, words of values and markers, and the value of each of its groups
    v0, v1, ..."""
    verbs = set(" ".join(wordings("step", step)).split())
    own = {value: wordings(*value) for value in _values(category, step)}
    words = {
        value: {word for phrase in phrases for word in phrase.split()}
        for value, phrases in own.items()
    }
    uses = Counter(word for each in words.values() for word in each)
    patterns: dict[str, tuple[str, str]] = {}
    for value, phrases in own.items():
        for phrase in phrases:
            patterns[_forms(phrase, verbs)] = value
        for word in words[value] - _COMMON_WORDS - verbs:
            if uses[word] == 1:
                patterns.setdefault(_forms(word, verbs), value)
        if free := _FREE.get(":".join(value)):
            patterns.setdefault(free, value)
    if category == "Actions":
        for phrase in wordings("step", step):
            patterns |= dict.fromkeys(
                (_forms(phrase, set()), _forms(phrase.split()[0], set())), ("subaction", MAIN)
            )
    for value in (value for other in STEPS for value in _values(category, other)):
        for phrase in wordings(*value):
            if value[0] in _NOUNS or " " in phrase:
                patterns.setdefault(_forms(phrase, verbs), value)
    ordered = sorted(patterns, key=len, reverse=True)
    groups = "|".join(f"(?P<v{at}>{form})" for at, form in enumerate(ordered))
    markers = "|".join(f"(?P<{name}>{form})" for name, form in _MARKERS.items())
    named = rf"(?<!\w)(?:(?P<name>{_NAME})|{groups}|{markers})(?!\w)"
    whole = rf"{named}|(?P<stop>[.;!?]+(?!\w))|(?P<comma>[,:])"
    return re.compile(whole), [patterns[form] for form in ordered]


def _values(category: str, step: str) -> list[tuple[str, str]]:
    """Return attribute and value of all details that a clip of a step can have in a category."""
    pairs: list[tuple[str, str]] = []
    for name in CATEGORY_ATTRIBUTES[category]:
        attribute = "subaction" if name == "sequence" else name
        choices = STEPS[step].subactions if name == "sequence" else STEPS[step].options(name)
        pairs += [(attribute, value) for value in choices if value != "plain"]
    return pairs


def _forms(phrase: str, verbs: set[str]) -> str:
    """Return a pattern of a phrase and its inflections; words of the step's own action have
    none."""
    words = phrase.split()
    forms = (
        word if [word] == words and word in verbs else f"(?:{_inflected(word)})" for word in words
    )
    return "[ -]".join(forms).replace(f"[ -](?:{_FORMS['it']})", f"(?: {_FORMS['it']})?")


def _inflected(word: str) -> str:
    if word in _FORMS or len(word) < 3:
        return _FORMS.get(word, word)
    for ending, forms in (
        ("ing", "(?:e[sd]?|e?s|ed|ing)?"),
        ("ies", "(?:y|ies)"),
        ("ed", "(?:ed|s|ing)?"),
        ("y", "(?:y|ier|ies)"),
        ("ss", "ss"),
        ("s", "s?"),
        ("e", "e[drs]?"),
    ):
        if word.endswith(ending):
            stem = re.sub(r"(.)\1$", r"\1\1?", word.removesuffix(ending))
            return stem.replace("'", "'?") + forms
    return word.replace("'", "'?") + "(?:e?s|er|'s)?"
