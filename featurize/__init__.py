"""Videos and texts become features of a store, once."""

import common.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from featurize.errors import FeaturizeError

__all__ = ["FeaturizeError"]
