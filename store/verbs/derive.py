"""New views made from existing ones: the largest feature in another dtype, or tokens of
neighbouring patches averaged.

The provenance records the source: int8 made from float16 is not int8 made from float32. Tokens that
are pooled from float32 and stored as float32 equal the output of `featurize --pool P --dtype
float32` bit for bit, with its provenance, so that featurize may add rows.

Guarantees
- features that are not converted keep every bit; failed rows are failed in the new view too, for
  the same reason
- a killed run resumes, and a later run adds new rows of the old view
- no damaged row is copied, and memory holds the features of one shard
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from stepdiff_core.cli.options import at_least
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import progress
from store.feature_store import Store
from store.format.pool import TOKENS, pooled, pooled_view
from store.io.records import reasons_by_row
from store.io.writer import Values
from store.provenance import Feature, Provenance, RowNumbers, main_feature, with_dtype
from store.verbs.options import DeriveOptions, PoolOptions, RequantiseOptions
from store.view import ABSENT, FAILED, OK, View


def requantise(options: RequantiseOptions) -> dict[str, Any]:
    """Convert the missing rows. StepDiffError if the old view does not exist, or the new one has
    another source."""
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    main = main_feature(old.features)
    if old.features[main].dtype == options.dtype:
        raise StepDiffError(
            f"{main} of view {old.name} is {options.dtype} already: give another --dtype"
        )
    features, provenance = (
        with_dtype(old.features, options.dtype),
        _made_from(old, main, options.dtype),
    )
    return _derive(
        options, store, old, provenance, features, main, "requantised", lambda values: values
    )


def pool(options: PoolOptions) -> dict[str, Any]:
    """Pool the missing rows. StepDiffError if the old view cannot be pooled, or the new one has
    another source."""
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    at_least(options, pool=2)
    provenance, features, grids = pooled_view(old.provenance, old.features, options.pool)
    before, dtype = old.features[TOKENS].dtype, options.dtype or old.features[TOKENS].dtype
    # the old view's tokens were rounded before they are averaged
    if (before, dtype) != ("float32", "float32"):
        provenance = replace(provenance, dtypes=_made_from(old, TOKENS, dtype).dtypes)
    features[TOKENS] = replace(features[TOKENS], dtype=dtype)

    def averaged(values: Values) -> Values:
        return {**values, TOKENS: pooled(values[TOKENS], grids, options.pool)}

    return _derive(options, store, old, provenance, features, TOKENS, "pooled", averaged)


def _made_from(old: View, feature: str, dtype: str) -> Provenance:
    """Return the provenance of `old`, its `feature` in `dtype`: `int8 from float16`."""
    before = old.provenance.dtypes.get(feature, old.features[feature].dtype)
    return replace(
        old.provenance, dtypes={**old.provenance.dtypes, feature: f"{dtype} from {before}"}
    )


def _derive(
    options: DeriveOptions,
    store: Store,
    old: View,
    provenance: Provenance,
    features: Mapping[str, Feature],
    feature: str,
    verb: str,
    convert: Callable[[Values], Values],
) -> dict[str, Any]:
    """Write the missing rows of a view; its `feature` is converted.

    The record of each shard names the old view as `VERB_from`. `convert` makes the features of rows
    of the new view from the old view's features, as floats that keep every stored bit. Returns the
    rows that are `done` by this run, were `already`, and `failed` in the old view or because they
    do not fit the dtype.
    """
    begin = time.monotonic()
    info = {f"{verb}_from": old.name, "numpy": version("numpy"), "store": old.provenance.dtypes}
    with store.writer(
        old.entity, options.to, provenance, features, info=info, wait=options.wait
    ) as writer:
        new = writer.view
        source, before = old.status(), new.status()
        todo = np.flatnonzero(
            ((source == OK) & (before != OK)) | ((source == FAILED) & (before == ABSENT))
        )
        reasons = reasons_by_row(old.catalog, old.failures())

        def copied(rows: RowNumbers) -> tuple[Values, Mapping[int, str]]:
            good, failed = rows[source[rows] == OK], rows[source[rows] == FAILED]
            dtypes = {
                name: "float32" if made.dtype == "int8" else None
                for name, made in old.features.items()
            }
            values = {name: old.read(name, good, dtype=dtype) for name, dtype in dtypes.items()}
            return convert(values), {row: reasons[row] for row in failed.tolist()}

        with progress(f"{old.name} to {new.name}", len(todo)) as advance:
            writer.fill(todo, copied, advance)
    after = new.status()
    return {
        "store": str(store.path),
        "entity": old.entity,
        "view": new.name,
        "made_from": old.name,
        "feature": feature,
        "dtype": features[feature].dtype,
        "done": int((after[todo] == OK).sum()),
        "already": int((before == OK).sum()),
        "failed": int((after == FAILED).sum()),
        "seconds": round(time.monotonic() - begin, 3),
    }
