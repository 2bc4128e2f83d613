"""A small rendered how-to world with exact ground truth: the embedded sample data set."""

import common.cli.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from common.errors import StepDiffError
from kitchen.attributes import Attributes, Difference, differences
from kitchen.scoring import score
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
