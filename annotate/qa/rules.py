"""The rules for questions and answers, and the reasons for which they drop one.

    type 1   any question that compares the two videos
    type 2   "Which video ... ?", answered by one of the two
    type 3   YES or NO

Near duplicates of a pair's questions are found by sentence embeddings.

Guarantees
- an answer of type 2 names exactly one of the two videos
- a question of type 2 does not name one of them alone
- texts about descriptions, or about a third video, are dropped: a video language model sees two videos
- texts about a first and a second that may be videos or something in them are dropped: they cannot be turned
- the questions of the turned pair have the opposite answers: Video 1 is right half of the time
- of similar questions the first is kept
- only questions of one pair are compared: other pairs may have the same question
"""

import re
from collections.abc import Sequence

from annotate.qa.mentions import named, names_one, turned, unsure
from annotate.qa.parsing import QA, Dropped
from tasks.captions import Embed
from tasks.prompts import SIMILAR_QUESTION, VIDEOS

SIMILAR = SIMILAR_QUESTION.format(category="main action")  # the question of type 3: (S1)'s third prompt
NOT_ONE = "answer does not name exactly one video"
NOT_WHICH = "not a question of which video"
GIVEN_AWAY = "question names the video"
DESCRIPTIONS = "speaks of descriptions"
THIRD = "speaks of a third video"
REPEATS = "answer repeats the question"
UNSURE = "names a first and a second, not said of what"

_DESCRIPTIONS = re.compile(r"\b(?:descriptions?|captions?|narrations?|narrators?|transcripts?)\b", re.IGNORECASE)
_THIRD = re.compile(r"\b(?:video|clip)\s*#?(?:[03-9]|[1-9]\d+|three|four)\b|\bthird (?:video|clip)\b", re.IGNORECASE)
_JUST_NAMED = re.compile(
    r"\W*(?:(?:answer|it is|is|in|the)\W+)*(?:(?:video|clip)\W*(?:1|2|one|two)|(?:first|second) (?:video|clip|one))\W*",
    re.IGNORECASE,
)


def checked(kind: int, pair: QA) -> QA | Dropped:
    """Return the pair as it trains, or why it is dropped. kind: 1 or 2."""
    reason = _fault(kind, pair)
    if reason is not None:
        return Dropped(reason, f"{pair.question} | {pair.answer}")
    one = names_one(pair.answer)
    if one is not None and _JUST_NAMED.fullmatch(pair.answer):
        return QA(pair.question, VIDEOS[one - 1])
    return pair


def _fault(kind: int, pair: QA) -> str | None:
    if any(_DESCRIPTIONS.search(part) for part in pair):
        return DESCRIPTIONS
    if any(_THIRD.search(part) for part in pair):
        return THIRD
    if _words(pair.question) == _words(pair.answer):
        return REPEATS
    if any(unsure(part) for part in pair):
        return UNSURE
    if kind == 2:
        if not re.search(r"\bwhich\b", pair.question, re.IGNORECASE):
            return NOT_WHICH
        if names_one(pair.answer) is None:
            return NOT_ONE
        if len(named(pair.question)) == 1:
            return GIVEN_AWAY
    return None


def turned_pair(pair: QA) -> QA:
    """Return question and answer for the same two clips in the other order."""
    return QA(turned(pair.question), turned(pair.answer))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def first_of_alike(questions: Sequence[Sequence[str]], embed: Embed, threshold: float) -> list[list[bool]]:
    """Return which questions of each pair stay: those whose cosine to earlier ones that stay is below `threshold`.

    embed: texts -> L2-normalised embeddings.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(text for pair in questions for text in pair))}
    if not places:
        return [[] for _ in questions]
    vectors = embed(list(places))
    stays = []
    for pair in questions:
        own = vectors[[places[text] for text in pair]]
        alike = own @ own.T >= threshold
        kept: list[int] = []
        for number in range(len(pair)):
            if not alike[number, kept].any():
                kept.append(number)
        stays.append([number in kept for number in range(len(pair))])
    return stays
