"""The form: what a person answers about a pair of clips, and its rules (Fig. S2, Fig. S3).

`Form` is the one description of it: the annotation page shows it, answers are made and checked by it, Label Studio gets
it as a labelling configuration, and exports and statistics have its categories. An answer as JSON:

    {"pair": id, "reference": clip, "candidate": clip, "annotator": str, "keystep": str,
     "differences": {category: {"text": str, "score": 1 to 5}}, "rejected": null or the reason,
     "left": "reference" or "candidate", "seconds": float, "submitted": ISO time in UTC,
     "kind": "work", "gold", "training" or "adjudication"}

Scores: 5 = not different, 1 = very different. A text says how the right video differs from the left one. `left`,
`seconds` and `submitted` are null where another tool did not record them. An adjudication decides where people
disagree; it wins in exports and does not count in agreement.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, TypeAdapter, with_config

from stepdiff.common.checked import checked

LOWEST, HIGHEST = 1, 5
DIRECTION = "5 = not different, 1 = very different"
SCORES = tuple(range(LOWEST, HIGHEST + 1))
REJECT_REASONS = ("different steps", "unclear", "too short", "other")
Kind = Literal["work", "gold", "training", "adjudication"]
KINDS: tuple[Kind, ...] = ("work", "gold", "training", "adjudication")
Side = Literal["reference", "candidate"]
FORM_TEXT = 2000  # characters of a text on a form, at most
CATEGORIES = 100  # categories of an answer, at most
CLIP = 1024  # characters of a clip's id, at most
ID = 2 * CLIP + 1  # characters of the id of a pair, person or category, at most


def _utc(value: str) -> str:
    try:
        known = datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"should be a time in UTC such as 2026-11-28T09:30:00Z, not {value!r:.80}")
    return value


Score = Annotated[int, Strict(), Field(ge=LOWEST, le=HIGHEST)]
Clip = Annotated[str, Field(max_length=CLIP, pattern=r"\S")]
PairId = Annotated[str, Field(max_length=ID, pattern=r"\S")]
Name = Annotated[str, Field(min_length=1, max_length=ID)]
Text = Annotated[str, Field(max_length=10_000)]
Seconds = Annotated[float, Strict(), Field(ge=0, le=366 * 24 * 3600, allow_inf_nan=False)]
Time = Annotated[str, Field(max_length=40), AfterValidator(_utc)]


@dataclass(frozen=True)
class Category:
    """What people compare: its published name, its title on the form, and the criteria of each score."""

    name: str
    title: str
    rubric: Mapping[int, tuple[str, ...]]


@with_config(extra="forbid")
@dataclass(frozen=True)
class Difference:
    """How two clips differ in a category: 5 = not different, 1 = very different."""

    text: Text
    score: Score


@with_config(extra="forbid")
@dataclass(frozen=True)
class Answer:
    """What one person answered about one pair. `answer_of` checks it."""

    pair: PairId
    reference: Clip
    candidate: Clip
    annotator: Name
    keystep: Text
    differences: Annotated[dict[Name, Difference], Field(max_length=CATEGORIES)]
    rejected: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    left: Side | None = None
    seconds: Seconds | None = None
    submitted: Time | None = None
    kind: Kind = "work"

    @property
    def shown(self) -> tuple[str, str]:
        """The left and the right clip: a text says how the right one differs from the left one."""
        return (self.candidate, self.reference) if self.left == "candidate" else (self.reference, self.candidate)

    @property
    def time(self) -> datetime:
        """When it was submitted; the earliest time if that is not recorded."""
        return datetime.min.replace(tzinfo=UTC) if self.submitted is None else datetime.fromisoformat(self.submitted)


def two_clips(pair: Any) -> Any:
    """Return a pair or answer. ValueError: both of its clips are one."""
    if pair.reference == pair.candidate:
        raise ValueError(f"pairs {pair.reference!r:.80} with itself; remove it")
    return pair


_ANSWER = TypeAdapter(Annotated[Answer, AfterValidator(two_clips)]).validate_python


def answer_of(keys: Any, where: str = "") -> Answer:
    """Return the answer in a JSON object. StepDiffError: `where`, and the key and what it should be, in one line."""
    return checked(_ANSWER, keys, where)


@dataclass(frozen=True)
class Form:
    """What people fill in about a pair: a keystep, for each category a text and a score, or a reason to reject."""

    categories: tuple[Category, ...]
    keystep_words: int = 10  # words of a keystep, at most
    reject_reasons: tuple[str, ...] = REJECT_REASONS
    instructions: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    def filled(
        self, keystep: str, texts: Mapping[str, str], scores: Mapping[str, Any], rejected: str | None
    ) -> dict[str, Any]:
        """Return what was filled in, as keys of an answer.

        A text that was left empty means score 5. A category with neither text nor score, or with words and no score,
        has no score that somebody chose: it is left out.
        """
        scores = {name: HIGHEST for name, text in texts.items() if not text.strip()} | dict(scores)
        order = [name for name in self.names if name in scores]
        names = dict.fromkeys([*order, *scores]) if rejected is None else ()
        differences = {name: {"text": texts.get(name, "").strip(), "score": scores[name]} for name in names}
        return {"keystep": " ".join(keystep.split()), "differences": differences, "rejected": rejected}

    def problems(self, answer: Answer) -> list[str]:
        """Return what is wrong with an answer, as sentences for the person who answered; empty if nothing is."""
        return [sentence for _, sentence in self.faults(answer)]

    def faults(self, answer: Answer) -> Iterator[tuple[str, str]]:
        """Yield each of `problems` with its field: rejected, keystep, or `category` and its name.

        An answer that rejects its pair needs only a reason.
        """
        if answer.rejected is not None:
            if answer.rejected not in self.reject_reasons:
                yield "rejected", f"Choose one of the reasons to reject a pair: {', '.join(self.reject_reasons)}."
            return
        words = len(answer.keystep.split())
        if not words:
            yield "keystep", f"Write the keystep that both clips show, in at most {self.keystep_words} words."
        elif words > self.keystep_words:
            yield "keystep", f"The keystep has {words} words; write at most {self.keystep_words}."
        elif not fits(answer.keystep):
            yield "keystep", f"The keystep has at most {FORM_TEXT:,} characters, and no NUL."
        for category in self.categories:
            difference, field = answer.differences.get(category.name), f"category {category.name}"
            if difference is None:
                yield field, f"{category.title}: choose a score from 1 (very different) to 5 (not different)."
            elif difference.score < HIGHEST and not difference.text.strip():
                yield field, f"{category.title}: describe the difference, or choose score 5 (not different)."
            elif not fits(difference.text):
                yield field, f"{category.title}: write at most {FORM_TEXT:,} characters, and no NUL."
        for name in answer.differences:
            if name not in self.names:
                yield f"category {name}", f"{name} is not a category of the task."


def fits(text: str) -> bool:
    """Return whether a form and every database take a text."""
    return len(text) <= FORM_TEXT and "\0" not in text
