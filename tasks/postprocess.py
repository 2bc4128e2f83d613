"""Post-processing of captions into the form of human difference texts: "<candidate> instead of <reference>".

Models answer "In Video 1, the person ..., while in Video 2, the person ...", a form that n-gram metrics penalise
whatever the content (supplement, S4). The rules are patterns and replacements, the same for every method.

A model that cannot say "no difference" invents one for two clips that agree in a category. Every DiffRank test set
contains such pairs: targets with score 5. A DiffCap row with an empty `text` is such a pair. `declines` finds captions
that state that nothing differs.

Guarantees
- a caption in that form already is unchanged
- parsing twice equals parsing once
- a caption that declines still declines after post-processing
- a caption with a sentence that does not decline, or with a contrast, does not decline
- each pair that agrees is one question per category, except in Tools/Equipment, where score 5 allows another colour
"""

import re
from collections.abc import Sequence

from tasks.testsets import HIGHEST_SCORE, DiffCap, DiffRank

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


ALLOWS_DIFFERENCES = ("Tools/Equipment",)  # score 5 allows some, see the supplement's scoring matrix (S3)

_MANY = r"(?:(?!(?:longer|more|less)\b)[a-z-]+ ){0,3}"  # "no difference", "no visible or key difference"
_BOTH = r"(?:both(?: of (?:them|the videos))?|(?:both |the |these |the two )?(?:videos|clips)|they)"
_IS = r"(?:is|are|was|were|look|looks|seem|seems|appear|appears|remain|remains)"
_SAME = r"(?:the (?:very )?same|identical|alike|(?:quite |very |nearly )?similar|unchanged|equal)"
_MANNER = r"(?:(?:also|clearly|simply|still|just|again) )?"
_ONE = r"(?:video 1|the first video|the other video|the reference)"

# A caption declines if each of its sentences matches one of these (case is ignored) ...
FORMS = [
    rf"\bno {_MANY}(?:differences?|change)\b",
    rf"(?:\bnot|\bcannot|\bnever|n['’]t) (?:(?:appear|seem) to )?(?:be |have |see |find |show |notice |any |a ){{0,3}}"
    rf"{_MANY}differ(?:ences?|ent)?\b",
    r"\bnothing (?:is |was |has )?(?:differs?|differ(?:ent|ed)|changed|changes)\b",
    r"^\W*(?:none|nothing)\b\W*(?:$|they\b|both\b|the videos\b)",
    rf"\b{_BOTH} {_IS} (?:\w+ )?{_SAME}\b",
    rf"\b{_BOTH} (?:agree|match|(?:\w+ )?share)s?\b",
    rf"\bboth(?: of (?:them|the videos)| (?:the |these )?(?:videos|clips))? {_MANNER}(?:show|feature|use|have)s?\b",
    rf"\b{_BOTH} (?:\w+ )?(?:show|feature|use|have)s? the (?:exact |very )?same\b",
    rf"\b{_IS} (?:exactly |also )?(?!equal){_SAME}\b(?! in (?!both|either|the two|these|videos?\b))",
    r"\bthe (?:exact |very )?same\b[^.]{0,80}\b(?:in|by) both(?: (?:the )?(?:videos|clips))?\b",
    rf"\bthe (?:exact |very )?same\b[^.]{{0,80}} as in {_ONE}\b",
]
# ... and none of these, which introduce a difference.
CONTRASTS = [
    r"\b(?:but|except|however|although|though|while|whereas|instead|rather|unlike|compared|only|apart from)\b",
    r"\b(?:more|less|\w+er) than\b",
    r"\bone\b[^.]{0,80}\bthe other\b",
]
# "no differences in Video 2 compared to Video 1" is no contrast: it names the videos
_AGAINST = re.compile(r"(differences?(?: in [\w/ ]{1,40}?)?) compared (?:to|with) (?:video 1|the first video)", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_FORMS, _CONTRASTS = (re.compile("|".join(patterns), re.I | re.S) for patterns in (FORMS, CONTRASTS))


def declines(caption: str) -> bool:
    """Return whether the caption states that nothing differs; an empty caption does not."""
    said = _AGAINST.sub(r"\1", parse(caption))
    sentences = [sentence for sentence in _SENTENCE.split(said) if re.search(r"\w", sentence)]
    return bool(sentences) and all(_FORMS.search(s) and not _CONTRASTS.search(s) for s in sentences)


def agreeing(rows: Sequence[DiffRank]) -> list[DiffCap]:
    """Return a DiffCap row without text for each (reference, target, category) with the highest score."""
    pairs = {
        (row.reference, target, row.category): None
        for row in rows
        if row.category not in ALLOWS_DIFFERENCES
        for target, score in zip(row.targets, row.scores, strict=True)
        if score == HIGHEST_SCORE
    }
    return [DiffCap(reference, target, category, ()) for reference, target, category in pairs]
