"""Which of two videos a sentence speaks of, and the same sentence where the two have changed places.

Guarantees
- a sentence turned twice is the sentence
- a turned sentence names the other videos
- every way to name a video is turned: by number, by order, as the former or the latter
"""

import re

_OTHER = {
    "1": "2",
    "one": "two",
    "i": "ii",
    "first": "second",
    "1st": "2nd",
    "former": "latter",
}
_OTHER |= {other: name for name, other in _OTHER.items()}
_SECOND = ("2", "two", "ii", "second", "2nd", "latter")
_SHOWN = r"(?:videos?|clips?)"
# "Video 1", "clip #2", "videos 1 and 2", "VIDEO_2", "the first video", "the 2nd one", "the latter"
_MENTION = re.compile(
    rf"\b{_SHOWN}[\s_-]*(?:\#|no\.?\s|number\s)?\s*(?P<after>1|2|one|two|ii|i)(?P<list>\s*(?:and|or|&|,|/|vs\.?|versus)\s*"
    rf"(?P<also>1|2|one|two|ii|i))?\b"
    rf"|\b(?P<before>first|second|1st|2nd)(?=\s+(?:(?:cooking|short|given)\s+)?(?:{_SHOWN}|one)\b)"
    r"|\b(?:the\s+)(?P<order>former|latter)\b",
    re.IGNORECASE,
)
_BOTH = re.compile(
    rf"\b(?:both|neither|either|each)(?: of)?(?: the| these)?(?: two)? {_SHOWN}\b|^\W*(?:both|neither|either)\b",
    re.IGNORECASE,
)
_GROUPS = ("after", "also", "before", "order")


def named(text: str) -> set[int]:
    """Of the videos 1 and 2 those that the text names."""
    found = set()
    for mention in _MENTION.finditer(text):
        found |= {2 if mention[group].lower() in _SECOND else 1 for group in _GROUPS if mention[group]}
    return found


def names_one(text: str) -> int | None:
    """The one video that an answer refers to; None where it names both, neither, or speaks of both in other words."""
    found = named(text)
    return found.pop() if len(found) == 1 and not _BOTH.search(text) else None


def turned(text: str) -> str:
    """The text with 1 and 2, first and second, former and latter in each other's places wherever they name a video."""
    pieces, end = [], 0
    for mention in _MENTION.finditer(text):
        for group in _GROUPS:
            if mention[group]:
                pieces += [text[end : mention.start(group)], _like(mention[group], _OTHER[mention[group].lower()])]
                end = mention.end(group)
    return "".join((*pieces, text[end:]))


def _like(written: str, word: str) -> str:
    """The word in the case of what was written."""
    if written.isupper() and not written.isdigit():
        return word.upper()
    return word.capitalize() if written[0].isupper() else word
