"""Captions in the form that people's difference texts have: "<candidate action> instead of <reference action>".

Models that are asked to compare two videos say "In Video 1, the person ..., while in Video 2, the person ..."; n-gram figures
punish that form whatever it says (supplement, S4). The rules are words and replacements, the same for every method.

Guarantees
- a caption that has the form already stays as it is
- parsing twice is parsing once
"""

import re

_PERSON = r"(?:(?:the|a|this) (?:person|man|woman|cook|chef)|someone|they|he|she|it|i|you)"
_BE = r"(?:is|are|was|were)"
_NAME = r"(?:the )?(?:video {digit}|{ordinal} video)"
_CLIP = rf"(?:in {_NAME}[,;:]?|{_NAME},? (?:shows|features|has|uses))"
_REFERENCE = _CLIP.format(digit=1, ordinal="first")
_CANDIDATE = _CLIP.format(digit=2, ordinal="second")
_JOIN = r"(?:[,;.]?\s+(?:while|whereas|but|and)|[.;])\s+"

# Pattern -> replacement, in this order, wherever the pattern is found and whatever its case.
RULES = [
    # the seed that the answer was made to start with
    (r"^\s*the main differences?\b[^.]{0,80}? (?:is|are) that,? +", ""),
    # cut off before it says anything of the reference
    (rf"{_JOIN}{_REFERENCE}(?: {_PERSON})?(?: {_BE})?[\s,.]*$", "."),
    # the reference first: turn the two around, and let "it" or "they" stand for what the first one named
    (
        rf"^{_REFERENCE} ((?:the|a) (?:\w+ ){{1,3}}?{_BE}) (.+?)[,.]?{_JOIN}{_CANDIDATE} (?:it|they) {_BE} (.+?)(\.?)\s*$",
        r"\1 \3 instead of \2\4",
    ),
    (
        rf"^{_REFERENCE} (?:{_PERSON} )?(?:{_BE} )?(.+?){_JOIN}{_CANDIDATE} (.+?)(\.?)\s*$",
        r"\2 instead of \1\3",
    ),
    # the candidate first
    (rf"{_JOIN}{_REFERENCE} {_PERSON}(?: {_BE})? ", " instead of "),
    (rf"{_JOIN}{_REFERENCE} ", " compared to "),
    (rf"^\s*(?:in {_NAME.format(digit=2, ordinal='second')}[,;:]?\s+)+", ""),
    # "is using a whisk instead of using a fork"
    (rf"^({_PERSON} (?:{_BE} )?(\w+) .*?) instead of (?:\2 )+", r"\1 instead of "),
]
_COMPILED = [(re.compile(pattern, re.I | re.S), to) for pattern, to in RULES]


def parse(caption: str) -> str:
    """The caption after all rules, until none of them finds anything."""
    while True:
        found = caption
        for pattern, to in _COMPILED:
            found = pattern.sub(to, found)
        if found == caption:
            return found
        caption = found
