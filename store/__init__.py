"""The feature store: Zarr v3 arrays of cached features, and the catalog of their rows.

Names are imported when they are first used. `store.torch` has datasets of torch; no other module
imports torch.
"""

import stepdiff_core

stepdiff_core.enter("store")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepdiff_core.errors import StepDiffError
    from store.batches import Batch, Batches
    from store.catalog.catalog import Catalog
    from store.feature_store import Store
    from store.provenance import Feature, Provenance, text_key
    from store.view import View


__all__ = [
    "Batch",
    "Batches",
    "Catalog",
    "Feature",
    "Provenance",
    "StepDiffError",
    "Store",
    "View",
    "text_key",
]

__getattr__ = stepdiff_core.lazy(__name__)
