"""Heads trained on cached features, methods that compare two clips, and their evaluation."""

import importlib
from typing import TYPE_CHECKING, Any

import common.cli.startup  # noqa: F401  # before the slow imports: an interrupt is one line

if TYPE_CHECKING:
    from heads.data.clips import Features
    from heads.data.hold_out import HoldOut
    from heads.methods import Method
    from heads.methods.stepdiff import StepDiff
    from heads.methods.vlemb import VLEmb
    from heads.training.lineage import load_contrastive, load_video_lm
    from heads.training.recipe import TrainOptions
    from heads.training.recipe_file import read_recipe

__all__ = [
    "Features",
    "HoldOut",
    "Method",
    "StepDiff",
    "TrainOptions",
    "VLEmb",
    "load_contrastive",
    "load_video_lm",
    "read_recipe",
]
_MODULES = {
    "Features": "data.clips",
    "HoldOut": "data.hold_out",
    "Method": "methods",
    "StepDiff": "methods.stepdiff",
    "TrainOptions": "training.recipe",
    "VLEmb": "methods.vlemb",
    "load_contrastive": "training.lineage",
    "load_video_lm": "training.lineage",
    "read_recipe": "training.recipe_file",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: most of them import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(importlib.import_module(f"heads.{_MODULES[name]}"), name)
