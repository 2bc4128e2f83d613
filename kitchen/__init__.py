"""A small rendered how-to world with exact ground truth: the embedded sample data set."""

import _stepdiff

_stepdiff.enter("kitchen")

from common.errors import StepDiffError
from kitchen.attributes import Attributes, Difference, differences, score
from kitchen.world import Clip, Video, make_world

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
