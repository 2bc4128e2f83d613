"""CrossVid (AAAI 2026): Culinary Comparison and Procedural Error Analysis, questions about several
videos.

A folder holds QA/CC.json and QA/PEA.json of the authors' data: lists of {id, videos [path, ...],
question, options ["A. text", ...], answer "A"}, in PEA with begin [seconds, ...] and end [seconds,
...], one for each video. A row's key is its id in JSON. A clip's id is the path of its video
without the suffix; in PEA, with _<begin>_<end>.

As in the authors' evaluation, PEA's times are cut to whole seconds, and the four kinds of its
errors precede the question. A segment without a whole second is left out and counted. A method
chooses by the likelihood of each option, without its letter; the authors' models write a letter.

Intervals draw groups of questions: those that share a video, directly or through other questions,
are one group.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import write_text
from stepdiff_core.tasks.benchmarks.figures import (
    chosen,
    groups_of,
    score_choices,
    scores_of,
    truths_of,
)
from stepdiff_core.tasks.benchmarks.rows import BenchmarkRow, Choice, Text, check_keys, read_entries
from stepdiff_core.tasks.bootstrap import Resamples
from stepdiff_core.tasks.registry import ClipFile, TaskData, TaskSpec, published
from stepdiff_core.tasks.testsets import Prediction

Name = Literal["CC", "PEA"]
VIDEOS = "videos/"
"""folder of the authors' videos, next to QA"""
SOURCE = "the folder QA of the data set Chuntianli/CrossVid on Hugging Face"
ERRORS = (
    "Actions of an assembly can be wrong in four ways. Wrong order: the action comes too early or "
    "too late. Previous one is mistake: it is out of order because an action before it is. "
    "Shouldn't have happened: the assembly does not need it. Wrong position: the parts are joined "
    "in a wrong place."
)
"""precedes the questions of PEA"""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"\(?([A-Z])[.):]\s*(\S.*)", re.DOTALL)


def without_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Return options without the letters that name them: "A. text" becomes "text". If no option has
    a letter, they are named A, B, ... by their places. ValueError: letters other than A, B, ... in
    order."""
    texts = [option.strip() for option in options]
    named = list(filter(None, map(_LETTER.fullmatch, texts)))
    if named and [one[1] for one in named] != list(LETTERS[: len(texts)]):
        raise ValueError(f"holds {options!r:.80}, whose letters are not A, B, ... in order")
    return tuple(one[2] for one in named) or tuple(texts)


def _path(path: str) -> str:
    if not PurePosixPath(path).stem:
        raise ValueError(f"is {path!r}, not the path of a file")
    return path


def _whole_second(time: Any) -> int:
    try:
        return int(time)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"is {time!r:.60}, not a number of seconds") from None


_Seconds = list[Annotated[int, BeforeValidator(_whole_second), Field(ge=0)]]


class _Question(BaseModel):
    id: StrictInt | StrictStr
    videos: Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], Field(min_length=1)]
    question: Text
    options: Annotated[
        tuple[Text, ...], Field(min_length=2, max_length=26), AfterValidator(without_letters)
    ]
    answer: str

    @model_validator(mode="after")
    def _fits(self) -> "_Question":
        letters = list(LETTERS[: len(self.options)])
        if self.answer not in letters:
            raise ValueError(f"answer is {self.answer!r:.60}, not one of {', '.join(letters)}")
        return self


class _TimedQuestion(_Question):
    begin: _Seconds
    end: _Seconds

    @model_validator(mode="after")
    def _one_time_for_each(self) -> "_TimedQuestion":
        for edge, times in (("begin", self.begin), ("end", self.end)):
            if len(times) != len(self.videos):
                raise ValueError(f"{edge} has {len(times)} times for {len(self.videos)} videos")
        return self


class QuestionTruth(NamedTuple):
    """The truth that a question is scored against."""

    answer: int
    """position of the right option"""
    videos: tuple[str, ...]
    """files of its videos"""


def _questions(path: Path, name: Name) -> Iterator[tuple[_Question, tuple[ClipFile, ...] | None]]:
    """Yield each question with its clips, None if one of its segments has no whole second."""
    model = _TimedQuestion if name == "PEA" else _Question
    for question in read_entries(path, SOURCE, "question", model.model_validate):
        clips = [
            ClipFile(str(PurePosixPath(file).with_suffix("")), VIDEOS + file)
            for file in question.videos
        ]
        if not isinstance(question, _TimedQuestion):
            yield question, tuple(clips)
            continue
        times = list(zip(question.begin, question.end, strict=True))
        segments = tuple(
            replace(clip, clip=f"{clip.clip}_{begin}_{end}", start=float(begin), end=float(end))
            for clip, (begin, end) in zip(clips, times, strict=True)
        )
        yield question, segments if all(begin < end for begin, end in times) else None


def read(folder: Path, name: Name) -> TaskData:
    """Read the questions of a task."""
    path = folder / "QA" / f"{name}.json"
    rows, truth, left_out = [], {}, 0
    for question, shown in _questions(path, name):
        if shown is None:
            left_out += 1
            continue
        text = f"{ERRORS if name == 'PEA' else ''} {question.question.strip()}".strip()
        rows.append(
            Choice(
                json.dumps(question.id), tuple(clip.clip for clip in shown), text, question.options
            )
        )
        truth[rows[-1].key] = QuestionTruth(LETTERS.index(question.answer), question.videos)
    if not rows:
        raise StepDiffError(
            f"{path}: none of its {left_out} questions can be asked; get it again from {SOURCE}"
        )
    check_keys(rows, str(path))
    notes = ["the options' likelihoods decide, not a written letter"]
    if left_out:
        notes.append(f"left out: {left_out} questions with a segment without a whole second")
    return TaskData(rows, truth, tuple(notes))


def clips(folder: Path, name: Name) -> Iterator[ClipFile]:
    """Yield the clips of a task's questions, each once. StepDiffError: also for two files with one
    id."""
    path = folder / "QA" / f"{name}.json"
    by_id: dict[str, ClipFile] = {}
    for clip in (clip for _, shown in _questions(path, name) for clip in shown or ()):
        if (other := by_id.setdefault(clip.clip, clip)) is clip:
            yield clip
        elif other.video != clip.video:
            raise StepDiffError(
                f"{path}: {other.video} and {clip.video} have one id; rename one of the files"
            )


def _score(
    name: str,
    rows: Sequence[Choice],
    predictions: Sequence[Prediction],
    truth: Mapping[str, QuestionTruth],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    truths = truths_of(rows, truth)
    draws = Resamples(groups_of([question.videos for question in truths]), bootstrap, seed)
    return score_choices(name, rows, predictions, [question.answer for question in truths], draws)


def export(
    name: Name,
    _: Path,
    rows: Sequence[BenchmarkRow],
    predictions: Sequence[Prediction | None],
    folder: Path,
) -> list[Path]:
    """Write {"id", "answer": letter} of each row with a prediction, the most likely option; the
    first of those that tie."""
    answered = [
        (row, option_scores)
        for row, option_scores in zip(rows, predictions, strict=True)
        if option_scores is not None
    ]
    scores = scores_of(*map(list, zip(*answered, strict=True)))
    entries = [
        {"id": json.loads(row.key), "answer": LETTERS[chosen(option_scores)]}
        for (row, _), option_scores in zip(answered, scores, strict=True)
    ]
    path = folder / f"{name}_result.json"
    write_text(path, json.dumps(entries, indent=4) + "\n")
    return [path]


def _benchmark(name: Name, title: str) -> TaskSpec:
    task = f"crossvid-{name.lower()}"
    return TaskSpec(
        name=task,
        title=f"CrossVid {name}: {title}",
        figures={"accuracy": "accuracy", "C.Avg": "mean of BU, NC, CC, PEA"},
        read=partial(read, name=name),
        score=partial(_score, task),
        clips=partial(clips, name=name),
        export=partial(export, name),
        published=published("crossvid"),
        licence="questions: CC BY 4.0; videos: the licences of YouCook2 and Assembly101",
    )


CC = _benchmark("CC", "Culinary Comparison")
PEA = _benchmark("PEA", "Procedural Error Analysis")
