"""The precision `auto`: bfloat16 where the device is fast at it, else float32."""

import dataclasses
from pathlib import Path

import pytest
import torch

from heads.models import language_model
from heads.models.language_model import pick_precision
from heads.training.video_task import VideoTask
from store import Store

from .test_video_task import options


@pytest.mark.parametrize(("fast", "picked"), [(True, "bfloat16"), (False, "float32")])
def test_auto_computes_exactly_as_the_precision_that_it_picks(
    fast: bool, picked: str, world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "_fast_bfloat16", lambda: fast)
    assert pick_precision("cpu", "auto") == picked and pick_precision("cuda:0", "auto") == "bfloat16"
    made = options(world, tiny_lm, tmp_path).video_lm
    assert made is not None
    losses = {}
    for precision in ("auto", "bfloat16", "float32"):
        assert precision == "auto" or pick_precision("cpu", precision) == precision
        task = VideoTask(dataclasses.replace(made, precision=precision), Store.open(world / "features"), 0, "cpu")
        losses[precision] = task.loss(0)
    assert torch.equal(losses["auto"], losses[picked])
    assert not torch.equal(losses["bfloat16"], losses["float32"])
