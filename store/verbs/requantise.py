"""A new view made from an existing one: the same rows, the main feature in another dtype.

Guarantees
- the provenance records the source: int8 made from float16 is not int8 made from float32
- see derive.py
"""

from dataclasses import replace

from stepdiff.common.errors import StepDiffError
from store.feature_store import Store
from store.provenance import Provenance, main_feature, with_dtype
from store.verbs.derive import Derived, derive
from store.verbs.options import RequantiseOptions
from store.view import View


def requantise(options: RequantiseOptions) -> Derived:
    """Convert the missing rows. StepDiffError where the old view does not exist, or the new one has another source."""
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    main = main_feature(old.features)
    if old.features[main].dtype == options.dtype:
        raise StepDiffError(f"{main} of view {old.name} is {options.dtype} already: give another --dtype")
    features, provenance = with_dtype(old.features, options.dtype), made_from(old, main, options.dtype)
    return derive(store, old, options.to, provenance, features, main, "requantised", options.wait)


def made_from(old: View, feature: str, dtype: str) -> Provenance:
    """Return the provenance of `old`, its `feature` in `dtype`: `int8 from float16`."""
    before = old.provenance.dtypes.get(feature, old.features[feature].dtype)
    return replace(old.provenance, dtypes={**old.provenance.dtypes, feature: f"{dtype} from {before}"})
