"""Frozen encoders: frames and texts become features."""

from featurize.encoders.base import Encoder, unusable
from featurize.encoders.loading import NAMES, load

__all__ = ["NAMES", "Encoder", "load", "unusable"]
