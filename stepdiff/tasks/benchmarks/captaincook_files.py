"""CaptainCook4D's annotations: recorded steps of recipes, with the mistakes that were made in them.

A folder holds annotation_json/error_annotations.json, a list of {recording_id, activity_id, step_annotations [{step_id,
description, start_time, end_time, errors? [{tag, description}], modified_description?}]}, and data_splits/, whose files
are {part: [recording_id, ...]} for the parts train, val and test. Instead of the folder, one file of data_splits/ may
be given: it decides the parts; by default recordings_data_split_combined.json does.

A clip is a step with its times, <recording_id>_<start>_<end>, seconds as written. A step without times is not a clip:
a skipped one (-1), or one whose times are missing. A step whose description was changed and that has no named error is
neither right nor a mistake. All of these are counted.

Guarantees
- skipped_steps_and_missing_times_are_counted_and_are_no_clips
- a_step_is_of_one_recipe_and_one_description
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.benchmarks.published_files import list_of, read_entries, read_json, text_of, value_of

SOURCE = "github.com/CaptainCook4D/annotations"
SPLIT = Path("data_splits", "recordings_data_split_combined.json")
TAGS = ("Preparation", "Measurement", "Order", "Timing", "Technique", "Temperature", "Missing Step", "Other")
"""kinds of mistakes; the files add " Error" to most of them"""
SKIPPED = -1

UNTIMED = "steps without times"
SKIPPED_STEPS = "skipped steps"
CHANGED = "steps with a changed description and no named error"


@dataclass(frozen=True)
class Mistake:
    """A mistake in a step, in the words of a person."""

    tag: str
    """one of TAGS"""
    description: str


@dataclass(frozen=True)
class Step:
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
        """What equal steps have in common: a few step ids are of two recipes, or have a wrong description."""
        return self.recipe, self.step_id, self.description

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mistake.tag for mistake in self.mistakes))

    @property
    def instruction(self) -> str:
        return instruction_of(self.description)


@dataclass(frozen=True)
class Recorded:
    """The clips of a part of a split, in the order of the file."""

    steps: tuple[Step, ...]
    left_out: Mapping[str, int]
    """reason -> number of steps"""

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"left out: {count} {reason}" for reason, count in self.left_out.items())


def instruction_of(description: str) -> str:
    """Return a description as a sentence: "Peel-Peel 1 garlic clove" and "Add-1 egg" become "Peel 1 garlic clove" and
    "Add 1 egg"."""
    label, hyphen, rest = (part.strip() for part in description.partition("-"))
    if not hyphen or not rest:
        return description.strip()
    return rest if label.lower() in rest.lower() else f"{label} {rest}"


def read_recorded(folder: Path, part: str = "test") -> Recorded:
    """Read the clips of a part of a split.

    Args:
        folder: The annotations' folder, or a file of its data_splits.
        part: train, val or test.

    Raises:
        StepDiffError: A file is missing or damaged, or the part has no recordings.
    """
    split = folder if folder.suffix == ".json" else folder / SPLIT
    wanted = _recordings(split, part)
    path = split.parent.parent / "annotation_json" / "error_annotations.json"
    steps: list[Step] = []
    left_out: Counter[str] = Counter()
    for place, entry in read_entries(path, SOURCE, "recording"):
        try:
            recording = text_of(entry, "recording_id")
            if recording not in wanted:
                continue
            wanted[recording] = True
            recipe = _number(entry, "activity_id")
            for number, found in enumerate(list_of(entry, "step_annotations"), 1):
                step = _step(found, number, recording, recipe)
                if isinstance(step, str):
                    left_out[step] += 1
                else:
                    steps.append(step)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}; get the file again from {SOURCE}") from error
    if unknown := [recording for recording, seen in wanted.items() if not seen]:
        raise StepDiffError(f"{split}: {unknown[0]!r} is not in {path}; get both files from {SOURCE}")
    return Recorded(tuple(steps), dict(left_out))


def _recordings(path: Path, part: str) -> dict[str, bool]:
    """Return the recordings of a part, with False."""
    split = read_json(path, SOURCE)
    recordings = split.get(part) if isinstance(split, dict) else None
    if not isinstance(recordings, list) or not all(isinstance(recording, str) for recording in recordings):
        raise StepDiffError(f"{path}: no list of recordings under {part!r}; get the file again from {SOURCE}")
    if not recordings:
        raise StepDiffError(f"{path}: {part!r} has no recordings; choose another file of {path.parent}")
    return dict.fromkeys(recordings, False)


def _step(found: Any, number: int, recording: str, recipe: str) -> Step | str:
    """Return a step, or the reason why it is left out."""
    if not isinstance(found, dict):
        raise StepDiffError(f"step {number} is {type(found).__name__}, not an object")
    try:
        step_id, description = _number(found, "step_id"), text_of(found, "description")
        mistakes = _mistakes(found.get("errors", []))
        start, end = _seconds(found, "start_time"), _seconds(found, "end_time")
    except StepDiffError as error:
        raise StepDiffError(f"step {number}: {error}") from error
    if SKIPPED in (start, end):
        return SKIPPED_STEPS
    if start is None or end is None:
        return UNTIMED
    if not 0 <= start < end:
        raise StepDiffError(f"step {number} is from {start} to {end} seconds")
    if not mistakes and found.get("modified_description", description) != description:
        return CHANGED
    clip = f"{recording}_{start!r}_{end!r}"
    return Step(recording, recipe, step_id, description, clip, float(start), float(end), mistakes)


def _mistakes(errors: Any) -> tuple[Mistake, ...]:
    if not isinstance(errors, list) or not all(isinstance(error, dict) for error in errors):
        raise StepDiffError(f"'errors' is {errors!r:.60}, not a list of objects")
    found = tuple(Mistake(text_of(own, "tag").removesuffix(" Error"), text_of(own, "description")) for own in errors)
    if unknown := [mistake.tag for mistake in found if mistake.tag not in TAGS]:
        raise StepDiffError(f"'tag' is {unknown[0]!r}, not one of {', '.join(TAGS)}")
    return found


def _number(found: Mapping[str, Any], name: str) -> str:
    """Return a number that names something, as text."""
    value = value_of(dict(found), name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise StepDiffError(f"{name!r} is {value!r:.60}, not a whole number")
    return str(value)


def _seconds(found: Mapping[str, Any], name: str) -> float | int | None:
    """Return a time as written, None where it is missing."""
    value = found.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9):
        raise StepDiffError(f"{name!r} is {value!r:.60}, not a number of seconds")
    return value


def alike(steps: Sequence[Step]) -> list[tuple[list[Step], list[Step]]]:
    """Return, for each step of a recipe, the performances done right and those with a mistake."""
    groups: dict[tuple[str, str, str], tuple[list[Step], list[Step]]] = {}
    for step in steps:
        groups.setdefault(step.name, ([], []))[bool(step.mistakes)].append(step)
    return list(groups.values())
