"""The specs of the paper's three tasks, DiffCap, DiffMCQ and DiffRank.

Their rows contain the truth (stepdiff_core.tasks.testsets); line n of predictions belongs to row n.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stepdiff_core.tasks.scoring import score
from stepdiff_core.tasks.spec import Asked, TaskSpec
from stepdiff_core.tasks.testsets import Task, read_test_set

ASKED = "_asked"
"""ends the figures of captions that decline where the method, asked first, finds the clips similar"""


def _read(task: Task, file: Path) -> Asked:
    return Asked(read_test_set(task, file), {})


def _score(
    task: Task, rows: Sequence[Any], predictions: Sequence[Any], truth: Mapping[str, Any], bootstrap: int, seed: int
) -> dict[str, Any]:
    return score(task, rows, predictions, bootstrap, seed)


DIFFCAP = TaskSpec(
    name="diffcap",
    title="DiffCap",
    figures={"BLEU": "DiffCap BLEU", "CIDEr": "CIDEr", "ROUGE-L": "ROUGE-L"},
    further=dict.fromkeys(("declined", "invented", f"declined{ASKED}", f"invented{ASKED}"), ""),
    main="CIDEr",
    read=partial(_read, "diffcap"),
    score=partial(_score, "diffcap"),
    test_set=True,
    options=("no_difference", "similarity", "truth", "parse", "seeded", "decline_at", "ask_similar"),
)
DIFFMCQ = TaskSpec(
    name="diffmcq",
    title="DiffMCQ",
    figures={"accuracy": "DiffMCQ accuracy"},
    main="accuracy",
    read=partial(_read, "diffmcq"),
    score=partial(_score, "diffmcq"),
    chance={"accuracy": 0.25},
    test_set=True,
    options=("pair_embedding",),
)
DIFFRANK = TaskSpec(
    name="diffrank",
    title="DiffRank",
    figures={"ktau_all_rows": "DiffRank tau"},
    further={"ktau_within_step_all_rows": "tau within step"},
    main="ktau_all_rows",
    read=partial(_read, "diffrank"),
    score=partial(_score, "diffrank"),
    chance={"ktau_all_rows": 0.0, "ktau_within_step_all_rows": 0.0},
    test_set=True,
)
PUBLISHED: dict[Task, TaskSpec] = {"diffcap": DIFFCAP, "diffmcq": DIFFMCQ, "diffrank": DIFFRANK}
