"""The form that people fill in about a pair of clips (Fig. S2, Fig. S3), and annotation tasks,
which have one.

`Form` is the one description of it: the annotation page shows it, answers are made and checked by
it, Label Studio gets it as a labelling configuration, and exports and statistics have its
categories. An answer as JSON:

    {"pair": id, "reference": clip, "candidate": clip, "annotator": str, "keystep": str,
     "differences": {category: {"text": str, "score": 1 to 5}}, "rejected": null or the reason,
     "left": "reference" or "candidate", "seconds": float, "submitted": ISO time in UTC,
     "kind": "work", "gold", "training" or "adjudication"}

Scores: 5 = not different, 1 = very different. A text says how the right video differs from the left
one. `left`, `seconds` and `submitted` are null if another tool did not record them. An
adjudication decides where people disagree; it wins in exports and does not count in agreement.

A task is a YAML file that says which pairs are annotated, by how many people and in which
categories. docs/guides/annotation.md shows one with all keys; `Task` has their defaults. Only
`pairs` is required: CSV or Parquet with reference and candidate, also id and step, or a file of
stepdiff annotate pairs. Paths are relative to the YAML file. A line of gold or training is
{"reference", "candidate", "scores": {category: 1 to 5}}, also with "id", "step" and "feedback".

Guarantees
- an error names the file and the key, or the line
- a pair is annotated once: no pair comes twice, in either order, in pairs, gold and training
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Strict,
    TypeAdapter,
    with_config,
)

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io import yaml_file
from stepdiff_core.io.files import open_regular
from stepdiff_core.io.jsonl import read_objects

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
        is_utc = datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except ValueError:
        is_utc = False
    if not is_utc:
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
    """A category of differences: its published name, its title on the form, and the criteria of
    each score."""

    name: str
    title: str
    rubric: Mapping[int, tuple[str, ...]]


@with_config(extra="forbid")
@dataclass(frozen=True)
class Judgement:
    """How two clips differ in a category: 5 = not different, 1 = very different."""

    text: Text
    score: Score


@with_config(extra="forbid")
@dataclass(frozen=True)
class Answer:
    """The answer of one person about one pair. `answer_of` checks it."""

    pair: PairId
    reference: Clip
    candidate: Clip
    annotator: Name
    keystep: Text
    differences: Annotated[dict[Name, Judgement], Field(max_length=CATEGORIES)]
    rejected: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    left: Side | None = None
    seconds: Seconds | None = None
    submitted: Time | None = None
    kind: Kind = "work"

    @property
    def shown(self) -> tuple[str, str]:
        """The left and the right clip: a text says how the right one differs from the left one."""
        return (
            (self.candidate, self.reference)
            if self.left == "candidate"
            else (self.reference, self.candidate)
        )

    @property
    def time(self) -> datetime:
        """When it was submitted; the earliest time if that is not recorded."""
        return (
            datetime.min.replace(tzinfo=UTC)
            if self.submitted is None
            else datetime.fromisoformat(self.submitted)
        )


def two_clips(pair: Any) -> Any:
    """Return a pair or answer. ValueError: both of its clips are one."""
    if pair.reference == pair.candidate:
        raise ValueError(f"pairs {pair.reference!r:.80} with itself; remove it")
    return pair


_ANSWER = TypeAdapter(Annotated[Answer, AfterValidator(two_clips)]).validate_python


def answer_of(keys: Any, where: str = "") -> Answer:
    """Return the answer in a JSON object. StepDiffError: one line of `where`, the key and its
    expected form."""
    return checked(_ANSWER, keys, where)


# what XML cannot hold, and no form shows
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def _printed(text: str) -> str:
    if not text.strip() or _CONTROL.search(text):
        raise ValueError(f"should be a text, not {text!r:.80}")
    return text


def _different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [getattr(value, "name", value) for value in values]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"has {twice[0]!r:.80} twice; keep one")
    return values


Printed = Annotated[str, AfterValidator(_printed)]
Once = Annotated[tuple[Printed, ...], AfterValidator(_different)]
Whole = Annotated[int, Strict(), Field(ge=1, le=1000)]
Positive = Annotated[float, Strict(), Field(gt=0, le=1e6)]
Criteria = Annotated[Once, BeforeValidator(lambda rows: rows or ())]


@dataclass(frozen=True)
class Form:
    """A form about a pair: a keystep, for each category a text and a score, or a reason to
    reject."""

    categories: tuple[Category, ...]
    keystep_words: Whole = 9  # words of a keystep, at most: fewer than 10 (Fig. S2)
    reject_reasons: Annotated[Once, Field(min_length=1)] = REJECT_REASONS
    instructions: Printed = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    def filled(
        self,
        keystep: str,
        texts: Mapping[str, str],
        scores: Mapping[str, Any],
        rejected: str | None,
    ) -> dict[str, Any]:
        """Return the filled fields as keys of an answer.

        A text that was left empty means score 5. A category with neither text nor score, or with
        words and no score, has no score that somebody chose: it is left out.
        """
        scores = {name: HIGHEST for name, text in texts.items() if not text.strip()} | dict(scores)
        order = [name for name in self.names if name in scores]
        names = dict.fromkeys([*order, *scores]) if rejected is None else ()
        differences = {
            name: {"text": texts.get(name, "").strip(), "score": scores[name]} for name in names
        }
        return {
            "keystep": " ".join(keystep.split()),
            "differences": differences,
            "rejected": rejected,
        }

    def problems(self, answer: Answer) -> list[str]:
        """Return the faults of an answer, as sentences for the person who answered."""
        return [sentence for _, sentence in self.faults(answer)]

    def faults(self, answer: Answer) -> Iterator[tuple[str, str]]:
        """Yield each of `problems` with its field: rejected, keystep, or `category` and its name.

        An answer that rejects its pair needs only a reason.
        """
        if answer.rejected is not None:
            if answer.rejected not in self.reject_reasons:
                yield (
                    "rejected",
                    "Choose one of the reasons to reject a pair: "
                    f"{', '.join(self.reject_reasons)}.",
                )
            return
        words = len(answer.keystep.split())
        if not words:
            yield (
                "keystep",
                f"Write the keystep that both clips show, in at most {self.keystep_words} words.",
            )
        elif words > self.keystep_words:
            yield "keystep", f"The keystep has {words} words; write at most {self.keystep_words}."
        elif not fits(answer.keystep):
            yield "keystep", f"The keystep has at most {FORM_TEXT:,} characters, and no NUL."
        for category in self.categories:
            difference, field = answer.differences.get(category.name), f"category {category.name}"
            if difference is None:
                yield (
                    field,
                    f"{category.title}: choose a score from 1 (very different) to 5 (not "
                    "different).",
                )
            elif difference.score < HIGHEST and not difference.text.strip():
                yield (
                    field,
                    f"{category.title}: describe the difference, or choose score 5 (not "
                    "different).",
                )
            elif not fits(difference.text):
                yield (
                    field,
                    f"{category.title}: write at most {FORM_TEXT:,} characters, and no NUL.",
                )
        for name in answer.differences:
            if name not in self.names:
                yield f"category {name}", f"{name} is not a category of the task."


def fits(text: str) -> bool:
    """Return whether a form and every database take a text."""
    return len(text) <= FORM_TEXT and "\0" not in text


DEFAULTS = Path(__file__).parent / "rubric.yaml"
PAIRS = 2**20  # pairs of a file, at most
_WHOLE = 2**28  # bytes of a file that is read whole, at most


@with_config(extra="forbid")
@dataclass(frozen=True)
class Pair:
    """Two clips to compare. The id names the pair in every answer; by default it is both clips."""

    id: Annotated[str, Field(max_length=ID)]
    reference: Clip
    candidate: Clip
    step: str | None = None


@with_config(extra="forbid")
@dataclass(frozen=True)
class KnownPair(Pair):
    """A pair whose scores are known, and a text that explains them."""

    scores: Annotated[dict[str, Score], Field(min_length=1)] = field(kw_only=True)
    feedback: str = ""


@dataclass(frozen=True)
class KnownScores:
    """Pairs with known scores, and how far a score may be from the known one."""

    rows: tuple[KnownPair, ...] = ()
    tolerance: int = 1

    def agrees(self, true: int, score: int) -> bool:
        return abs(true - score) <= self.tolerance

    @cached_property
    def by_id(self) -> dict[str, KnownPair]:
        return {row.id: row for row in self.rows}


@with_config(extra="forbid")
@dataclass(frozen=True)
class AnnotationTask(Form):
    """A form, and the pairs about which people fill it in. `read_task` reads it from a file."""

    pairs: tuple[Pair, ...] = ()
    people: Whole = 3
    gold: KnownScores = KnownScores()
    gold_rate: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.1
    """share of gold pairs in a person's work, as long as there are some that the person has not
    seen"""
    training: KnownScores = KnownScores()
    timeout_minutes: Positive = 30.0
    person_mib: Positive = 64.0
    """most MiB of a person's changes in the database. A pair takes 1 to 3 KB as people type: 64 MiB
    are 20,000 pairs"""
    guidelines: str = ""  # more text of the guidelines page, as Markdown

    @cached_property
    def by_id(self) -> dict[str, Pair]:
        return {pair.id: pair for pair in (*self.pairs, *self.gold.rows, *self.training.rows)}

    @cached_property
    def clips(self) -> set[str]:
        return {clip for pair in self.by_id.values() for clip in (pair.reference, pair.candidate)}

    def knows(self, answer: Answer) -> bool:
        """Return whether an answer is about a pair of the task, with its clips."""
        pair = self.by_id.get(answer.pair)
        return pair is not None and (pair.reference, pair.candidate) == (
            answer.reference,
            answer.candidate,
        )

    def faults(self, answer: Answer) -> Iterator[tuple[str, str]]:
        """Yield first the fault of a pair that the task does not have, then the faults of the
        form."""
        if not self.knows(answer):
            yield "pair", f"The pair {answer.pair} with these two clips is not part of the task."
        yield from super().faults(answer)


class _Category(BaseModel, extra="forbid"):
    name: Printed
    title: Printed | None = None
    rubric: dict[Annotated[int, Field(ge=LOWEST, le=SCORES[-1])], Criteria] | None = None


class _KnownFile(BaseModel, extra="forbid"):
    file: Printed
    tolerance: Annotated[int, Strict(), Field(ge=0, le=SCORES[-1] - LOWEST)] = 1


_File = Annotated[
    _KnownFile, BeforeValidator(lambda value: {"file": value} if isinstance(value, str) else value)
]


class _Guidelines(BaseModel, extra="forbid"):
    text: Printed = ""
    file: Printed | None = None


_Given = Annotated[
    _Guidelines, BeforeValidator(lambda value: {"text": value} if isinstance(value, str) else value)
]
_GUIDELINES = TypeAdapter(Printed).validate_python


class _TaskKeys(BaseModel, extra="allow"):
    """The keys that a task does not have as they are."""

    pairs: Printed
    categories: Annotated[tuple[_Category, ...], Field(min_length=1), AfterValidator(_different)]
    gold: _File | None = None
    training: _File | None = None
    guidelines: _Given = _Guidelines()


_TASK = TypeAdapter(AnnotationTask).validate_python
_CATEGORIES = TypeAdapter(tuple[_Category, ...]).validate_python


def read_task(path: str | Path) -> AnnotationTask:
    """Read a task and the files that it names. StepDiffError: the file, the key or line, and the
    expected form."""
    keys, usual = yaml_file.read(path), yaml_file.read(DEFAULTS)
    file = checked(
        _TaskKeys.model_validate, usual | keys if isinstance(keys, dict) else keys, f"{path}: "
    )
    folder, usual_categories = (
        Path(path).parent,
        {category.name: category for category in defaults().categories},
    )
    categories = tuple(_category(category, usual_categories) for category in file.categories)
    names = [category.name for category in categories]
    guidelines = file.guidelines.text
    if file.guidelines.file is not None:
        place = folder / file.guidelines.file
        guidelines = checked(_GUIDELINES, read_text(place), f"{place}: ")
    made = {
        "categories": categories,
        "pairs": read_pairs(folder / file.pairs),
        "gold": _check(file.gold, folder, names),
        "training": _check(file.training, folder, names),
        "guidelines": guidelines,
    }
    task = checked(_TASK, (file.model_extra or {}) | made, f"{path}: ")
    _refuse_repetitions(task, path)
    return task


def defaults() -> Form:
    """Return the form with the scoring matrix of Fig. S3 and the instructions of Fig. S2."""
    keys = yaml_file.read(DEFAULTS)
    categories = checked(_CATEGORIES, keys["categories"], f"{DEFAULTS}: ")
    return Form(
        tuple(_category(category, {}) for category in categories), instructions=keys["instructions"]
    )


def plain(name: str) -> Category:
    return Category(name, name, dict.fromkeys(SCORES, ()))


def _category(keys: _Category, usual_categories: dict[str, Category]) -> Category:
    """Return a category; title and rubric that one of a default name does not state are the default
    ones."""
    usual = usual_categories.get(keys.name, plain(keys.name))
    rubric = (
        usual.rubric
        if keys.rubric is None
        else {score: keys.rubric.get(score, ()) for score in SCORES[::-1]}
    )
    return Category(keys.name, keys.title or usual.title, rubric)


def read_whole(path: str | Path) -> bytes:
    """Return the bytes of a file. StepDiffError: not a regular file, or larger than 256 MiB."""
    with open_regular(path) as file:
        data = file.read(_WHOLE + 1)
    if len(data) > _WHOLE:
        raise StepDiffError(f"{path}: larger than {_WHOLE:,} bytes; divide it into several files")
    return data


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, also one with a byte order mark. StepDiffError as
    `read_whole`, or not UTF-8."""
    try:
        return read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StepDiffError(
            f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def _check(keys: _KnownFile | None, folder: Path, categories: Sequence[str]) -> KnownScores:
    """Return pairs with known scores, and how far a score may be from the known one."""
    if keys is None:
        return KnownScores()
    path = folder / keys.file
    rows: list[KnownPair] = []
    for place, about in read_objects(path):
        row = checked(_KNOWN, about, f"{place}: ")
        if unknown := [name for name in row.scores if name not in categories]:
            why = (
                f"{unknown[0]!r:.80} is no category of the task; the categories are "
                f"{', '.join(categories)}"
            )
            raise StepDiffError(f"{place}: scores: {why}")
        rows.append(row)
    if not rows:
        raise StepDiffError(
            f"{path}: has no pairs; give one JSON object a line, or leave out its key"
        )
    return KnownScores(tuple(rows), keys.tolerance)


def _given(keys: Any) -> Any:
    """Leave out keys that are null, and add an empty id if there is none."""
    return {"id": ""} | {key: value for key, value in keys.items() if value is not None}


def _named(pair: Any) -> Any:
    return pair if pair.id.strip() else replace(pair, id=f"{pair.reference} {pair.candidate}")


_RULES = BeforeValidator(_given), AfterValidator(_named), AfterValidator(two_clips)
_PAIR = TypeAdapter(Annotated[Pair, *_RULES]).validate_python
_KNOWN = TypeAdapter(Annotated[KnownPair, *_RULES]).validate_python


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Return the pairs of a CSV or Parquet file, without pairs of different steps of stepdiff
    annotate pairs."""
    import polars as pl

    data = read_whole(path)
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(io.BytesIO(data))
        elif path.suffix == ".csv":
            frame = pl.read_csv(io.BytesIO(data), infer_schema=False)
        else:
            raise StepDiffError(f"{path}: is neither .csv nor .parquet; give pairs in one of these")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StepDiffError(
            f"{path}: cannot be read ({first_line(error)}); write the file again"
        ) from None
    if missing := [name for name in ("reference", "candidate") if name not in frame.columns]:
        columns = ", ".join(frame.columns[:8])
        raise StepDiffError(
            f"{path}: no column {missing[0]!r}; it has {columns}: give reference and candidate"
        )
    if "same_step" in frame.columns:  # of stepdiff annotate pairs
        frame = frame.filter(pl.col("same_step").cast(pl.String).str.to_lowercase() == "true")
        frame = (
            frame.with_columns(step=pl.col("reference_step"))
            if "reference_step" in frame.columns
            else frame
        )
    if not 0 < frame.height <= PAIRS:
        raise StepDiffError(f"{path}: has {frame.height:,} pairs to annotate; give 1 to {PAIRS:,}")
    present = [name for name in ("id", "reference", "candidate", "step") if name in frame.columns]
    rows = frame.select(pl.col(present).cast(pl.String)).iter_rows(named=True)
    return tuple(
        checked(_PAIR, row, f"{path}: pair {number}: ") for number, row in enumerate(rows, 1)
    )


def _refuse_repetitions(task: AnnotationTask, path: str | Path) -> None:
    """Raise StepDiffError if an id or the same two clips come twice in pairs, gold and training."""
    places: dict[str | frozenset[str], str] = {}
    for where, rows in (
        ("pairs", task.pairs),
        ("gold", task.gold.rows),
        ("training", task.training.rows),
    ):
        for pair in rows:
            both = frozenset((pair.reference, pair.candidate))
            if both in places:
                named = f"{pair.reference!r:.80} and {pair.candidate!r:.80}"
                raise StepDiffError(
                    f"{path}: {where}: {named} are in {places[both]} already; keep one, in any "
                    "order"
                )
            if pair.id in places:
                why = f"the id {pair.id!r} is in {places[pair.id]} already"
                raise StepDiffError(f"{path}: {where}: {why}; give another")
            places[pair.id] = places[both] = where
