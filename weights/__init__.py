"""A model's name -> a local folder and its fingerprint."""

import _stepdiff

_stepdiff.enter("weights")

from common.errors import StepDiffError
from weights.download import fetch
from weights.registry import NAMES
from weights.resolving import fingerprint, resolve

__all__ = ["NAMES", "StepDiffError", "fetch", "fingerprint", "resolve"]
