"""Captions in the form that people's difference texts have: "<candidate action> instead of <reference action>".

Models that are asked to compare two videos say "In Video 1, the person ..., while in Video 2, the person ...", and
n-gram figures punish that form whatever it says (supplement, S4). The rules are patterns and replacements, the same for
every method.

Guarantees
- a caption that has the form already stays as it is
- parsing twice is parsing once
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

# Pattern -> replacement, in this order, wherever the pattern is found and whatever its case.
RULES = [
    # the seed that the answer was made to start with
    (r"^\s*the main differences?\b[^.]{0,80}? (?:is|are) that,? +", r""),
    # cut off before it says anything of the reference
    (rf"{_NEXT}{_REFERENCE}(?: {_PERSON})?(?: {_BE})?[\s,.]*$", r"."),
    # the reference first: turn the two around; "it is" and "they are" stand for what the first one named
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
    """The caption after all rules, until none of them finds anything; each one shortens it, so that comes."""
    while True:
        found = caption
        for pattern, to in _COMPILED:
            found = pattern.sub(to, found)
        if found == caption:
            return found
        caption = found
