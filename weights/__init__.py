"""A model's name -> a local folder and its fingerprint."""

from weights.errors import WeightsError
from weights.fetching import fetch
from weights.fingerprints import fingerprint
from weights.registry import NAMES
from weights.resolving import resolve

__all__ = ["NAMES", "WeightsError", "fetch", "fingerprint", "resolve"]
