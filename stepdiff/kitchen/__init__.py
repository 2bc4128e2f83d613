"""A small rendered how-to world with exact ground truth: the embedded sample data set."""

import stepdiff

stepdiff.enter("stepdiff.kitchen")

from stepdiff.common.errors import StepDiffError
from stepdiff.kitchen.attributes import Attributes, Difference, differences, score
from stepdiff.kitchen.world import Clip, Video, make_world

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
