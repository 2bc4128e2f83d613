"""CaptainCook4D: in which of two videos a step is done with a mistake, and which video shows how it is done right.

    captaincook-mistake            two recordings of one step, one with a mistake: in which video is it?
    captaincook-retrieval          a clip with a mistake; which of the clips done right, of the same recipe from other
                                   recordings, shows the same step? Finding the step is enough
    captaincook-retrieval-flawed   the same, with clips done with a mistake among the targets, all of them wrong: a clip
                                   with the same mistake may be nearer than one done right

Their authors publish no such tasks; the rows are made from their annotations (captaincook_files.py) by the rules here.

Categories are the tags of mistakes; a clip with several mistakes counts in each of its tags. Intervals draw recipes,
because all rows of a recipe share recordings. A mistake in the order of the steps is not seen in a clip of one step:
`accuracy_without_order` leaves out clips that have no other mistake, and they are no targets.

Guarantees
- a_pair_has_one_step_two_recordings_and_one_mistake
- the_order_of_the_two_videos_depends_on_their_clips_only
- targets_are_of_the_same_recipe_and_other_recordings
- each_mistake_is_described_once
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.common.streams import generator
from stepdiff.tasks.benchmarks.captaincook_files import TAGS, alike, read_recorded
from stepdiff.tasks.benchmarks.choosing import score_choices
from stepdiff.tasks.benchmarks.ranking import FIGURES, score_rankings
from stepdiff.tasks.benchmarks.rows import Choice, Ranking, check_keys
from stepdiff.tasks.benchmarks.summary import Mask, truths_of
from stepdiff.tasks.prompts import VIDEOS
from stepdiff.tasks.spec import Asked, ClipFile, TaskSpec
from stepdiff.tasks.testsets import DiffCap, Prediction

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
"""tag -> category of a difference; None: the mistake is about other steps, or of no one kind"""
UNSEEN = ("Order",)
"""tags of a mistake that a clip of the step does not show"""
PART = "test"


@dataclass(frozen=True)
class Truth:
    """What a row is scored against."""

    recipe: str
    tags: tuple[str, ...]
    """kinds of the mistakes"""
    answer: int = 0
    """position of the video with the mistake"""
    right: frozenset[str] = frozenset()
    """targets that show the step done right"""


def read_mistakes(folder: Path, part: str = PART) -> Asked:
    """Return a question for each pair of a right and a flawed performance of a step in two recordings.

    Args:
        folder: The annotations' folder, or a file of its data_splits.
        part: train, val or test.

    Raises:
        StepDiffError: A file is missing or damaged, or the part has no such pair.
    """
    recorded = read_recorded(folder, part)
    rows: list[Choice] = []
    truth: dict[str, Truth] = {}
    for right, flawed in alike(recorded.steps):
        for mistake, other in ((one, two) for one in flawed for two in right if one.recording != two.recording):
            shown = [mistake.clip, other.clip]
            shown.sort(reverse=bool(generator(0, "order of compared videos", " ".join(sorted(shown))).integers(2)))
            key = f"{mistake.step_id} {' '.join(shown)}"
            rows.append(Choice(key, tuple(shown), QUESTION.format(step=mistake.instruction), VIDEOS))
            truth[key] = Truth(mistake.recipe, mistake.tags, shown.index(mistake.clip))
    return _asked(rows, truth, recorded.notes, f"{folder}: no step in {part!r} is done right and with a mistake")


def read_retrieval(folder: Path, part: str = PART, flawed: bool = False) -> Asked:
    """Return a ranking for each flawed performance of a step: of clips of the same recipe from other recordings.

    Args:
        folder: The annotations' folder, or a file of its data_splits.
        part: train, val or test.
        flawed: Rank flawed performances too, except those whose only mistake is the order of the steps.

    Raises:
        StepDiffError: A file is missing or damaged, or no flawed performance has a right one.
    """
    recorded = read_recorded(folder, part)
    rows: list[Ranking] = []
    truth: dict[str, Truth] = {}
    without = 0
    for step in (step for step in recorded.steps if step.mistakes):
        others = [one for one in recorded.steps if one.recipe == step.recipe and one.recording != step.recording]
        right = frozenset(one.clip for one in others if one.name == step.name and not one.mistakes)
        if not right:
            without += 1
            continue
        key = f"{step.step_id} {step.clip}"
        shown = (one for one in others if not one.mistakes or (flawed and one.tags != UNSEEN))
        targets = tuple(dict.fromkeys(one.clip for one in shown))
        rows.append(Ranking(key, step.clip, targets, CONCEPT))
        truth[key] = Truth(step.recipe, step.tags, right=right)
    notes = recorded.notes + ((f"left out: {without} mistakes whose step nobody does right",) if without else ())
    return _asked(rows, truth, notes, f"{folder}: no step in {part!r} is done with a mistake and done right by others")


def _asked(
    rows: Sequence[Choice] | Sequence[Ranking], truth: Mapping[str, Truth], notes: tuple[str, ...], nothing: str
) -> Asked:
    if not rows:
        raise StepDiffError(f"{nothing}; choose another file of data_splits")
    check_keys(rows, "step_annotations")
    return Asked(list(rows), truth, notes)


def clips(folder: Path, read: Callable[[Path], Asked]) -> Iterator[ClipFile]:
    """Yield the clips of the rows that `read` returns, each once, with their videos of 360 lines."""
    wanted = {clip for row in read(folder).rows for clip in row.clips}
    for step in read_recorded(folder, PART).steps:
        if step.clip in wanted:
            wanted.remove(step.clip)
            more = {"step": step.instruction, "step_id": step.step_id, "activity": step.recipe}
            yield ClipFile(step.clip, f"{step.recording}_360p.mp4", step.start, step.end, more)


def score_mistakes(
    rows: Sequence[Choice],
    predictions: Sequence[Prediction],
    truth: Mapping[str, Truth],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the accuracy, over all and by tag; as TaskSpec.score."""
    own = truths_of(rows, truth)
    answers, recipes = [one.answer for one in own], [one.recipe for one in own]
    seen = {"accuracy_without_order": np.array([one.tags != UNSEEN for one in own])}
    given = answers, recipes, seen, _tags(own), bootstrap, seed
    return score_choices("captaincook-mistake", rows, predictions, *given)


def score_retrieval(
    task: str,
    rows: Sequence[Ranking],
    predictions: Sequence[Prediction],
    truth: Mapping[str, Truth],
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return where the first right target comes, over all and by tag; as TaskSpec.score."""
    own = truths_of(rows, truth)
    right, recipes = [one.right for one in own], [one.recipe for one in own]
    return score_rankings(task, rows, predictions, right, recipes, _tags(own), bootstrap, seed)


def _tags(truths: Sequence[Truth]) -> dict[str, Mask]:
    return {tag: np.array([tag in one.tags for one in truths]) for tag in TAGS}


def diffcap_rows(folder: Path, part: str = PART) -> tuple[list[DiffCap], dict[str, int]]:
    """Return the mistakes as differences, and the numbers of those left out by reason.

    A flawed performance is the candidate of one row for each category of its mistakes; its reference is one of the
    right performances of the step in other recordings, drawn at random. The texts are the descriptions of the mistakes.

    Raises:
        StepDiffError: A file is missing or damaged.
    """
    rows = []
    left_out: Counter[str] = Counter()
    for right, flawed in alike(read_recorded(folder, part).steps):
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
                continue
            if texts:
                drawn = generator(0, "right clip of a mistake", step.clip).integers(len(references))
                rows += [DiffCap(references[drawn], step.clip, name, tuple(own)) for name, own in texts.items()]
    return rows, dict(left_out)


_LICENCE = "annotations: Apache-2.0 by their README, MIT by their LICENSE file; ask the authors before you redistribute"

MISTAKE = TaskSpec(
    name="captaincook-mistake",
    title="CaptainCook4D: the video with the mistake",
    figures={"accuracy": "accuracy", "accuracy_without_order": "without order"},
    read=read_mistakes,
    score=score_mistakes,
    clips=partial(clips, read=read_mistakes),
    chance={"accuracy": 0.5, "accuracy_without_order": 0.5},
    licence=_LICENCE,
)


def _retrieval(name: str, title: str, flawed: bool) -> TaskSpec:
    read = partial(read_retrieval, flawed=flawed)
    return TaskSpec(
        name=name,
        title=f"CaptainCook4D: {title}",
        figures=FIGURES,
        read=read,
        score=partial(score_retrieval, name),
        clips=partial(clips, read=read),
        licence=_LICENCE,
    )


RETRIEVAL = _retrieval("captaincook-retrieval", "the clip to watch after a mistake", False)
FLAWED = _retrieval("captaincook-retrieval-flawed", "the clip to watch after a mistake, among other mistakes", True)
