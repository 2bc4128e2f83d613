"""Videos and texts become features of a store, once."""

from featurize.errors import FeaturizeError

__all__ = ["FeaturizeError"]
