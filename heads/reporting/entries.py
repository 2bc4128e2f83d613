"""The content of a report: predictions and trainings of methods, score records, and the names of
tasks and figures.

Guarantees
- an entry with a field that its task does not use is refused, and so are two entries for one cell
  of the tables
- a number of steps or a regime that a score record contradicts is refused in one line
- a method is compared only with baselines that had no more supervision
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from heads.methods.registry import ORDER, PairEmbedding, Regime, regime_of, section
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.scoring import PUBLISHED
from stepdiff_core.tasks.testsets import Task

Variant = Literal["V1", "V2", "V3"]


@dataclass(frozen=True)
class Setting:
    """A task in one of its forms; figures of one setting on the same rows can be compared."""

    task: Task
    variant: Variant = "V1"
    parsed: bool = True
    pair: PairEmbedding = "average"


@dataclass(frozen=True)
class PredictionEntry:
    method: str
    """name of the method: its row in the tables"""
    task: Task
    """diffcap, diffmcq, diffrank"""
    test_set: str
    """test set in the published format"""
    predictions: str
    """predictions in the published format, one line for each row of the test set"""
    variant: Variant = "V1"
    """diffmcq: how the wrong options were chosen"""
    parsed: bool = True
    """diffcap: false for raw captions (heads.evaluate --no-parse); they are then also parsed here
    for the tables of parsed captions, unless another entry has them"""
    pair: PairEmbedding = "average"
    """diffmcq: the clips whose embeddings represent a pair; the other two are VLEmb's variants
    (Table S2)"""
    seed: int | None = None
    """number of the training; the tables show the mean of entries that differ only in it"""

    def trainings(self, count: int) -> "list[PredictionEntry]":
        """Return the entry, or one for each training 0, 1, ... if {seed} is in the name of its
        predictions."""
        if "{seed}" not in self.predictions:
            return [self]
        return [
            replace(self, seed=seed, predictions=self.predictions.replace("{seed}", str(seed)))
            for seed in range(count)
        ]

    @property
    def setting(self) -> Setting:
        return Setting(self.task, self.variant, self.parsed, self.pair)


@dataclass(frozen=True)
class BenchmarkEntry:
    method: str
    """name of the method: its row in the table"""
    predictions: str
    """file that heads.evaluate wrote, with its score record next to it"""
    task: str | None = None
    """package.module:SPEC, if the record names such a task; null: the task of the record, ours or
    installed"""


@dataclass(frozen=True)
class MethodTraining:
    """How a method was trained."""

    method: str
    """name of the method, as in predictions"""
    regime: Regime | None = None
    """none (not trained), s1 (the training data of the paper), supervised (also answers to a task's
    question)"""
    learns_from: str = ""
    """its training data, in a few words"""
    steps: int | None = None
    """optimiser steps in all, including the warm start and the runs that it starts from"""
    chosen: tuple[int, ...] = ()
    """steps before the checkpoint that validation chose, for each training, if one of them is not
    the last; regime, steps and chosen default to the score records next to the predictions"""


Trainings = Mapping[str, MethodTraining]


def check_entries(
    entries: Sequence[PredictionEntry],
    ours: Sequence[str],
    controls: Sequence[str],
    baselines: Sequence[str] = (),
) -> None:
    """Raise StepDiffError for an invalid entry, or a method without one."""
    if not entries:
        raise StepDiffError(
            "no predictions to report on; list them in the file that --config names"
        )
    places: dict[tuple[str, Setting, int | None], int] = {}
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} ({entry.method}, {entry.predictions})"
        if entry.task != "diffmcq" and (entry.variant, entry.pair) != ("V1", "average"):
            raise StepDiffError(f"{where}: variant and pair are for diffmcq, not for {entry.task}")
        if entry.task != "diffcap" and not entry.parsed:
            raise StepDiffError(
                f"{where}: only captions of diffcap can be raw or parsed; {entry.task} has scores"
            )
        first = places.setdefault((entry.method, entry.setting, entry.seed), number)
        if first != number:
            raise StepDiffError(
                f"{where}: entry {first} has the same place in the tables; remove one of them"
            )
    methods = {entry.method for entry in entries}
    for name in [*ours, *controls, *baselines]:
        if name not in methods:
            raise StepDiffError(f"{name!r} is not among the methods: {', '.join(sorted(methods))}")
    for names, listed in ((controls, "a control"), (baselines, "a baseline")):
        for name in set(ours) & set(names):
            raise StepDiffError(f"{name!r} is listed as ours and as {listed}; choose one")


def score_record(predictions: str) -> Any:
    """Return the score record next to a file of predictions, None if there is none. StepDiffError:
    the file next to it is not a score record."""
    path = Path(predictions).with_suffix(".scores.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the second: predictions in an archive
        return None
    except (OSError, ValueError) as error:
        raise StepDiffError(
            f"{path}: not a score record of heads.evaluate ({error}); evaluate again"
        ) from error


def trainings(
    listed: Sequence[MethodTraining], entries: Sequence[PredictionEntry]
) -> dict[str, MethodTraining]:
    """Return the training of every method of the entries. StepDiffError: a method without
    predictions or with two trainings, or what a score record contradicts."""
    by_method = {entry.method: MethodTraining(entry.method) for entry in entries}
    for training in listed:
        if training.method not in by_method:
            raise StepDiffError(
                f"methods: {training.method!r} has no predictions; it is not {', '.join(by_method)}"
            )
        if by_method[training.method] != MethodTraining(training.method):
            raise StepDiffError(f"methods: {training.method!r} is listed twice; remove one of them")
        by_method[training.method] = training
    chosen: dict[str, dict[int, int]] = {}
    for entry in entries:
        record = score_record(entry.predictions)
        recipe = section(section(record, "disclosed"), "recipe")
        steps, trained, checkpoint = (
            recipe.get(name) for name in ("optimiser_steps", "trained", "checkpoint")
        )
        of_record: dict[str, Any] = {"regime": regime_of(record), "steps": steps}
        for name, recorded in of_record.items():
            stated = getattr(by_method[entry.method], name)
            if recorded is not None and stated not in (None, recorded):
                raise StepDiffError(
                    f"methods: {entry.method} has {name} {stated}, but the score record of "
                    f"{entry.predictions} has {recorded}; correct the config"
                )
            if recorded is not None:
                by_method[entry.method] = replace(by_method[entry.method], **{name: recorded})
        if steps is not None and trained is not None and isinstance(checkpoint, str):
            before_best = int(steps) - int(trained) + int(checkpoint.rpartition("-")[2])
            chosen.setdefault(entry.method, {})[entry.seed or 0] = before_best
    for method, by_seed in chosen.items():
        steps_of_each = tuple(by_seed[seed] for seed in sorted(by_seed))
        if set(steps_of_each) != {by_method[method].steps}:
            by_method[method] = replace(by_method[method], chosen=steps_of_each)
    return by_method


def comparable(method: str, baseline: str, by_method: Trainings) -> bool:
    """Return whether the baseline had no more supervision than the method, as far as is known."""
    ours, theirs = (
        by_method[name].regime if name in by_method else None for name in (method, baseline)
    )
    return ours is None or theirs is None or ORDER.index(theirs) <= ORDER.index(ours)


MARK = "‡"
"""follows the name of a method whose head was trained on clips or videos of its test set"""


def marked(record: Any) -> dict[str, Any] | None:
    """Return the counts of a score record whose row has the MARK, else None."""
    counts = section(record, "seen")
    return counts if counts.get("clips_of_videos") else None


def footnote(counts: dict[str, Any]) -> str:
    """Return the footnote of a row that has the MARK."""
    return (
        f"{counts['clips_of_videos']} of {counts['of_clips']} test clips are from videos that "
        f"trained this head, {counts['clips']} trained it themselves"
    )


TRUTH_METRICS = {
    "truth_precision": "precision: true of named",
    "truth_recall": "recall: named of true",
    "truth_swapped": "swapped: true of the other video",
    "truth_shared": "shared: true of both",
    "truth_invented": "invented: true of neither",
}
"""figures of the truth score (stepdiff.kitchen.truth)"""
METRICS = {
    "BLEU": "BLEU",
    "CIDEr": "CIDEr",
    "ROUGE-L": "ROUGE-L",
    "accuracy": "accuracy",
    "ktau_all_rows": "τ",
    "ktau_within_step_all_rows": "τ",
    "declined": "declined, as written",
    "declined_asked": "declined, asked first",
    "invented": "invented a difference, as written",
    "invented_asked": "invented a difference, asked first",
    **TRUTH_METRICS,
}
AMONG = {
    "ktau_within_step_all_rows": " within the step",
    "declined": ", pairs that differ",
    "declined_asked": ", pairs that differ",
    "invented": ", pairs that agree",
    "invented_asked": ", pairs that agree",
}
"""figure -> the part of a test set's rows or targets that it is about"""
CHANCE = {figure: value for spec in PUBLISHED.values() for figure, value in spec.chance.items()}
PAIRS: dict[PairEmbedding, str] = {
    "reference": "V_r only",
    "candidate": "V_c only",
    "average": "avg(V_r, V_c)",
}
