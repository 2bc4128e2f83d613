"""Guarantees of heads.training.validation."""

from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads.training.recipe import Validation
from heads.training.validation import Validator


def test_a_row_whose_targets_all_get_the_same_score_counts_0(world: Path) -> None:
    class Half:
        def score_options(self, rows: list) -> list[list[float]]:
            return [[1.0, 0.0, 0.0, 0.0] for _ in rows]

        def rank(self, rows: list) -> list[list[float]]:
            return [[float(s) for s in row.scores] if n else [1.0] * len(row.scores) for n, row in enumerate(rows)]

    files = str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl")
    figures = Validator(Validation(*files, 2), 0).figures(Half())
    assert figures["ktau"] == figures["ktau_within_step"] == 0.5


def test_no_clip_that_trains_chooses_the_checkpoint(world: Path) -> None:
    validator = Validator(Validation(str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl"), 2), 0)
    validator.refuse(["video-_0_0.0_1.5"], "qa.jsonl")
    shared = validator.clips()[0]
    with pytest.raises(StepDiffError, match=f"qa.jsonl: 1 training clips are in the val test sets, e.g. {shared}"):
        validator.refuse(["video-_0_0.0_1.5", shared], "qa.jsonl")
