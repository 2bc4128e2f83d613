"""Texts about clips: captions, grounded objects, step descriptions, paired questions."""

import _stepdiff

_stepdiff.enter("annotate")

from common.errors import StepDiffError

__all__ = ["StepDiffError"]
