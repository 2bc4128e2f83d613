"""Frozen encoders: frames and texts become features."""

from featurize.encoders.base import Encoder, unusable
from featurize.encoders.loading import NAMES, deciding, load

__all__ = ["NAMES", "Encoder", "deciding", "load", "unusable"]
