"""The feature store: Zarr v3 arrays of cached features, and the catalog of their rows."""

import _stepdiff

_stepdiff.enter("store")

from common.errors import StepDiffError
from store.catalog.catalog import Catalog
from store.feature_store import Store
from store.provenance import Feature, Provenance, text_key
from store.view import View

__all__ = ["Catalog", "Feature", "Provenance", "Store", "StepDiffError", "View", "text_key"]
