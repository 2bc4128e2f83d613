"""Frozen encoders: frames and texts become features. Encoders of other packages derive from
`Encoder`."""

from featurize.encoders.base import Encoder, statistics_in, unusable
from featurize.encoders.folder import load_model
from featurize.encoders.loading import (
    NAMES,
    digest,
    encoder_class,
    find_weights,
    load,
    of_data,
    proper_name,
    split,
    version_of,
    view_name,
)

__all__ = [
    "NAMES",
    "Encoder",
    "digest",
    "encoder_class",
    "find_weights",
    "load",
    "load_model",
    "of_data",
    "proper_name",
    "split",
    "statistics_in",
    "unusable",
    "version_of",
    "view_name",
]
