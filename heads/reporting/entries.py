"""The entries of a report: predictions of a method on a test set; and the figures of its tables, with their names.

A row whose head was trained on clips or videos of its test set has a mark and a footnote.

Guarantees
- {seed} in the name of predictions is replaced by the number of each training
- an entry with a field that its task does not use is refused, and so are two entries for one cell of the tables
- scores and tables made from predictions find the counts in the score record next to them
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import StepDiffError
from heads.methods.registry import section
from tasks.testsets import Task

Variant = Literal["V1", "V2", "V3"]
PairEmbedding = Literal["average", "reference", "candidate"]


@dataclass(frozen=True)
class Setting:
    """A task in one of its forms; figures of one setting on the same rows can be compared."""

    task: Task
    variant: Variant = "V1"
    parsed: bool = True
    pair: PairEmbedding = "average"


@dataclass(frozen=True)
class Entry:
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
    """diffcap: false for raw captions (heads.evaluate --no-parse); they are then also parsed here for the tables of
    parsed captions, unless another entry has them"""
    pair: PairEmbedding = "average"
    """diffmcq: the clips whose embeddings represent a pair; the other two are VLEmb's variants (Table S2)"""
    seed: int | None = None
    """number of the training; the tables show the mean of entries that differ only in it"""

    def trainings(self, count: int) -> "list[Entry]":
        """Return the entry, or one for each training 0, 1, ... if {seed} is in the name of its predictions."""
        if "{seed}" not in self.predictions:
            return [self]
        return [
            replace(self, seed=seed, predictions=self.predictions.replace("{seed}", str(seed))) for seed in range(count)
        ]

    @property
    def setting(self) -> Setting:
        return Setting(self.task, self.variant, self.parsed, self.pair)


def check_entries(
    entries: Sequence[Entry], ours: Sequence[str], controls: Sequence[str], baselines: Sequence[str] = ()
) -> None:
    """Raise StepDiffError for an invalid entry, or a method without one."""
    if not entries:
        raise StepDiffError("no predictions to report on; list them in the file that --config names")
    places: dict[tuple[str, Setting, int | None], int] = {}
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} ({entry.method}, {entry.predictions})"
        if entry.task != "diffmcq" and (entry.variant, entry.pair) != ("V1", "average"):
            raise StepDiffError(f"{where}: variant and pair are for diffmcq, not for {entry.task}")
        if entry.task != "diffcap" and not entry.parsed:
            raise StepDiffError(f"{where}: only captions of diffcap can be raw or parsed; {entry.task} has scores")
        first = places.setdefault((entry.method, entry.setting, entry.seed), number)
        if first != number:
            raise StepDiffError(f"{where}: entry {first} has the same place in the tables; remove one of them")
    methods = {entry.method for entry in entries}
    for name in [*ours, *controls, *baselines]:
        if name not in methods:
            raise StepDiffError(f"{name!r} is not among the methods: {', '.join(sorted(methods))}")
    for names, listed in ((controls, "a control"), (baselines, "a baseline")):
        for name in set(ours) & set(names):
            raise StepDiffError(f"{name!r} is listed as ours and as {listed}; choose one")


TASKS = {"diffcap": "DiffCap", "diffmcq": "DiffMCQ", "diffrank": "DiffRank"}
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
}
TRUTH_METRICS = {
    "truth_precision": "precision: true of named",
    "truth_recall": "recall: named of true",
    "truth_swapped": "swapped: true of the other video",
    "truth_shared": "shared: true of both",
    "truth_invented": "invented: true of neither",
}
"""figures of the truth score (kitchen.truth)"""
METRICS |= TRUTH_METRICS
AMONG = {
    "ktau_within_step_all_rows": " within the step",
    "declined": ", pairs that differ",
    "declined_asked": ", pairs that differ",
    "invented": ", pairs that agree",
    "invented_asked": ", pairs that agree",
}
"""figure -> the part of a test set's rows or targets that it is about"""
CHANCE = {"accuracy": 0.25, "ktau_all_rows": 0.0, "ktau_within_step_all_rows": 0.0}
VARIANTS: tuple[Variant, ...] = ("V1", "V2", "V3")
PAIRS: dict[PairEmbedding, str] = {"reference": "V_r only", "candidate": "V_c only", "average": "avg(V_r, V_c)"}
Place = tuple[Setting, str]  # a setting and a metric: a column


def heading(place: Place) -> tuple[str, str]:
    """Return the names of a task in its form and of a metric."""
    setting, metric = place
    if metric in AMONG:
        return TASKS[setting.task] + AMONG[metric], METRICS[metric]
    form = {"diffcap": "" if setting.parsed else ", raw", "diffmcq": f" {setting.variant}", "diffrank": ""}
    return TASKS[setting.task] + form[setting.task], METRICS[metric]


def _captions(parsed: bool) -> list[Place]:
    return [(Setting("diffcap", parsed=parsed), metric) for metric in ("BLEU", "CIDEr", "ROUGE-L")]


CHOICES: list[Place] = [(Setting("diffmcq", variant=variant), "accuracy") for variant in VARIANTS]
RANK: Place = (Setting("diffrank"), "ktau_all_rows")
WITHIN: Place = (Setting("diffrank"), "ktau_within_step_all_rows")
ASKED = "_asked"
"""ends the figures of captions that decline where the method, asked first, finds the clips similar"""
DECLINING: list[Place] = [
    (Setting("diffcap"), metric + asked) for metric in ("invented", "declined") for asked in ("", ASKED)
]
TRUTH: list[Place] = [(Setting("diffcap"), metric) for metric in TRUTH_METRICS]
CAPTIONS, RAW = _captions(True), _captions(False)


MARK = "‡"
"""follows the name of such a method"""


def footnote(counts: dict[str, Any]) -> str:
    """Return the footnote of a row that has the MARK."""
    return (
        f"{counts['clips_of_videos']} of {counts['of_clips']} test clips are from videos that trained this head, "
        f"{counts['clips']} trained it themselves"
    )


def seen_counts(predictions: str) -> dict[str, Any] | None:
    """Return the counts in the score record next to a file of predictions; None if the head has seen no clip.

    Raises:
        StepDiffError: the file next to it is not a score record.
    """
    return marked(score_record(predictions))


def score_record(predictions: str) -> Any:
    """Return the score record next to a file of predictions, None if there is none. Raises as `seen_counts`."""
    path = Path(predictions).with_suffix(".scores.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the second: predictions in an archive
        return None
    except (OSError, ValueError) as error:
        raise StepDiffError(f"{path}: not a score record of heads.evaluate ({error}); evaluate again") from error


def marked(record: Any) -> dict[str, Any] | None:
    """Return the counts of a score record whose row has the MARK, else None."""
    counts = section(record, "seen")
    return counts if counts.get("clips_of_videos") else None
