"""Questions about pairs of clips: the stage in which a language model writes them, and the rows
that train.

    type 1   any question that compares the two videos
    type 2   "Which video ... ?", answered by one of the two
    type 3   YES or NO

Every text is kept, or dropped with a reason that is counted; near duplicates of a pair's questions
are found by sentence embeddings. Every question is written in both orders of its pair, so that
Video 1 is right half of the time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import Strict, TypeAdapter

from heads.llm.model import LLM, CutOff, LLMOptions
from stepdiff.annotate.qa.pair_choice import SCHEMA
from stepdiff.annotate.qa.prompts import PAIRQA
from stepdiff.annotate.qa.reading import (
    QA,
    Dropped,
    named,
    names_one,
    read_pairs,
    read_yes_no,
    turned,
    unsure,
)
from stepdiff.annotate.stages.job import Annotator, Answer, Item, Unanswered
from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.tasks.captions import Embed
from stepdiff_core.tasks.prompts import MAIN_ACTION, NO, SIMILAR_QUESTION, VIDEOS

STAGE = "pairqa"
KINDS = tuple(PAIRQA)
# suffix of an answer's kind: the kind that records the limit that ended the answer
CUT = ", ended by"
_ONE_WORD = 8  # tokens that type 3's single word may take


@dataclass(frozen=True)
class PairQAJob:
    llm: LLMOptions
    pairs: str  # sha256 of the pairs' file
    descriptions: tuple[str, ...]  # provenance of the descriptions
    texts: str  # sha256 of the descriptions in the prompts

    def provenance(self) -> dict[str, Any]:
        prompts = {f"type {kind}": prompt.sha256 for kind, prompt in PAIRQA.items()}
        inputs = {"pairs": self.pairs, "descriptions": list(self.descriptions), "texts": self.texts}
        return {**self.llm.provenance(), "prompts": prompts, **inputs}

    def load(self, device: str, threads: int) -> Annotator:
        return _Writer(self.llm.load(device), self.llm)


class _Writer:
    def __init__(self, llm: LLM, options: LLMOptions) -> None:
        self._llm, self._sampling = llm, options.sampling

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        by_kind = defaultdict(list)
        for item in items:
            by_kind[item["type"]].append(item)
        for kind, of_kind in by_kind.items():
            sampling, prompt = self._sampling, PAIRQA[kind]
            if kind == 3:
                sampling = replace(sampling, max_tokens=min(sampling.max_tokens, _ONE_WORD))
            conversations = [
                prompt.messages(**{name: item[name] for name in prompt.fields}) for item in of_kind
            ]
            for place, text in self._llm.chat(conversations, sampling):
                answer: Answer = text if isinstance(text, Unanswered) else {f"type {kind}": text}
                if isinstance(text, CutOff):
                    answer = {f"type {kind}": text, f"type {kind}{CUT}": "max_tokens"}
                yield of_kind[place]["key"], answer


def item_key(kind: int, reference: str, candidate: str) -> str:
    return f"{kind} {reference} {candidate}"


def read_pairs_file(path: str) -> pl.DataFrame:
    """Read a file of stepdiff annotate pairs. StepDiffError: not such a file."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = f"no pairs can be read ({first_line(error)})"
        raise StepDiffError(f"{path}: {why}; run stepdiff annotate pairs") from None
    if dict(frame.schema) != SCHEMA:
        raise StepDiffError(
            f"{path}: not a file of stepdiff annotate pairs; its columns are "
            f"{', '.join(frame.columns)}"
        )
    return frame


def items(pairs: pl.DataFrame, texts: Mapping[str, str]) -> pl.DataFrame:
    """Return one item for each type of each pair of one step; texts: clip -> its step
    description."""
    rows = [
        {
            "key": item_key(kind, pair["reference"], pair["candidate"]),
            "row": pair["pair"] * len(KINDS) + kind - 1,
            "type": kind,
            "step_description_1": texts[pair["reference"]],
            "step_description_2": texts[pair["candidate"]],
        }
        for pair in pairs.filter("same_step").iter_rows(named=True)
        for kind in KINDS
    ]
    schema = {"key": pl.String, "row": pl.Int64, "type": pl.Int64} | dict.fromkeys(
        PAIRQA[1].fields, pl.String
    )
    return pl.DataFrame(rows, schema=schema)


class Question(NamedTuple):
    reference: str
    candidate: str
    question: str
    answer: str
    # of the supplement's prompts; None if the file does not say
    type: Annotated[int, Strict()] | None = None


_QUESTION = TypeAdapter(Question).validate_python


def read_questions(path: str | Path) -> list[Question]:
    """Read all lines of a PairQA file. StepDiffError: a line has another form, or the file is
    empty."""
    questions = []
    for place, row in read_objects(path):
        keys = {name: row[name] for name in Question._fields if name in row}
        questions.append(checked(_QUESTION, keys, f"{place}: not a PairQA row: "))
    if not questions:
        raise StepDiffError(f"{path}: no questions in it; run stepdiff annotate pairqa")
    return questions


# the question of type 3: (S1)'s third prompt
SIMILAR = SIMILAR_QUESTION.format(category=MAIN_ACTION)
NOT_ONE = "answer does not name exactly one video"
NOT_WHICH = "not a question of which video"
GIVEN_AWAY = "question names the video"
DESCRIPTIONS = "speaks of descriptions"
THIRD = "speaks of a third video"
REPEATS = "answer repeats the question"
UNSURE = "names a first and a second, not said of what"

_DESCRIPTIONS = re.compile(
    r"\b(?:descriptions?|captions?|narrations?|narrators?|transcripts?)\b", re.IGNORECASE
)
_THIRD = re.compile(
    r"\b(?:video|clip)\s*#?(?:[03-9]|[1-9]\d+|three|four)\b|\bthird (?:video|clip)\b", re.IGNORECASE
)
_JUST_NAMED = re.compile(
    r"\W*(?:(?:answer|it is|is|in|the)\W+)*(?:(?:video|clip)\W*(?:1|2|one|two)|(?:first|second) "
    r"(?:video|clip|one))\W*",
    re.IGNORECASE,
)


def fault(kind: int, pair: QA) -> str | None:
    """Return why a question and its answer do not train; None if they do. kind: 1 or 2."""
    if any(_DESCRIPTIONS.search(part) for part in pair):
        return DESCRIPTIONS
    if any(_THIRD.search(part) for part in pair):
        return THIRD
    if re.findall(r"\w+", pair.question.lower()) == re.findall(r"\w+", pair.answer.lower()):
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


def rule_checked(kind: int, pair: QA) -> QA | Dropped:
    """Return the pair as it trains, a bare name of a video in one form, or why it is dropped. kind:
    1 or 2."""
    if (reason := fault(kind, pair)) is not None:
        return Dropped(reason, f"{pair.question} | {pair.answer}")
    one = names_one(pair.answer)
    return (
        QA(pair.question, VIDEOS[one - 1])
        if one is not None and _JUST_NAMED.fullmatch(pair.answer)
        else pair
    )


def first_of_alike(
    questions: Sequence[Sequence[str]], embed: Embed, threshold: float
) -> list[list[bool]]:
    """Return which questions of each pair stay: those whose cosine to earlier ones that stay is
    below `threshold`.

    embed: texts -> L2-normalised embeddings.
    """
    places = {
        text: place
        for place, text in enumerate(dict.fromkeys(text for pair in questions for text in pair))
    }
    if not places:
        return [[] for _ in questions]
    vectors = embed(list(places))
    flags = []
    for pair in questions:
        of_pair = vectors[[places[text] for text in pair]]
        alike = of_pair @ of_pair.T >= threshold
        first: list[int] = []
        for number in range(len(pair)):
            if not alike[number, first].any():
                first.append(number)
        flags.append([number in first for number in range(len(pair))])
    return flags


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
        return 2 * self.kept.total()

    def record(self) -> dict[str, Any]:
        by_type = {}
        for kind in KINDS:
            dropped = dict(self.dropped[kind].most_common())
            by_type[str(kind)] = {
                "written": self.written[kind],
                "kept": self.kept[kind],
                "dropped": dropped,
            }
        return {"types": by_type, "examples": dict(self.examples)}


def kept_words(kind: str, counts: Mapping[str, Any]) -> str:
    words = f"{counts['kept']:,} questions kept, {counts['written']:,} texts written"
    return (
        f"{words} (of pairs of different steps none: their answer is NO)" if kind == "3" else words
    )


def compose(
    pairs: Iterable[Mapping[str, Any]],
    written: Mapping[str, str],
    cut: Collection[str],
    embed: Embed,
    threshold: float,
    ledger: Ledger,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the training file, pair by pair in both orders; `ledger` counts kept and
    dropped texts.

    pairs: rows of stepdiff annotate pairs; written: item_key -> text; cut: keys of the texts that
    the limit of tokens ended; threshold: cosine from which on two questions of a pair count as one.
    """
    rest = iter(pairs)
    while batch := list(islice(rest, PAIRS_AT_ONCE)):
        questions = [_questions(pair, written, cut, ledger) for pair in batch]
        compared = [[qa.question for kind, qa in of_pair if kind != 3] for of_pair in questions]
        for pair, of_pair, flags in zip(
            batch, questions, first_of_alike(compared, embed, threshold), strict=True
        ):
            stays = iter(flags)
            unlike: list[tuple[int, QA]] = []
            for kind, qa in of_pair:
                if kind == 3 or next(stays):
                    unlike.append((kind, qa))
                else:
                    ledger.drop(kind, Dropped(ALIKE, qa.question))
            ledger.kept.update(kind for kind, _ in unlike)
            one, two = pair["reference"], pair["candidate"]
            for reference, candidate, turn in ((one, two, False), (two, one, True)):
                for kind, qa in unlike:
                    yield {
                        "reference": reference,
                        "candidate": candidate,
                        "type": kind,
                        "question": turned(qa.question) if turn else qa.question,
                        "answer": turned(qa.answer) if turn else qa.answer,
                        "pair": pair["pair"],
                        "same_step": pair["same_step"],
                        "turned": turn,
                    }


def _questions(
    pair: Mapping[str, Any], written: Mapping[str, str], cut: Collection[str], ledger: Ledger
) -> list[tuple[int, QA]]:
    """Return type and question of the texts of a pair that pass the rules; count the others."""
    if not pair["same_step"]:
        return [(3, QA(SIMILAR, NO))]
    questions: list[tuple[int, QA]] = []
    for kind in KINDS:
        key = item_key(kind, pair["reference"], pair["candidate"])
        text = written.get(key)
        if text is None:
            ledger.drop(kind, Dropped(UNANSWERED, ""))
            continue
        ledger.written[kind] += 1
        if kind == 3:
            answer = read_yes_no(text)
            read: list[QA | Dropped] = [
                answer if isinstance(answer, Dropped) else QA(SIMILAR, answer)
            ]
        else:
            reading = read_pairs(text, key in cut)
            read = [*(rule_checked(kind, qa) for qa in reading.pairs), *reading.dropped]
        for one in read:
            if isinstance(one, Dropped):
                ledger.drop(kind, one)
            else:
                questions.append((kind, one))
    return questions
