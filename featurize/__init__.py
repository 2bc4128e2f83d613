"""Videos and texts become features of a store, once."""

import _stepdiff

_stepdiff.enter("featurize")

from common.errors import StepDiffError

__all__ = ["StepDiffError"]
