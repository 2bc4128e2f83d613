"""Frozen encoders: frames and texts become features. Encoders of other packages derive from `Encoder`."""

from featurize.encoders.base import Encoder, unusable
from featurize.encoders.folder import load_model
from featurize.encoders.loading import NAMES, deciding, encoder_class, load, proper_name, split, view_name

__all__ = [
    "NAMES",
    "Encoder",
    "deciding",
    "encoder_class",
    "load",
    "load_model",
    "proper_name",
    "split",
    "unusable",
    "view_name",
]
