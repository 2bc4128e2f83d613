"""Collected answers: one JSON object a line, one line for what one person answered about one pair.

    {"pair": id, "reference": clip, "candidate": clip, "annotator": str, "keystep": str,
     "differences": {category: {"text": str, "score": 1 to 5}}, "rejected": null or the reason,
     "left": "reference" or "candidate", "seconds": float, "submitted": ISO time in UTC,
     "kind": "work", "gold", "training" or "adjudication"}

Scores: 5 = not different, 1 = very different. A text says how the right video differs from the left one. `left`,
`seconds` and `submitted` are null where another tool did not record them. An adjudication decides where people
disagree; it wins in exports and does not count in agreement.

Guarantees
- written answers read back equal
- an error names the file and the line
- an answer that breaks a rule of Fig. S2 or S3 gets one sentence for each
- of several answers of one person about a pair the last one counts
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from annotate.people.files import read_lines
from annotate.people.pairs import ID, pair_of, usable
from annotate.people.task import HIGHEST, LOWEST, Task
from common.errors import StepDiffError
from common.io.files import write_pieces
from common.io.jsonl import object_line, parse_object

Kind = Literal["work", "gold", "training", "adjudication"]
KINDS: tuple[Kind, ...] = ("work", "gold", "training", "adjudication")
Side = Literal["reference", "candidate"]
SIDES: tuple[Side, ...] = ("reference", "candidate")
TEXT = 10_000
"""characters of a text, at most"""
FORM_TEXT = 2000
"""characters of a text on a form, at most"""
CATEGORIES = 100
"""categories of an answer, at most"""
_LONGEST = 366 * 24 * 3600.0  # seconds
_KEYS = ("pair", "reference", "candidate", "annotator", "keystep", "differences", "rejected", "left", "seconds")
KEYS = (*_KEYS, "submitted", "kind")


@dataclass(frozen=True)
class Difference:
    """How two clips differ in a category: 5 = not different, 1 = very different."""

    text: str
    score: int


@dataclass(frozen=True)
class Answer:
    """What one person answered about one pair. `answer_of` checks it."""

    pair: str
    reference: str
    candidate: str
    annotator: str
    keystep: str
    differences: Mapping[str, Difference]
    rejected: str | None = None
    left: Side | None = None
    seconds: float | None = None
    submitted: str | None = None
    kind: Kind = "work"

    @property
    def shown(self) -> tuple[str, str]:
        """The left and the right clip: a text says how the right one differs from the left one."""
        return (self.candidate, self.reference) if self.left == "candidate" else (self.reference, self.candidate)

    @property
    def time(self) -> datetime:
        """When it was submitted; the earliest time if that is not recorded."""
        return datetime.min.replace(tzinfo=UTC) if self.submitted is None else datetime.fromisoformat(self.submitted)


def answer_of(found: Any) -> Answer:
    """Return the answer in a JSON object.

    Raises:
        StepDiffError: One line that names the key and what it expects.
    """
    if not isinstance(found, dict):
        raise StepDiffError(f"an answer is an object, not {found!r:.80}")
    if unknown := [key for key in found if key not in KEYS]:
        raise StepDiffError(f"an answer has no key {unknown[0]!r:.80}; its keys are {', '.join(KEYS)}")
    if missing := [key for key in KEYS if key not in found]:
        raise StepDiffError(f"the answer has no {missing[0]!r}")
    pair = pair_of({"id": found["pair"], "reference": found["reference"], "candidate": found["candidate"]}, "pair")
    return Answer(
        pair=pair.id,
        reference=pair.reference,
        candidate=pair.candidate,
        annotator=_text(found["annotator"], "annotator", 1, ID),
        keystep=_text(found["keystep"], "keystep"),
        differences=_differences(found["differences"]),
        rejected=None if found["rejected"] is None else _text(found["rejected"], "rejected", 1),
        left=_one_of(found["left"], "left", (*SIDES, None)),
        seconds=_seconds(found["seconds"]),
        submitted=_time(found["submitted"]),
        kind=_one_of(found["kind"], "kind", KINDS),
    )


def _text(value: Any, name: str, least: int = 0, most: int = TEXT) -> str:
    if not isinstance(value, str):
        raise StepDiffError(f"{name}: expects a text, not {value!r:.80}")
    if not least <= len(value) <= most or not usable(value):
        raise StepDiffError(f"{name}: expects {least} to {most:,} characters of text, not {value!r:.80}")
    return value


def _one_of(value: Any, name: str, known: tuple[Any, ...]) -> Any:
    if value not in known:
        choices = ", ".join("null" if each is None else each for each in known)
        raise StepDiffError(f"{name}: expects one of {choices}, not {value!r:.80}")
    return value


def _differences(value: Any) -> dict[str, Difference]:
    if not isinstance(value, dict) or len(value) > CATEGORIES:
        raise StepDiffError(
            f"differences: expects up to {CATEGORIES} categories with text and score, not {value!r:.80}"
        )
    made = {}
    for name, each in value.items():
        where = f"differences: {name!r:.80}"
        if not isinstance(each, dict) or set(each) != {"text", "score"}:
            raise StepDiffError(f"{where}: expects text and score, not {each!r:.80}")
        score = each["score"]
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise StepDiffError(f"{where}: score: expects a whole number from {LOWEST} to {HIGHEST}, not {score!r:.80}")
        made[_text(name, "differences", 1, ID)] = Difference(_text(each["text"], f"{where}: text"), score)
    return made


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= _LONGEST:
        raise StepDiffError(f"seconds: expects a number of seconds, not {value!r:.80}")
    return float(value)


def _time(value: Any) -> str | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(_text(value, "submitted", 1, 40))
    except ValueError:
        found = None
    if found is None or found.utcoffset() != timedelta(0):
        raise StepDiffError(f"submitted: expects a time in UTC such as 2026-11-28T09:30:00Z, not {value!r:.80}")
    return str(value)


def problems(answer: Answer, task: Task) -> list[str]:
    """Return what is wrong with an answer to a task, as sentences for the person who answered; empty if nothing is.

    An answer that rejects its pair needs only a reason.
    """
    return [sentence for _, sentence in faults(answer, task)]


def faults(answer: Answer, task: Task) -> Iterator[tuple[str, str]]:
    """Yield each of `problems` with the field of the form: pair, rejected, keystep, or `category` and its name."""
    pair = task.by_id.get(answer.pair)
    if pair is None or (pair.reference, pair.candidate) != (answer.reference, answer.candidate):
        yield "pair", f"The pair {answer.pair} with these two clips is not part of the task."
    if answer.rejected is not None:
        if answer.rejected not in task.reject_reasons:
            yield "rejected", f"Choose one of the reasons to reject a pair: {', '.join(task.reject_reasons)}."
        return
    words = len(answer.keystep.split())
    if not words:
        yield "keystep", f"Write the keystep that both clips show, in at most {task.keystep_words} words."
    elif words > task.keystep_words:
        yield "keystep", f"The keystep has {words} words; write at most {task.keystep_words}."
    elif not fits(answer.keystep):
        yield "keystep", f"The keystep has at most {FORM_TEXT:,} characters, and no NUL."
    for category in task.categories:
        difference, field = answer.differences.get(category.name), f"category {category.name}"
        if difference is None:
            yield field, f"{category.title}: choose a score from 1 (very different) to 5 (not different)."
        elif difference.score < HIGHEST and not difference.text.strip():
            yield field, f"{category.title}: describe the difference, or choose score 5 (not different)."
        elif not fits(difference.text):
            yield field, f"{category.title}: write at most {FORM_TEXT:,} characters, and no NUL."
    for name in answer.differences:
        if name not in task.names:
            yield f"category {name}", f"{name} is not a category of the task."


def fits(text: str) -> bool:
    """Return whether a form and every database take a text."""
    return len(text) <= FORM_TEXT and "\0" not in text


def read_answers(path: str | Path) -> Iterator[Answer]:
    """Yield the answers of a file of JSON lines, one line in memory at a time.

    Raises:
        StepDiffError: One line with the file, the line and what it expects.
    """
    for number, line in read_lines(path):
        try:
            yield answer_of(parse_object(line))
        except StepDiffError as error:
            raise StepDiffError(f"{path}:{number}: {error}") from None


def answer_line(answer: Answer) -> str:
    """Return the line of an answer with its end, as the file of JSON lines has it."""
    return object_line(asdict(answer))


def write_answers(path: str | Path, answers: Iterable[Answer]) -> None:
    """Write one line an answer. The file appears whole or not at all."""
    write_pieces(Path(path), (answer_line(answer).encode() for answer in answers))


def latest(answers: Iterable[Answer]) -> list[Answer]:
    """Return the last answer of each person about each pair, by time and then by order in the file."""
    kept: dict[tuple[str, str, Kind], Answer] = {}
    for answer in answers:
        key = (answer.pair, answer.annotator, answer.kind)
        if key not in kept or answer.time >= kept[key].time:
            kept[key] = answer
    return list(kept.values())
