"""A new view made from an existing one: the same rows, the tokens of P x P neighbouring patches averaged.

Guarantees
- made from float32 tokens and stored as float32, it is bit for bit what `featurize --pool P --dtype float32` makes, and
  has its provenance, so that featurize may add rows
- otherwise the provenance records the source, `float16 from float16`, because the old view's tokens were rounded before
  they are averaged; all other features are the same bits in any case
- see derive.py
"""

from dataclasses import replace

from stepdiff.common.errors import StepDiffError
from store.feature_store import Store
from store.format.pool import TOKENS, pooled, pooled_view
from store.io.writer import Values
from store.verbs.derive import Derived, derive
from store.verbs.options import PoolOptions
from store.verbs.requantise import made_from


def pool(options: PoolOptions) -> Derived:
    """Pool the missing rows. StepDiffError where the old view cannot be pooled, or the new one has another source."""
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    if options.pool < 2:
        raise StepDiffError(f"--pool {options.pool} averages nothing: give 2 or more")
    provenance, features, steps = pooled_view(old.provenance, old.features, options.pool)
    before, dtype = old.features[TOKENS].dtype, options.dtype or old.features[TOKENS].dtype
    if (before, dtype) != ("float32", "float32"):
        provenance = replace(provenance, dtypes=made_from(old, TOKENS, dtype).dtypes)
    features[TOKENS] = replace(features[TOKENS], dtype=dtype)

    def averaged(values: Values) -> Values:
        return {**values, TOKENS: pooled(values[TOKENS], steps, options.pool)}

    return derive(store, old, options.to, provenance, features, TOKENS, "pooled", options.wait, averaged)
