"""Heads trained on cached features, methods that compare two clips, and their evaluation.

Names are imported when they are first used, because most of them import torch.
"""

import stepdiff_core

stepdiff_core.enter("heads")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.data.clips import Features
    from heads.data.hold_out import HoldOut
    from heads.evidence.head import WordHead
    from heads.methods import Method
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import VLEmb
    from heads.models.public.cached import load_cached
    from heads.training.recipe import TrainOptions, read_recipe
    from heads.training.run_record import load_contrastive, load_stepdiff, load_video_lm
    from stepdiff_core.errors import StepDiffError


__all__ = [
    "Features",
    "HoldOut",
    "Method",
    "StepDiff",
    "StepDiffError",
    "TrainOptions",
    "VLEmb",
    "WordHead",
    "load_cached",
    "load_contrastive",
    "load_stepdiff",
    "load_video_lm",
    "read_recipe",
]

__getattr__ = stepdiff_core.lazy(__name__)
