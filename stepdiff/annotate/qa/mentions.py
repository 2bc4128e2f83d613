"""The mentions of Video 1 and Video 2 in a sentence, and the sentence with the two exchanged.

Guarantees
- a sentence turned twice is the sentence
- every way to name a video is turned: by number, letter or order, as the former or the latter
- an ordinal that may mean a video or something in it is reported, because such a sentence cannot be turned
"""

import re
from typing import NamedTuple

_OTHER = {"1": "2", "one": "two", "i": "ii", "a": "b", "first": "second", "1st": "2nd", "former": "latter"}
_SECOND = frozenset(_OTHER.values())
_OTHER |= {other: name for name, other in _OTHER.items()}
_SHOWN = r"(?:videos?|clips?)"
_KIND = r"(?:cooking|short|given|instructional|how-to|recipe|tutorial|demonstration|demo|provided|input)"
_ROMAN_OR_LETTER = r"(?-i:II?|[AB])"
# "Video 1", "clip #2", "videos 1 and 2", "VIDEO_2", "Video (1)", "Video A". A comma makes a list of "videos 1, 2"
# alone: "In Video 1, two eggs" counts eggs.
_NUMBERED = re.compile(
    rf"(?:\b(?P<before>\w+)\s+)?\b(?P<noun>{_SHOWN})[\s_-]*(?:\#|no\.?\s|number\s)?\s*[(\[]?"
    rf"(?P<after>1|2|one|two|{_ROMAN_OR_LETTER})\b"
    rf"(?:\s*(?:and|or|&|/|vs\.?|versus|(?P<comma>,))\s*(?P<also>1|2|one|two|{_ROMAN_OR_LETTER})\b)?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"\bv(?P<after>[12])\b", re.IGNORECASE)
# "the first video", "the 2nd one", "the latter"
_ORDERED = re.compile(
    rf"\b(?P<order>first|second|1st|2nd)(?=\s+(?:{_KIND}\s+)?(?:{_SHOWN}|one)\b)|\bthe\s+(?P<named>former|latter)\b",
    re.IGNORECASE,
)
# "the second" that no noun follows, or that does something: "the first is red, the second a plate"
_ALONE = re.compile(
    r"\bthe\s+(?P<order>first|second|1st|2nd)(?=\s*(?:[,;:.!?)]|$)|\s+(?:an?|the|is|was|has|does|doesn't|isn't|with|while|"
    r"whereas|and|but|only|also|instead|uses|shows|features|demonstrates|depicts|involves|includes|contains|focuses|"
    r"displays|adds|begins|starts|ends|takes|makes|mixes|whisks|stirs|pours|cuts|chops|places|puts|presents|appears|"
    r"seems|looks|lacks|employs|utilizes|holds|keeps|cooks|bakes|fries|works|goes|gets|gives|covers|highlights|omits|"
    r"prepares|serves|combines|explains|describes|opts|relies|requires|leaves|lets)\b)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"\b(?P<order>first|second|1st|2nd)\b", re.IGNORECASE)
# "the first video 2 eggs", "each video one egg": the number belongs to what follows
_SAID_ALREADY = frozenset("first second 1st 2nd each both either neither every same".split())
_POINTS = _SAID_ALREADY | frozenset("the this that these those a an".split())
_BOTH = re.compile(
    rf"\b(?:both|neither|either|each)(?: of)?(?: the| these)?(?: two)? {_SHOWN}\b|^\W*(?:both|neither|either)\b",
    re.IGNORECASE,
)


class Mention(NamedTuple):
    """The word that names a video, and its place in the text."""

    start: int
    end: int
    word: str

    @property
    def video(self) -> int:
        return 2 if self.word.lower() in _SECOND else 1


def mentions(text: str) -> list[Mention]:
    """Return the words that name a video, in order."""
    found = [*_numbered(text), *_words(_SHORT, text, "after"), *_words(_ORDERED, text, "order", "named")]
    alone = _words(_ALONE, text, "order")
    if found or {mention.video for mention in alone} == {1, 2}:
        found += alone
    return sorted(found)


def named(text: str) -> set[int]:
    """Return which of the videos 1 and 2 the text names."""
    return {mention.video for mention in mentions(text)}


def names_one(text: str) -> int | None:
    """Return the one video that an answer refers to; None if it names both or neither, or means both."""
    found = named(text)
    return found.pop() if len(found) == 1 and not _BOTH.search(text) else None


def unsure(text: str) -> bool:
    """Return whether the text contrasts a first and a second thing that may not be videos: "the first person"."""
    sure = {mention.start for mention in mentions(text)}
    rest = [mention for mention in _words(_ORDINAL, text, "order") if mention.start not in sure]
    return {mention.video for mention in rest} == {1, 2}


def turned(text: str) -> str:
    """Return the text with 1 and 2, first and second, former and latter exchanged wherever they name a video."""
    pieces, end = [], 0
    for mention in mentions(text):
        pieces += [text[end : mention.start], _like(mention.word, _OTHER[mention.word.lower()])]
        end = mention.end
    return "".join((*pieces, text[end:]))


def _words(pattern: re.Pattern[str], text: str, *groups: str) -> list[Mention]:
    return [
        Mention(match.start(group), match.end(group), match[group])
        for match in pattern.finditer(text)
        for group in groups
        if match[group]
    ]


def _numbered(text: str) -> list[Mention]:
    found = []
    for match in _NUMBERED.finditer(text):
        before, spelled = (match["before"] or "").lower(), match["after"].lower() in ("one", "two")
        if before in (_POINTS if spelled else _SAID_ALREADY):
            continue
        if match["after"] in ("I", "II", "A", "B") and match["noun"][0].islower():  # "in the video I see"
            continue
        plural = match["noun"].lower().endswith("s")
        groups = ["after", "also"] if match["also"] and (plural or not match["comma"]) else ["after"]
        found += [Mention(match.start(group), match.end(group), match[group]) for group in groups]
    return found


def _like(written: str, word: str) -> str:
    """Return `word` in the case of `written`."""
    if written.isupper() and not written.isdigit():
        return word.upper()
    return word.capitalize() if written[0].isupper() else word
