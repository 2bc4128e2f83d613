"""Random draws of training: seeds share none, and a resumed run draws the same as an uninterrupted one."""

from pathlib import Path

import pytest
import torch

from heads.training.recipe import Schedule
from heads.training.validation import Validator

from .ends import assert_same_weights
from .small_task import SmallTask, trained


def test_two_seeds_share_no_dropout_mask_in_any_of_the_first_steps(tmp_path: Path) -> None:
    schedule = Schedule(40, accumulate=2, validate_every=40)
    masks = [trained(tmp_path / f"run{seed}", seed, schedule).masks for seed in (0, 1)]
    assert len(masks[0]) == len(masks[1]) == 80
    assert len({*masks[0].values(), *masks[1].values()}) == 160


def test_a_resumed_run_draws_the_same_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken, first, again = SmallTask(), SmallTask(), SmallTask()
    trained(tmp_path / "unbroken", task=unbroken)
    loss = first.loss

    def dies(batch: int) -> torch.Tensor:
        if batch == 7:
            raise KeyboardInterrupt
        return loss(batch)

    monkeypatch.setattr(first, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", task=first)
    torch.rand(17)  # other draws of the process do not matter
    trained(tmp_path / "killed", task=again)
    assert sorted(again.masks) == list(range(4, 12)) or sorted(again.masks) == list(range(8, 12))
    assert first.masks | again.masks == unbroken.masks
    assert_same_weights(tmp_path / "killed", tmp_path / "unbroken")


def test_validation_draws_the_rows_of_its_two_tasks_independently(world: Path) -> None:
    from heads.training.recipe import Validation

    rows = Validation(str(world / "diffmcq_val.jsonl"), str(world / "diffrank_val.jsonl"), rows=1)
    places = [
        ([row.difference for row in made.choices], [row.reference for row in made.ranks])
        for made in (Validator(rows, seed) for seed in range(40))
    ]
    assert len({str(place) for place in places}) == 4, "the row of one task does not determine that of the other"
