"""A model's name -> a local folder and its fingerprint."""

import stepdiff_core

stepdiff_core.enter("stepdiff_core.weights")

from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights.download import fetch
from stepdiff_core.weights.registry import NAMES
from stepdiff_core.weights.resolving import fingerprint, resolve, resolve_of_data

__all__ = ["NAMES", "StepDiffError", "fetch", "fingerprint", "resolve", "resolve_of_data"]
