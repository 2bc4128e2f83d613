"""Post-processing of captions into the form of human difference texts: "<candidate> instead of <reference>".

Models answer "In Video 1, the person ..., while in Video 2, the person ...", a form that n-gram metrics penalise
whatever the content (supplement, S4). The rules are patterns and replacements, the same for every method.

Guarantees
- a caption in that form already is unchanged
- parsing twice equals parsing once
"""

import re

_PERSON = r"(?:(?:the|a|this) (?:person|man|woman|cook|chef)|someone|they|he|she|it|i|you)"
_BE = r"(?:is|are|was|were)"
_THING = rf"(?:the|a) (?:\w+ ){{1,3}}?{_BE}"
_NAME_1, _NAME_2 = r"(?:video 1|the first video)", r"(?:video 2|the second video)"
_SHOWS = r",? (?:shows|features|has|uses)"
_REFERENCE = rf"(?:in {_NAME_1}[,;:]?|{_NAME_1}{_SHOWS})"
_CANDIDATE = rf"(?:in {_NAME_2}[,;:]?|{_NAME_2}{_SHOWS})"
_WHILE = r"(?:\s?\.{3})?[,;.]?\s{1,2}(?:while|whereas|but|and)\s{1,2}"
_NEXT = rf"(?:{_WHILE}|[.;]\s{{1,2}})"
_END = r"\s?(\.*)\s?$"

# Pattern -> replacement, applied in this order; case is ignored.
RULES = [
    # the seed with which the answer was generated
    (r"^\s*the main differences?\b[^.]{0,80}? (?:is|are) that,? +", r""),
    # cut off before it describes the reference
    (rf"{_NEXT}{_REFERENCE}(?: {_PERSON})?(?: {_BE})?[\s,.]*$", r"."),
    # the reference first: swap the two; "it is" and "they are" refer to the subject of the first clause
    (
        rf"^{_REFERENCE} ({_THING}) (.+?){_NEXT}{_CANDIDATE} (?:it|they) {_BE} (.+?){_END}",
        r"\1 \3 instead of \2\4",
    ),
    (
        rf"^{_REFERENCE} ({_THING}) (.+?){_NEXT}{_CANDIDATE} \1 (.+?){_END}",
        r"\1 \3 instead of \2\4",
    ),
    (
        rf"^{_REFERENCE} (?:{_PERSON} )?(?:{_BE} )?(.+?){_NEXT}{_CANDIDATE} (.+?){_END}",
        r"\2 instead of \1\3",
    ),
    # the candidate first
    (rf"^{_CANDIDATE} ({_THING}) (.+?){_NEXT}{_REFERENCE} \1 ", r"\1 \2 instead of "),
    (rf"^{_CANDIDATE} (.+?){_NEXT}{_REFERENCE} {_PERSON}(?: {_BE})? ", r"\1 instead of "),
    (rf"{_WHILE}{_REFERENCE} {_PERSON}(?: {_BE})? ", r" instead of "),
    (rf"{_WHILE}{_REFERENCE} ", r" compared to "),
    (rf"^\s*in {_NAME_2}[,;:]?(?:\s+|$)", r""),
    # "is using a whisk instead of using a fork"
    (rf"^({_PERSON} (?:{_BE} )?(\w+) .*?) instead of \2 ", r"\1 instead of "),
]
_COMPILED = [(re.compile(pattern, re.I | re.S), to) for pattern, to in RULES]


def parse(caption: str) -> str:
    """Return the caption after the rules, applied until none matches; each shortens it, so this ends."""
    while True:
        found = caption
        for pattern, to in _COMPILED:
            found = pattern.sub(to, found)
        if found == caption:
            return found
        caption = found
