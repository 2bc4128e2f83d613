"""Rows of benchmarks: questions to a method about clips, without the truth. Files of predictions,
and published files.

| row | a method returns | for instance |
| --- | --- | --- |
| Rating | one score: how similar two clips are in a concept | ConViS-Bench |
| Choice | one score for each option; the highest is its choice | VidDiffBench closed, CrossVid |
| Ranking | one score for each target, the best first | mistake-conditioned retrieval |
| Writing | a text | ViDiC-1K, VidDiffBench open |

A line of a file of predictions names its row by key, so lines may be in any order, and rows may
lack one:

    {"key": str, "scores": [float, ...]}, or for texts {"key": str, "generated_text": str}

Errors about published files name the file, the entry and where to get it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.tasks.testsets import Pair, Prediction, prediction_line, prediction_of

MOST_BYTES = 2**28
"""of a published file; the checklist of ViDiC-1K has 1.4 MB"""
Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""a text that is not blank"""
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Rating:
    """Rate how similar two clips are in a concept."""

    key: str
    """names the row within its benchmark"""
    clips: Pair
    concept: str
    """in the words of a question, e.g. "main action" """

    @property
    def reference(self) -> str:
        return self.clips[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """The other clip: a method that ranks clips rates it."""
        return self.clips[1:]

    @property
    def category(self) -> str:
        return self.concept


@dataclass(frozen=True)
class Choice:
    """Choose the answer to a question about clips."""

    key: str
    clips: tuple[str, ...]
    """Video 1, Video 2, ... of the question"""
    question: str
    options: tuple[str, ...]
    """whole answers, without letters"""
    about: str | None = None
    """a text that is truer of one clip than of the others, where option i says that it is clip i:
    embeddings can choose by it"""


@dataclass(frozen=True)
class Ranking:
    """Rank clips by how well each fits a reference clip in a concept."""

    key: str
    reference: str
    targets: tuple[str, ...]
    concept: str

    @property
    def clips(self) -> tuple[str, ...]:
        return (self.reference, *self.targets)

    @property
    def category(self) -> str:
        return self.concept


@dataclass(frozen=True)
class Writing:
    """Write a text about clips."""

    key: str
    clips: tuple[str, ...]
    """Video 1, Video 2, ... of the prompt"""
    prompt: str


BenchmarkRow = Rating | Choice | Ranking | Writing


def check_keys(rows: Sequence[BenchmarkRow], where: str) -> None:
    """Raise StepDiffError if two rows have one key. where: the file that they were read from."""
    if repeated := [key for key, count in Counter(row.key for row in rows).items() if count > 1]:
        raise StepDiffError(
            f"{where}: {repeated[0]!r} is there twice ({len(repeated)} such rows); fetch the "
            "published file again"
        )


def read_answers(
    path: str | Path, rows: Sequence[BenchmarkRow]
) -> tuple[list[Any], list[Prediction]]:
    """Return the rows that a file answers, in the order of the benchmark, and their predictions.

    StepDiffError: a fault in the file, a line of an unknown row, a second one of a row, or no
    lines.
    """
    row_of = {row.key: row for row in rows}
    by_key: dict[str, Prediction] = {}
    for place, line in read_objects(path):
        key = line.get("key")
        if not isinstance(key, str) or key not in row_of:
            raise StepDiffError(
                f"{place}: no row of the benchmark has the key {key!r}; is it of another benchmark?"
            )
        if key in by_key:
            raise StepDiffError(f"{place}: a second line of the row {key!r}; remove one of them")
        try:
            by_key[key] = prediction_of(row_of[key], line)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from error
    if not by_key:
        raise StepDiffError(f"{path}: has no predictions")
    answered = [row for row in rows if row.key in by_key]
    return answered, [by_key[row.key] for row in answered]


def write_answers(
    path: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction]
) -> None:
    """Write one line for each row. StepDiffError: a prediction of another form, NaN or infinity."""
    lines = (
        prediction_line(prediction, {"key": row.key})
        for row, prediction in zip(rows, predictions, strict=True)
    )
    write_text(path, "".join(lines))


def read_whole(path: Path, source: str) -> bytes:
    """Return the bytes of a published file. source: where to get it, for errors."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise StepDiffError(f"{path}: no such file; get it from {source}") from None
    except OSError as error:
        raise StepDiffError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    if len(data) > MOST_BYTES:
        raise StepDiffError(
            f"{path}: has more than {MOST_BYTES >> 20} MiB; get the published file from {source}"
        )
    return data


def read_json(path: Path, source: str) -> Any:
    """Return the content of a JSON file."""
    data = read_whole(path, source)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: not JSON ({error}); get it again from {source}") from None


def find(folder: Path, names: Sequence[str], source: str) -> Path:
    """Return the first of the files in a folder that exists. StepDiffError: none does."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise StepDiffError(f"{folder}: has no {' or '.join(names)}; get it from {source}")


def entry(validate: Callable[[Any], Entry], value: Any, place: str, source: str) -> Entry:
    """Return pydantic's value of an entry at a place of a published file, or of a whole file."""
    return checked(validate, value, f"{place}: ", f"; get the file again from {source}")


def read_entries(
    path: Path, source: str, what: str, validate: Callable[[Any], Entry]
) -> Iterator[Entry]:
    """Yield the entries of a JSON list as pydantic makes them; `what` names one of them, e.g.
    "question"."""
    entries = read_json(path, source)
    if not isinstance(entries, list) or not entries:
        raise StepDiffError(
            f"{path}: not a list with at least one {what}; get it again from {source}"
        )
    for number, value in enumerate(entries, 1):
        yield entry(validate, value, f"{path}: {what} {number}", source)
