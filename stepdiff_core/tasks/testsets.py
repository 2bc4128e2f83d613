"""Test sets of the three published tasks, and files of predictions with one line per row.

    diffcap    {"reference": clip, "candidate": clip, "category": str, "text": [str, ...]}
    diffmcq    {"difference": str, "category": str, "options": [[clip, clip], ...4], "answer":
               [clip, clip]}
    diffrank   {"reference": clip, "targets": [clip, ...], "category": str, "scores": [int, ...]}
    A diffcap row with `"text": []` is a pair that does not differ in its category.
    A clip id is any text that is not empty; the published ones are <video_uid>_<start>_<end>, in
    seconds.
    predictions: {"generated_text": str} for diffcap, {"scores": [float, ...]} for the others
    A diffcap prediction may have "similar": log p(YES) - log p(NO) that the two clips are similar
    in the category.

Guarantees
- written files read back equal
- every row that is read can be scored
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.io.jsonl import object_line, read_objects, write_objects

Task = Literal["diffcap", "diffmcq", "diffrank"]
Clip = Annotated[str, Field(min_length=1)]
Pair = tuple[Clip, Clip]
Prediction = str | Sequence[float | int]
CATEGORIES = ("Ingredients", "Tools/Equipment", "Technique", "Actions", "Visuals")
"""categories of the paper; test sets may have others"""
OPTIONS = 4
HIGHEST_SCORE = 5
TARGETS = 4
"""of a published DiffRank row"""
OTHER_STEP = 3 * (0,) + 10 * (1,) + 7 * (2,)
"""numbers of targets of another step of 20 references, as published: 85 % have some, 30 % of all
targets are"""

_SECONDS = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_CLIP = re.compile(rf"(.+)_({_SECONDS})_({_SECONDS})")


@dataclass(frozen=True)
class DiffCap:
    """Describe how the candidate differs from the reference in a category; `text` holds the human
    answers."""

    reference: Clip
    candidate: Clip
    category: str
    text: tuple[str, ...]


@dataclass(frozen=True)
class DiffMCQ:
    """Choose which of four (reference, candidate) pairs shows the difference."""

    difference: str
    category: str
    options: Annotated[tuple[Pair, ...], Field(min_length=OPTIONS, max_length=OPTIONS)]
    answer: Pair


@dataclass(frozen=True)
class DiffRank:
    """Rank the targets by similarity to the reference: 5 = most similar, 0 = a clip of another
    step."""

    reference: Clip
    targets: Annotated[tuple[Clip, ...], Field(min_length=1)]
    category: str
    scores: tuple[Annotated[int, Field(strict=True, ge=0, le=HIGHEST_SCORE)], ...]


Row = DiffCap | DiffMCQ | DiffRank
ROWS: dict[Task, type[Row]] = {"diffcap": DiffCap, "diffmcq": DiffMCQ, "diffrank": DiffRank}
_FIELDS: dict[str, Task] = {"options": "diffmcq", "targets": "diffrank", "candidate": "diffcap"}
"""field that only rows of one task have -> the task"""


def parts_of(clip: str) -> tuple[str, str, str] | None:
    """Return (video_uid, start, end) of a published clip id, the seconds as text; None for an id of
    another form.

    Video uids may contain `_` and `-`.
    """
    match = _CLIP.fullmatch(clip)
    return None if match is None else (match[1], match[2], match[3])


def split_clip(clip: str) -> tuple[str, str, str]:
    """Return the parts of a published clip id, as `parts_of`. StepDiffError: an id of another
    form."""
    if (parts := parts_of(clip)) is None:
        raise StepDiffError(f"{clip!r} is not a clip id <video_uid>_<start>_<end>")
    return parts


def video_of(clip: str) -> str:
    """Return the video that a clip's id names; a clip with an id of another form counts as a video
    of its own."""
    parts = parts_of(clip)
    return clip if parts is None else parts[0]


def reference_video(row: Row) -> str:
    """Return the video of a row's reference clip; in DiffMCQ, the reference of the answer."""
    return video_of(row.answer[0] if isinstance(row, DiffMCQ) else row.reference)


def clips_of(row: Any) -> list[str]:
    """Return the clips of a row of a published task or of a benchmark in its order, with
    repetitions."""
    if not isinstance(row, Row):
        return list(row.clips)
    if isinstance(row, DiffMCQ):
        return [clip for pair in row.options for clip in pair]
    return [row.reference, *(row.targets if isinstance(row, DiffRank) else [row.candidate])]


def answers_of(row: Any) -> int:
    """Return how many scores answer a row: one for each of its options or targets; 0: a text
    answers it."""
    return len(getattr(row, "options", ()) or getattr(row, "targets", ()))


def published_task(name: object) -> Task | None:
    """Return the published task of that name, None for another."""
    return next((task for task in ROWS if task == name), None)


def task_of(path: str | Path) -> Task:
    """Return the task of a test set, by the fields of its first row."""
    for _, row in read_objects(path):
        for name, task in _FIELDS.items():
            if name in row:
                return task
        break
    raise StepDiffError(
        f"{path}: not a test set, its rows have none of {', '.join(_FIELDS)}; name a published "
        "test set"
    )


def read_test_set(task: Task, path: str | Path) -> list[Any]:
    """Return rows of the task's class in the order of the file."""
    rows = [
        checked(_ROWS[task].validate_python, line, f"{place}: ")
        for place, line in read_objects(path)
    ]
    if not rows:
        raise StepDiffError(f"{path}: has no rows")
    return rows


def drawn(rows: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """Draw `count` rows and return them in file order."""
    places = rng.permutation(len(rows))[:count]
    return [rows[i] for i in sorted(places)]


def digest(rows: Sequence[Any]) -> str:
    """Return a sha256 of the rows' content, independent of the formatting of their file."""
    return hashlib.sha256(json.dumps([asdict(row) for row in rows]).encode()).hexdigest()


def write_test_set(task: Task, path: str | Path, rows: Sequence[Row]) -> None:
    """Write one line per row. Raises StepDiffError for a row of another task."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, ROWS[task]):
            raise StepDiffError(f"{path}:{number}: a {type(row).__name__} is not a row of {task}")
    write_objects(path, (asdict(row) for row in rows))


def read_predictions(task: Task, path: str | Path, rows: Sequence[Row]) -> list[Any]:
    """Return one prediction per row: str for diffcap, a list of finite floats for the others."""
    return read_with_similar(task, path, rows)[0]


def read_with_similar(
    task: Task, path: str | Path, rows: Sequence[Row]
) -> tuple[list[Any], list[float] | None]:
    """Return one prediction per row, and the numbers "similar" of captions, None if no line has
    one."""
    predictions: list[Any] = []
    similar: list[float] = []
    for place, line in read_objects(path):
        if len(predictions) == len(rows):
            raise StepDiffError(
                f"{place}: the test set ends before this line, after {len(rows)} rows"
            )
        try:
            predictions.append(prediction_of(rows[len(predictions)], line))
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from error
        if task == "diffcap":
            if "similar" in line:
                similar.append(
                    checked(_NUMBER.validate_python, line["similar"], f"{place}: similar ")
                )
            if len(similar) not in (0, len(predictions)):
                raise StepDiffError(
                    f"{place}: some lines have 'similar' and others do not; evaluate again"
                )
    if (count := len(predictions)) < len(rows):
        raise StepDiffError(
            f"{path}:{count + 1}: no such line: {count} predictions for {len(rows)} rows of the "
            "test set"
        )
    return predictions, similar or None


def write_predictions(
    task: Task,
    path: str | Path,
    predictions: Sequence[Prediction],
    similar: Sequence[float] | None = None,
) -> None:
    """Write one line per prediction, with its number "similar" if given. StepDiffError as
    `prediction_line`."""
    lines = []
    for number, prediction in enumerate(predictions, 1):
        try:
            if isinstance(prediction, str) != (task == "diffcap"):
                raise StepDiffError(f"{type(prediction).__name__} is no prediction of {task}")
            lines.append(
                prediction_line(
                    prediction, {} if similar is None else {"similar": similar[number - 1]}
                )
            )
        except StepDiffError as error:
            raise StepDiffError(f"{path}:{number}: {error}") from error
    write_text(Path(path), "".join(lines))


def prediction_line(prediction: Prediction, more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return a line of a predictions file with its end. Raises StepDiffError for another form, NaN
    or infinity."""
    key = _TEXT if isinstance(prediction, str) else _SCORES
    return object_line({key: _value(key, prediction), **more})


def prediction_of(row: Any, line: Mapping[str, Any]) -> Prediction:
    """Return the prediction in a line of a predictions file. Raises StepDiffError if it does not
    fit its row."""
    if (key := _key(row)) not in line:
        raise StepDiffError(
            f"the row has no {key!r}, only {', '.join(map(repr, line)) or 'nothing'}"
        )
    return check_prediction(row, line[key])


def check_prediction(row: Any, prediction: Any) -> Prediction:
    """Return the prediction as a text or a list of floats. Raises StepDiffError if it does not fit
    the row."""
    value = _value(_key(row), prediction)
    if (count := answers_of(row)) and len(value) != count:
        raise StepDiffError(f"{len(value)} scores for a row that needs {count}")
    return value


def _key(row: Any) -> str:
    return _SCORES if answers_of(row) else _TEXT


def _value(key: str, prediction: Any) -> Prediction:
    return checked(_VALUES[key].validate_python, prediction, f"{key} ")


def _is_answerable(row: Row) -> Row:
    """Return a row whose fields fit one another. ValueError: they do not."""
    if isinstance(row, DiffCap) and row.reference == row.candidate:
        raise ValueError(f"the row pairs {row.reference} with itself; remove it")
    if isinstance(row, DiffMCQ):
        if row.answer not in row.options:
            raise ValueError("'answer' is not one of the options")
        if len(set(row.options)) == 1:
            raise ValueError("all options are the same pair: nothing to choose from")
        if not row.difference.strip():
            raise ValueError("difference is empty: nothing tells the options apart")
    if isinstance(row, DiffRank) and len(row.scores) != len(row.targets):
        raise ValueError(f"{len(row.scores)} scores for {len(row.targets)} targets")
    return row


_ROWS: dict[Task, TypeAdapter[Any]] = {
    "diffcap": TypeAdapter(Annotated[DiffCap, AfterValidator(_is_answerable)]),
    "diffmcq": TypeAdapter(Annotated[DiffMCQ, AfterValidator(_is_answerable)]),
    "diffrank": TypeAdapter(Annotated[DiffRank, AfterValidator(_is_answerable)]),
}
_NUMBER = TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False)])
_TEXT, _SCORES = "generated_text", "scores"
_VALUES: dict[str, TypeAdapter[Any]] = {
    _TEXT: TypeAdapter(Annotated[str, Field(strict=True)]),
    _SCORES: TypeAdapter(list[Annotated[float, Field(strict=True, allow_inf_nan=False)]]),
}
