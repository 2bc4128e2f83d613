"""The feature store: Zarr v3 arrays of cached features, and the catalog of their rows.

Names are imported when they are first used. `store.torch` has datasets of torch; no other module imports torch.
"""

import _stepdiff

_stepdiff.enter("store")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.errors import StepDiffError
    from store.batches import Batch, Batches
    from store.catalog.catalog import Catalog
    from store.feature_store import Store
    from store.provenance import Feature, Provenance, text_key
    from store.view import View

_MODULES = {
    "Batch": "store.batches",
    "Batches": "store.batches",
    "Catalog": "store.catalog.catalog",
    "Feature": "store.provenance",
    "Provenance": "store.provenance",
    "StepDiffError": "common.errors",
    "Store": "store.feature_store",
    "View": "store.view",
    "text_key": "store.provenance",
}

__all__ = ["Batch", "Batches", "Catalog", "Feature", "Provenance", "StepDiffError", "Store", "View", "text_key"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'store' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
