"""Heads trained on cached features, methods that compare two clips, and their evaluation.

Names are imported when they are first used, because most of them import torch.
"""

import _stepdiff

_stepdiff.enter("heads")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import StepDiffError
    from heads.data.clips import Features
    from heads.data.hold_out import HoldOut
    from heads.methods import Method
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import VLEmb
    from heads.training.lineage import load_contrastive, load_video_lm
    from heads.training.recipe import TrainOptions
    from heads.training.recipe_file import read_recipe

_MODULES = {
    "Features": "heads.data.clips",
    "HoldOut": "heads.data.hold_out",
    "Method": "heads.methods",
    "StepDiff": "heads.methods.stepdiff",
    "StepDiffError": "common.errors",
    "TrainOptions": "heads.training.recipe",
    "VLEmb": "heads.methods.vlemb",
    "load_contrastive": "heads.training.lineage",
    "load_video_lm": "heads.training.lineage",
    "read_recipe": "heads.training.recipe_file",
}

__all__ = [
    "Features",
    "HoldOut",
    "Method",
    "StepDiff",
    "StepDiffError",
    "TrainOptions",
    "VLEmb",
    "load_contrastive",
    "load_video_lm",
    "read_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
