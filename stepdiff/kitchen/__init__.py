"""A small rendered how-to world with exact ground truth: the embedded sample data set."""

import stepdiff_core

stepdiff_core.enter("stepdiff.kitchen")

from stepdiff.kitchen.attributes import Attributes, Difference, differences, score
from stepdiff.kitchen.world import Clip, Video, make_world
from stepdiff_core.errors import StepDiffError

__all__ = [
    "Attributes",
    "Clip",
    "Difference",
    "StepDiffError",
    "Video",
    "differences",
    "make_world",
    "score",
]
