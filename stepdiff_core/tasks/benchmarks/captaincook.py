"""CaptainCook4D: in which of two videos a step is done with a mistake, and which video shows how it
is done right.

    captaincook-mistake            two recordings of one step, one with a mistake: in which video is
                                   it?
    captaincook-retrieval          a clip with a mistake; which of the clips done right, of the same
                                   recipe from other recordings, shows the same step? Finding the
                                   step is enough
    captaincook-retrieval-flawed   the same, with clips done with a mistake among the targets, all
                                   of them wrong: a clip with the same mistake may be nearer than
                                   one done right

Their authors publish no such tasks; the rows are made from their annotations by the rules here. A
folder holds annotation_json/error_annotations.json, a list of {recording_id, activity_id,
step_annotations [{step_id, description, start_time, end_time, errors? [{tag, description}],
modified_description?}]}, and data_splits/, whose files are {part: [recording_id, ...]} for the
parts train, val and test. Instead of the folder, one file of data_splits/ may be given: it decides
the parts; by default recordings_data_split_combined.json does.

A clip is a step with its times, <recording_id>_<start>_<end>, seconds as written. A step without
times is not a clip: a skipped one (-1), or one whose times are missing. A step whose description
was changed and that has no named error is neither right nor a mistake. All of these are counted.

Categories are the tags of mistakes; a clip with several mistakes counts in each of its tags.
Intervals draw recipes, because all rows of a recipe share recordings. A mistake in the order of the
steps is not seen in a clip of one step: `accuracy_without_order` leaves out clips that have no
other mistake, and they are no targets.

Guarantees
- the order of the two videos depends on their clips only
- targets are of the same recipe and other recordings
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictInt, TypeAdapter

from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.benchmarks.figures import (
    RANKING,
    Mask,
    score_choices,
    score_rankings,
    truths_of,
)
from stepdiff_core.tasks.benchmarks.rows import (
    Choice,
    Ranking,
    Text,
    check_keys,
    entry,
    read_entries,
    read_json,
)
from stepdiff_core.tasks.bootstrap import Resamples
from stepdiff_core.tasks.prompts import VIDEOS
from stepdiff_core.tasks.registry import ClipFile, TaskData, TaskSpec
from stepdiff_core.tasks.testsets import DiffCap, Prediction

SOURCE = "github.com/CaptainCook4D/annotations"
SPLIT = Path("data_splits", "recordings_data_split_combined.json")
QUESTION = 'The step is: "{step}". In which video is it done with a mistake?'
CONCEPT = "recipe step"
"""of rankings"""
CATEGORIES: dict[str, str | None] = {
    "Preparation": "Tools/Equipment",
    "Measurement": "Ingredients",
    "Order": None,
    "Timing": "Technique",
    "Technique": "Technique",
    "Temperature": "Technique",
    "Missing Step": "Actions",
    "Other": None,
}
"""tag of a mistake; the files add " Error" to most of them -> category of a difference; None: the
mistake is about other steps, or of no one kind"""
UNSEEN = ("Order",)
"""tags of a mistake that a clip of the step does not show"""
PART = "test"
SKIPPED = -1
_LICENCE = (
    "annotations: Apache-2.0 by their README, MIT by their LICENSE file; ask the authors before "
    "you redistribute"
)

_SPLIT = TypeAdapter(dict[str, list[str]])


def _seconds(time: Any) -> Any:
    """Return a time as written, None if it is missing."""
    if time is not None and (
        isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) < 1e9
    ):
        raise ValueError(f"is {time!r:.60}, not a number of seconds")
    return time


_Seconds = Annotated[Any, AfterValidator(_seconds)]


class Mistake(BaseModel):
    """A mistake in a step, in the words of a person."""

    tag: Annotated[
        Literal[tuple(CATEGORIES)],  # type: ignore[valid-type]
        BeforeValidator(lambda tag: tag.removesuffix(" Error") if isinstance(tag, str) else tag),
    ]
    description: Text


class _Annotation(BaseModel):
    step_id: StrictInt
    description: Text
    start_time: _Seconds = None
    end_time: _Seconds = None
    errors: tuple[Mistake, ...] = ()
    modified_description: Any = Field(default_factory=lambda keys: keys["description"])


class _Recording(BaseModel):
    recording_id: Text
    activity_id: StrictInt
    step_annotations: Annotated[list[_Annotation], Field(min_length=1)]


@dataclass(frozen=True)
class PerformedStep:
    """One performance of one step of a recipe; times in seconds."""

    recording: str
    recipe: str
    step_id: str
    description: str
    clip: str
    start: float
    end: float
    mistakes: tuple[Mistake, ...]
    """none: the step is done right"""

    @property
    def name(self) -> tuple[str, str, str]:
        """The identity of equal steps: a few step ids are of two recipes, or have a wrong
        description."""
        return self.recipe, self.step_id, self.description

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mistake.tag for mistake in self.mistakes))

    @property
    def instruction(self) -> str:
        """The description as a sentence: "Peel-Peel 1 garlic clove" and "Add-1 egg" become "Peel 1
        garlic clove" and "Add 1 egg"."""
        label, _, rest = (part.strip() for part in self.description.partition("-"))
        if not rest:
            return self.description.strip()
        return rest if label.lower() in rest.lower() else f"{label} {rest}"


@dataclass(frozen=True)
class Recorded:
    """The clips of a part of a split, in the order of the file."""

    steps: tuple[PerformedStep, ...]
    left_out: Mapping[str, int]
    """reason -> number of steps"""

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"left out: {count} {reason}" for reason, count in self.left_out.items())


@dataclass(frozen=True)
class MistakeTruth:
    """The truth that a row is scored against."""

    recipe: str
    tags: tuple[str, ...]
    """kinds of the mistakes"""
    answer: int = 0
    """position of the video with the mistake"""
    right: frozenset[str] = frozenset()
    """targets that show the step done right"""


def read_recorded(folder: Path, part: str = PART) -> Recorded:
    """Read the clips of a part (train, val or test) of a split. folder: of the annotations, or a
    file of its data_splits. StepDiffError: a file is missing or damaged, or the part has no
    recordings."""
    split = folder if folder.suffix == ".json" else folder / SPLIT
    recordings = entry(_SPLIT.validate_python, read_json(split, SOURCE), str(split), SOURCE).get(
        part
    )
    if not recordings:
        raise StepDiffError(
            f"{split}: {part!r} has no recordings; choose another file of {split.parent}"
        )
    path = split.parent.parent / "annotation_json" / "error_annotations.json"
    steps: list[PerformedStep] = []
    left_out: Counter[str] = Counter()
    unknown = dict.fromkeys(recordings)
    for recording in read_entries(path, SOURCE, "recording", _Recording.model_validate):
        if recording.recording_id not in recordings:
            continue
        unknown.pop(recording.recording_id, None)
        for number, annotation in enumerate(recording.step_annotations, 1):
            start, end = annotation.start_time, annotation.end_time
            if SKIPPED in (start, end):
                left_out["skipped steps"] += 1
            elif start is None or end is None:
                left_out["steps without times"] += 1
            elif not 0 <= start < end:
                raise StepDiffError(
                    f"{path}: recording {recording.recording_id}, step {number} is from {start} to "
                    f"{end} seconds; get the file again from {SOURCE}"
                )
            elif (
                not annotation.errors and annotation.modified_description != annotation.description
            ):
                left_out["steps with a changed description and no named error"] += 1
            else:
                clip = f"{recording.recording_id}_{start!r}_{end!r}"
                names = str(recording.activity_id), str(annotation.step_id), annotation.description
                times = float(start), float(end)
                steps.append(
                    PerformedStep(recording.recording_id, *names, clip, *times, annotation.errors)
                )
    if unknown:
        raise StepDiffError(
            f"{split}: {next(iter(unknown))!r} is not in {path}; get both files from {SOURCE}"
        )
    return Recorded(tuple(steps), dict(left_out))


def _alike(steps: Sequence[PerformedStep]) -> list[tuple[list[PerformedStep], list[PerformedStep]]]:
    """Return, for each step of a recipe, the performances done right and those with a mistake."""
    groups: dict[tuple[str, str, str], tuple[list[PerformedStep], list[PerformedStep]]] = {}
    for step in steps:
        groups.setdefault(step.name, ([], []))[bool(step.mistakes)].append(step)
    return list(groups.values())


def read_mistakes(folder: Path, part: str = PART) -> TaskData:
    """Return a question for each pair of a right and a flawed performance of a step in two
    recordings."""
    recorded = read_recorded(folder, part)
    rows: list[Choice] = []
    truth: dict[str, MistakeTruth] = {}
    for right, flawed in _alike(recorded.steps):
        for mistake, other in (
            (one, two) for one in flawed for two in right if one.recording != two.recording
        ):
            pair = [mistake.clip, other.clip]
            pair.sort(
                reverse=bool(
                    generator(0, "order of compared videos", " ".join(sorted(pair))).integers(2)
                )
            )
            key = f"{mistake.step_id} {' '.join(pair)}"
            rows.append(Choice(key, tuple(pair), QUESTION.format(step=mistake.instruction), VIDEOS))
            truth[key] = MistakeTruth(mistake.recipe, mistake.tags, pair.index(mistake.clip))
    return _asked(
        rows,
        truth,
        recorded.notes,
        f"{folder}: no step in {part!r} is done right and with a mistake",
    )


def read_retrieval(folder: Path, part: str = PART, flawed: bool = False) -> TaskData:
    """Return a ranking for each flawed performance of a step: of clips of the same recipe from
    other recordings.

    flawed: Rank flawed performances too, except those whose only mistake is the order of the steps.
    """
    recorded = read_recorded(folder, part)
    rows: list[Ranking] = []
    truth: dict[str, MistakeTruth] = {}
    without = 0
    for step in (step for step in recorded.steps if step.mistakes):
        others = [
            one
            for one in recorded.steps
            if one.recipe == step.recipe and one.recording != step.recording
        ]
        right = frozenset(one.clip for one in others if one.name == step.name and not one.mistakes)
        if not right:
            without += 1
            continue
        key = f"{step.step_id} {step.clip}"
        targets = (
            one.clip for one in others if not one.mistakes or (flawed and one.tags != UNSEEN)
        )
        rows.append(Ranking(key, step.clip, tuple(dict.fromkeys(targets)), CONCEPT))
        truth[key] = MistakeTruth(step.recipe, step.tags, right=right)
    notes = recorded.notes + (
        (f"left out: {without} mistakes whose step nobody does right",) if without else ()
    )
    return _asked(
        rows,
        truth,
        notes,
        f"{folder}: no step in {part!r} is done with a mistake and done right by others",
    )


def _asked(
    rows: Sequence[Choice] | Sequence[Ranking],
    truth: Mapping[str, MistakeTruth],
    notes: tuple[str, ...],
    nothing: str,
) -> TaskData:
    if not rows:
        raise StepDiffError(f"{nothing}; choose another file of data_splits")
    check_keys(rows, "step_annotations")
    return TaskData(list(rows), truth, notes)


def _score_mistakes(
    rows: Sequence[Choice],
    predictions: Sequence[Prediction],
    truth: Mapping[str, MistakeTruth],
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    truths = truths_of(rows, truth)
    answers = [mistake.answer for mistake in truths]
    draws = Resamples([mistake.recipe for mistake in truths], bootstrap, seed)
    seen = {"accuracy_without_order": np.array([mistake.tags != UNSEEN for mistake in truths])}
    return score_choices(
        "captaincook-mistake", rows, predictions, answers, draws, seen, _tags(truths)
    )


def _tags(truths: Sequence[MistakeTruth]) -> dict[str, Mask]:
    return {tag: np.array([tag in mistake.tags for mistake in truths]) for tag in CATEGORIES}


def diffcap_rows(folder: Path, part: str = PART) -> tuple[list[DiffCap], dict[str, int]]:
    """Return the mistakes as differences, and the numbers of those left out by reason.

    A flawed performance is the candidate of one row for each category of its mistakes; its
    reference is one of the right performances of the step in other recordings, drawn at random. The
    texts are the descriptions of the mistakes.
    """
    rows = []
    left_out: Counter[str] = Counter()
    for right, flawed in _alike(read_recorded(folder, part).steps):
        for step in flawed:
            texts: dict[str, list[str]] = {}
            for mistake in step.mistakes:
                if (category := CATEGORIES[mistake.tag]) is None:
                    left_out[f"mistakes of the kind {mistake.tag}"] += 1
                else:
                    texts.setdefault(category, []).append(mistake.description.strip())
            references = sorted(one.clip for one in right if one.recording != step.recording)
            if texts and not references:
                left_out["mistakes whose step nobody does right"] += sum(map(len, texts.values()))
            elif texts:
                drawn = generator(0, "right clip of a mistake", step.clip).integers(len(references))
                rows += [
                    DiffCap(references[drawn], step.clip, name, tuple(descriptions))
                    for name, descriptions in texts.items()
                ]
    return rows, dict(left_out)


def clips(folder: Path, read: Callable[[Path], TaskData]) -> Iterator[ClipFile]:
    """Yield the clips of the rows that `read` returns, each once, with their videos of 360
    lines."""
    remaining = {clip for row in read(folder).rows for clip in row.clips}
    for step in read_recorded(folder).steps:
        if step.clip in remaining:
            remaining.remove(step.clip)
            more = {"step": step.instruction, "step_id": step.step_id, "activity": step.recipe}
            yield ClipFile(step.clip, f"{step.recording}_360p.mp4", step.start, step.end, more)


MISTAKE = TaskSpec(
    name="captaincook-mistake",
    title="CaptainCook4D: the video with the mistake",
    figures={"accuracy": "accuracy", "accuracy_without_order": "without order"},
    read=read_mistakes,
    score=_score_mistakes,
    clips=partial(clips, read=read_mistakes),
    chance={"accuracy": 0.5, "accuracy_without_order": 0.5},
    licence=_LICENCE,
)


def _retrieval(name: str, title: str, flawed: bool) -> TaskSpec:
    def score(
        rows: Sequence[Ranking],
        predictions: Sequence[Prediction],
        truth: Mapping[str, MistakeTruth],
        bootstrap: int,
        seed: int,
    ) -> dict[str, Any]:
        truths = truths_of(rows, truth)
        right = [mistake.right for mistake in truths]
        draws = Resamples([mistake.recipe for mistake in truths], bootstrap, seed)
        return score_rankings(name, rows, predictions, right, draws, _tags(truths))

    read = partial(read_retrieval, flawed=flawed)
    return TaskSpec(
        name=name,
        title=f"CaptainCook4D: {title}",
        figures=RANKING,
        read=read,
        score=score,
        clips=partial(clips, read=read),
        licence=_LICENCE,
    )


RETRIEVAL = _retrieval("captaincook-retrieval", "the clip to watch after a mistake", False)
FLAWED = _retrieval(
    "captaincook-retrieval-flawed", "the clip to watch after a mistake, among other mistakes", True
)
