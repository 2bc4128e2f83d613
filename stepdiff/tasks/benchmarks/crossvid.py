"""CrossVid (AAAI 2026): Culinary Comparison and Procedural Error Analysis, questions about several videos.

A folder holds QA/CC.json and QA/PEA.json of the authors' data: lists of {id, videos [path, ...], question,
options ["A. text", ...], answer "A"}, in PEA with begin [seconds, ...] and end [seconds, ...], one for each video.
A row's key is its id in JSON. A clip's id is the path of its video without the suffix; in PEA, with _<begin>_<end>.

As in the authors' evaluation, PEA's times are cut to whole seconds, and the four kinds of its errors precede the
question. A method chooses by the likelihood of each option, without its letter; the authors' models write a letter.

Intervals draw groups of questions: those that share a video, directly or through other questions, are one group.

Guarantees
- options_have_no_letters_and_the_answer_is_one_of_them
- a_segment_without_a_whole_second_is_left_out_and_counted
- an_export_has_the_ids_and_letters_of_the_published_file
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import write_text
from stepdiff.tasks.benchmarks.choosing import chosen, score_choices
from stepdiff.tasks.benchmarks.published_files import list_of, read_entries, text_of, value_of
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Choice, check_keys
from stepdiff.tasks.benchmarks.summary import groups_of, scores_of, truths_of
from stepdiff.tasks.spec import Asked, ClipFile, Published, TaskSpec
from stepdiff.tasks.testsets import Prediction

Name = Literal["CC", "PEA"]
VIDEOS = "videos/"
"""folder of the authors' videos, next to QA"""
SOURCE = "the folder QA of the data set Chuntianli/CrossVid on Hugging Face"
ERRORS = (
    "Actions of an assembly can be wrong in four ways. Wrong order: the action comes too early or too late. Previous "
    "one is mistake: it is out of order because an action before it is. Shouldn't have happened: the assembly does not "
    "need it. Wrong position: the parts are joined in a wrong place."
)
"""precedes the questions of PEA"""
_LETTER = re.compile(r"\(?([A-Z])[.):]\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True)
class Truth:
    """What a question is scored against."""

    answer: int
    """position of the right option"""
    videos: tuple[str, ...]
    """files of its videos"""


@dataclass(frozen=True)
class _Question:
    row: Choice
    truth: Truth
    clips: tuple[ClipFile, ...]


def path_of(folder: Path, name: Name) -> Path:
    """Return the published file of a task."""
    return folder / "QA" / f"{name}.json"


def read(folder: Path, name: Name) -> Asked:
    """Read the questions of a task. StepDiffError: the file is missing or damaged."""
    path = path_of(folder, name)
    questions, left_out = _questions(path, name)
    if not questions:
        raise StepDiffError(f"{path}: none of its {left_out} questions can be asked; get it again from {SOURCE}")
    rows = [question.row for question in questions]
    check_keys(rows, str(path))
    notes = ["the options' likelihoods decide, not a written letter"]
    if left_out:
        notes.append(f"left out: {left_out} questions with a segment without a whole second")
    return Asked(rows, {question.row.key: question.truth for question in questions}, tuple(notes))


def clips(folder: Path, name: Name) -> Iterator[ClipFile]:
    """Yield the clips of a task's questions, each once. StepDiffError: also for two files with one id."""
    path = path_of(folder, name)
    known: dict[str, ClipFile] = {}
    for question in _questions(path, name)[0]:
        for clip in question.clips:
            if (other := known.setdefault(clip.clip, clip)) is clip:
                yield clip
            elif other.video != clip.video:
                raise StepDiffError(f"{path}: {other.video} and {clip.video} have one id; rename one of the files")


def score(
    name: Name,
    rows: Sequence[Choice],
    predictions: Sequence[Prediction],
    truth: Mapping[str, Truth],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the accuracy and its interval; as TaskSpec.score."""
    own = truths_of(rows, truth)
    answers, groups = [one.answer for one in own], groups_of([one.videos for one in own])
    return score_choices(f"crossvid-{name.lower()}", rows, predictions, answers, groups, {}, {}, bootstrap, seed)


def export(
    name: Name, _: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction | None], folder: Path
) -> list[Path]:
    """Write {"id", "answer": letter} of each row with a prediction, the most likely option; the first of those that
    tie."""
    asked = [(row, own) for row, own in zip(rows, predictions, strict=True) if own is not None]
    scores = scores_of(*map(list, zip(*asked, strict=True)))
    found = [
        {"id": json.loads(row.key), "answer": letter_of(chosen(own))}
        for (row, _), own in zip(asked, scores, strict=True)
    ]
    path = folder / f"{name}_result.json"
    write_text(path, json.dumps(found, indent=4) + "\n")
    return [path]


def letter_of(option: int) -> str:
    """Return the letter of an option by its position."""
    return chr(ord("A") + option)


def _questions(path: Path, name: Name) -> tuple[list[_Question], int]:
    """Return the questions of a file, and the number of those left out."""
    found, left_out = [], 0
    for place, entry in read_entries(path, SOURCE, "question"):
        try:
            question = _question(entry, name)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}; get the file again from {SOURCE}") from error
        if question is None:
            left_out += 1
        else:
            found.append(question)
    return found, left_out


def _question(entry: dict[str, Any], name: Name) -> _Question | None:
    """Return a question, or None if one of its segments has no whole second."""
    key = value_of(entry, "id")
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise StepDiffError(f"'id' is {key!r:.60}, not a number or a text")
    files = list_of(entry, "videos")
    if not all(isinstance(file, str) and PurePosixPath(file).stem for file in files):
        raise StepDiffError(f"'videos' holds {files!r:.80}, not only paths of files")
    options = without_letters(list_of(entry, "options"))
    answer = text_of(entry, "answer")
    letters = [letter_of(option) for option in range(len(options))]
    if answer not in letters:
        raise StepDiffError(f"'answer' is {answer!r:.60}, not one of {', '.join(letters)}")
    question = text_of(entry, "question").strip()
    if name == "PEA":
        times = [_seconds(entry, edge, len(files)) for edge in ("begin", "end")]
        segments = list(zip(files, *times, strict=True))
        if any(begin >= end for _, begin, end in segments):
            return None
        shown = tuple(
            ClipFile(f"{_stem(file)}_{begin}_{end}", VIDEOS + file, float(begin), float(end))
            for file, begin, end in segments
        )
        question = f"{ERRORS} {question}"
    else:
        shown = tuple(ClipFile(_stem(file), VIDEOS + file) for file in files)
    row = Choice(json.dumps(key), tuple(clip.clip for clip in shown), question, options)
    return _Question(row, Truth(letters.index(answer), tuple(files)), shown)


def without_letters(options: Sequence[Any]) -> tuple[str, ...]:
    """Return options without the letters that name them: "A. text" becomes "text".

    Options of which none has a letter are named A, B, ... by their places, and are returned as they are.

    Raises:
        StepDiffError: Fewer than two options, not all texts, or letters other than A, B, ... in order.
    """
    if len(options) < 2 or not all(isinstance(option, str) and option.strip() for option in options):
        raise StepDiffError(f"'options' holds {options!r:.80}, not at least two texts")
    found = [_LETTER.fullmatch(option.strip()) for option in options]
    named = [one for one in found if one is not None]
    texts = tuple(one[2] for one in named) if named else tuple(option.strip() for option in options)
    if named and [one and one[1] for one in found] != [letter_of(option) for option in range(len(options))]:
        raise StepDiffError(f"'options' holds {options!r:.80}, whose letters are not A, B, ... in order")
    return texts


def _seconds(entry: dict[str, Any], edge: str, videos: int) -> list[int]:
    """Return times of all videos, cut to whole seconds."""
    times = list_of(entry, edge)
    if len(times) != videos:
        raise StepDiffError(f"{edge!r} has {len(times)} times for {videos} videos")
    try:
        seconds = [int(time) for time in times]
    except (TypeError, ValueError, OverflowError):
        raise StepDiffError(f"{edge!r} holds {times!r:.80}, not only seconds") from None
    if min(seconds) < 0:
        raise StepDiffError(f"{edge!r} holds {min(seconds)}, a negative time")
    return seconds


def _stem(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


_README = "README of github.com/chuntianli666/CrossVid: means over ten tasks (O.Avg) and over BU, NC, CC, PEA (C.Avg)"
PUBLISHED = tuple(
    Published(method, {"O.Avg": overall / 100, "C.Avg": comparative / 100}, _README)
    for method, overall, comparative in (
        ("Gemini-2.5-Pro", 50.4, 54.7),
        ("GPT-4.1", 45.2, 47.6),
        ("Doubao-1.5-VL-pro", 44.3, 53.8),
        ("GPT-4o", 36.8, 43.1),
        ("GLM-4.1V-9B-Thinking", 35.1, 44.7),
        ("Qwen2.5-VL-72B", 34.4, 42.1),
        ("LLaVA-Video-72B", 27.5, 33.9),
        ("InternVL3-8B", 25.6, 26.1),
        ("Qwen2.5-VL-7B", 18.3, 19.3),
        ("VideoLLaMA3-7B", 15.3, 20.8),
    )
)
"""Means over tasks; the authors' table has no accuracy of a single task."""


def _benchmark(name: Name, title: str) -> TaskSpec:
    scorer: Callable[..., dict[str, Any]] = partial(score, name)
    return TaskSpec(
        name=f"crossvid-{name.lower()}",
        title=f"CrossVid {name}: {title}",
        figures={"accuracy": "accuracy", "C.Avg": "mean of BU, NC, CC, PEA"},
        read=partial(read, name=name),
        score=scorer,
        clips=partial(clips, name=name),
        export=partial(export, name),
        published=PUBLISHED,
        licence="questions: CC BY 4.0; videos: the licences of YouCook2 and Assembly101",
    )


CC = _benchmark("CC", "Culinary Comparison")
PEA = _benchmark("PEA", "Procedural Error Analysis")
