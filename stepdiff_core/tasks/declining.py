"""Captions that state that nothing differs, the questions for which this is the right answer, and
verdicts in words.

A model that cannot say "no difference" invents one for two clips that agree in a category. Every
DiffRank test set contains such pairs: targets with score 5. A DiffCap row with an empty `text` is
such a pair.

Guarantees
- a caption that declines still declines after post-processing
- a caption with a sentence that does not decline, or with a contrast, does not decline
"""

import re
from collections.abc import Sequence
from typing import Literal

from stepdiff_core.tasks.postprocess import parse
from stepdiff_core.tasks.prompts import NO_DIFFERENCE
from stepdiff_core.tasks.testsets import HIGHEST_SCORE, DiffCap, DiffRank

UNSURE = 0.2
"""log-odds nearer to 0 than this are no answer: p(YES) is between 45 and 55 %"""
Verdict = Literal["alike", "different", "unsure"]
# score 5 allows some, see the supplement's scoring matrix (S3)
ALLOWS_DIFFERENCES = ("Tools/Equipment",)

# "no difference", "no visible or key difference"
_MANY = r"(?:(?!(?:longer|more|less)\b)[a-z-]+ ){0,3}"
_BOTH = r"(?:both(?: of (?:them|the videos))?|(?:both |the |these |the two )?(?:videos|clips)|they)"
_IS = r"(?:is|are|was|were|look|looks|seem|seems|appear|appears|remain|remains)"
_SAME = r"(?:the (?:very )?same|identical|alike|(?:quite |very |nearly )?similar|unchanged|equal)"
_MANNER = r"(?:(?:also|clearly|simply|still|just|again) )?"
_ONE = r"(?:video 1|the first video|the other video|the reference)"

# A caption declines if each of its sentences matches one of these (case is ignored) ...
FORMS = [
    rf"\bno {_MANY}(?:differences?|change)\b",
    r"(?:\bnot|\bcannot|\bnever|n['’]t) (?:(?:appear|seem) to )?(?:be |have |see |find |show "
    rf"|notice |any |a ){{0,3}}{_MANY}differ(?:ences?|ent)?\b",
    r"\bnothing (?:is |was |has )?(?:differs?|differ(?:ent|ed)|changed|changes)\b",
    r"^\W*(?:none|nothing)\b\W*(?:$|they\b|both\b|the videos\b)",
    rf"\b{_BOTH} {_IS} (?:\w+ )?{_SAME}\b",
    rf"\b{_BOTH} (?:agree|match|(?:\w+ )?share)s?\b",
    r"\bboth(?: of (?:them|the videos)| (?:the |these )?(?:videos|clips))? "
    rf"{_MANNER}(?:show|feature|use|have)s?\b",
    rf"\b{_BOTH} (?:\w+ )?(?:show|feature|use|have)s? the (?:exact |very )?same\b",
    rf"\b{_IS} (?:exactly |also )?(?!equal){_SAME}\b(?! in (?!both|either|the "
    r"two|these|videos?\b))",
    r"\bthe (?:exact |very )?same\b[^.]{0,80}\b(?:in|by) both(?: (?:the )?(?:videos|clips))?\b",
    rf"\bthe (?:exact |very )?same\b[^.]{{0,80}} as in {_ONE}\b",
]
# ... and none of these, which introduce a difference.
_COMPARATIVE = r"\b(?:more|less|\w+er) than\b"
CONTRASTS = [
    r"\b(?:but|except|however|although|though|while|whereas|instead|rather|unlike|compared|only|"
    r"apart from)\b",
    _COMPARATIVE,
    r"\bone\b[^.]{0,80}\bthe other\b",
]
# "no differences in Video 2 compared to Video 1" is no contrast: it names the videos
_AGAINST = re.compile(
    r"(differences?(?: in [\w/ ]{1,40}?)?) compared (?:to|with) (?:video 1|the first video)", re.I
)
_THAN = re.compile(_COMPARATIVE, re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_FORMS, _CONTRASTS = (
    re.compile("|".join(patterns), re.I | re.S) for patterns in (FORMS, CONTRASTS)
)


def declines(caption: str) -> bool:
    """Return whether the caption states that nothing differs; an empty caption does not."""
    plain = _AGAINST.sub(r"\1", parse(caption))
    if _CONTRASTS.search(plain) or _THAN.search(caption):  # post-processing drops "than in Video 1"
        return False
    sentences = [sentence for sentence in _SENTENCE.split(plain) if re.search(r"\w", sentence)]
    return bool(sentences) and all(_FORMS.search(sentence) for sentence in sentences)


def verdict(log_odds: float) -> Verdict:
    """Return the meaning of log-odds in a word: log p(YES) - log p(NO) that two clips are alike in
    a category, or, of a head of words, the distance below which nothing differs minus theirs."""
    if abs(log_odds) < UNSURE:
        return "unsure"
    return "alike" if log_odds > 0 else "different"


def asked_first(
    rows: Sequence[DiffCap], captions: Sequence[str], similar: Sequence[float]
) -> list[str]:
    """Return the captions with "no difference" if the method finds two clips similar.

    similar: log p(YES) - log p(NO) that the clips share a similar category; YES is likelier above
    0.
    """
    return [
        NO_DIFFERENCE.format(category=row.category) if score > 0 else caption
        for row, caption, score in zip(rows, captions, similar, strict=True)
    ]


def agreeing(rows: Sequence[DiffRank]) -> list[DiffCap]:
    """Return a DiffCap row without text for each (reference, target, category) with the highest
    score."""
    pairs = {
        (row.reference, target, row.category): None
        for row in rows
        if row.category not in ALLOWS_DIFFERENCES
        for target, score in zip(row.targets, row.scores, strict=True)
        if score == HIGHEST_SCORE
    }
    return [DiffCap(reference, target, category, ()) for reference, target, category in pairs]
