"""A model's name -> a local folder and its fingerprint."""

import stepdiff

stepdiff.enter("stepdiff.weights")

from stepdiff.common.errors import StepDiffError
from stepdiff.weights.download import fetch
from stepdiff.weights.registry import NAMES
from stepdiff.weights.resolving import fingerprint, resolve, resolve_of_data

__all__ = ["NAMES", "StepDiffError", "fetch", "fingerprint", "resolve", "resolve_of_data"]
