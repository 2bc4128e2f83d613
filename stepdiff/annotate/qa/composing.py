"""The training rows made from a language model's texts, the rules for them, and the count of what was dropped.

    type 1   any question that compares the two videos
    type 2   "Which video ... ?", answered by one of the two
    type 3   YES or NO

Near duplicates of a pair's questions are found by sentence embeddings.

Guarantees
- every text is kept, or dropped with a reason that is counted
- every question is written in both orders of its pair, with the opposite answer, so that Video 1 is right half of the
  time; a pair of different steps gets only type 3 with answer NO
- no text is about descriptions or a third video, which a video language model does not see
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from stepdiff.annotate.qa.job import KINDS, item_key
from stepdiff.annotate.qa.mentions import named, names_one, turned, unsure
from stepdiff.annotate.qa.parsing import QA, Dropped, read_pairs, read_yes_no
from stepdiff.tasks.captions import Embed
from stepdiff.tasks.prompts import MAIN_ACTION, NO, SIMILAR_QUESTION, VIDEOS

SIMILAR = SIMILAR_QUESTION.format(category=MAIN_ACTION)  # the question of type 3: (S1)'s third prompt
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


ALIKE = "asks what another question of the pair asks"
UNANSWERED = "the language model gave no answer"
PAIRS_AT_ONCE = 8192  # whose questions are embedded in one call
EXAMPLES = 5  # texts that are kept for each reason


@dataclass
class Ledger:
    """The counts of written, kept and dropped texts, by type."""

    written: Counter[int] = field(default_factory=Counter)  # texts of the language model
    kept: Counter[int] = field(default_factory=Counter)  # questions, in one order of their pair
    dropped: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def drop(self, kind: int, dropped: Dropped) -> None:
        self.dropped[kind][dropped.reason] += 1
        if len(self.examples[dropped.reason]) < EXAMPLES and dropped.text:
            self.examples[dropped.reason].append(dropped.text[:300])

    @property
    def rows(self) -> int:
        """Rows of the training file."""
        return 2 * self.kept.total()

    def record(self) -> dict[str, Any]:
        """Return the counts as JSON objects."""
        by_type = {}
        for kind in KINDS:
            dropped = dict(self.dropped[kind].most_common())
            by_type[str(kind)] = {"written": self.written[kind], "kept": self.kept[kind], "dropped": dropped}
        return {"types": by_type, "examples": dict(self.examples)}


def kept_words(kind: str, counts: Mapping[str, Any]) -> str:
    """Return the counts of a type for people."""
    words = f"{counts['kept']:,} questions kept, {counts['written']:,} texts written"
    return f"{words} (of pairs of different steps none: their answer is NO)" if kind == "3" else words


_Questions = list[tuple[int, QA]]  # type, question and answer


def compose(
    pairs: Iterable[Mapping[str, Any]],
    written: Mapping[str, str],
    cut: Collection[str],
    embed: Embed,
    threshold: float,
    ledger: Ledger,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the training file, pair by pair in both orders; `ledger` counts what is kept and dropped.

    pairs: rows of stepdiff annotate pairs; written: item_key -> text; cut: keys of the texts that the limit of tokens
    ended;
    threshold: cosine from which on two questions of a pair count as one.
    """
    rest = iter(pairs)
    while some := list(islice(rest, PAIRS_AT_ONCE)):
        found = [_questions(pair, written, cut, ledger) for pair in some]
        stays = first_of_alike([[qa.question for kind, qa in own if kind != 3] for own in found], embed, threshold)
        for pair, own, flags in zip(some, found, stays, strict=True):
            kept: _Questions = []
            compared = iter(flags)
            for kind, qa in own:
                if kind == 3 or next(compared):
                    kept.append((kind, qa))
                else:
                    ledger.drop(kind, Dropped(ALIKE, qa.question))
            ledger.kept.update(kind for kind, _ in kept)
            yield from _both_orders(pair, kept)


def _both_orders(pair: Mapping[str, Any], kept: _Questions) -> Iterator[dict[str, Any]]:
    one, two = pair["reference"], pair["candidate"]
    for reference, candidate, turn in ((one, two, False), (two, one, True)):
        for kind, qa in kept:
            shown = turned_pair(qa) if turn else qa
            yield {
                "reference": reference,
                "candidate": candidate,
                "type": kind,
                "question": shown.question,
                "answer": shown.answer,
                "pair": pair["pair"],
                "same_step": pair["same_step"],
                "turned": turn,
            }


def _questions(pair: Mapping[str, Any], written: Mapping[str, str], cut: Collection[str], ledger: Ledger) -> _Questions:
    """Return the questions in the texts of a pair that pass the rules."""
    if not pair["same_step"]:
        return [(3, QA(SIMILAR, NO))]
    questions: _Questions = []
    for kind in KINDS:
        key = item_key(kind, pair["reference"], pair["candidate"])
        text = written.get(key)
        if text is None:
            ledger.drop(kind, Dropped(UNANSWERED, ""))
            continue
        ledger.written[kind] += 1
        for found in _found(kind, text, key in cut):
            if isinstance(found, Dropped):
                ledger.drop(kind, found)
            else:
                questions.append((kind, found))
    return questions


def _found(kind: int, text: str, cut: bool) -> list[QA | Dropped]:
    if kind == 3:
        answer = read_yes_no(text)
        return [answer if isinstance(answer, Dropped) else QA(SIMILAR, answer)]
    reading = read_pairs(text, cut)
    return [*(checked(kind, pair) for pair in reading.pairs), *reading.dropped]
