"""A new view made from an existing one: the same rows, the main feature in another dtype.

Guarantees
- the provenance records the source: int8 made from float16 is not int8 made from float32
- the other features keep every bit; failed rows are failed in the new view too, for the same reason
- a killed run resumes, and a later run adds what is new in the old view
- memory holds the features of one shard
- no damaged row is copied
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.progress import progress
from store.feature_store import Store
from store.io.writer import Values
from store.provenance import Provenance, main_feature, with_dtype
from store.verbs.options import RequantiseOptions
from store.view import ABSENT, FAILED, OK, View


@dataclass(frozen=True)
class Requantised:
    """The new view. Counts are of rows that are finished or failed in the old view."""

    store: str
    entity: str
    view: str
    made_from: str
    feature: str
    """the feature whose dtype changes"""
    dtype: str
    done: int
    """converted by this run"""
    already: int
    """converted before"""
    failed: int
    """failed in the old view, or because they do not fit the dtype"""
    seconds: float


def requantise(options: RequantiseOptions) -> Requantised:
    """Convert the missing rows. StepDiffError where the old view does not exist, or the new one has another source."""
    begin = time.monotonic()
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    main = main_feature(old.features)
    if old.features[main].dtype == options.dtype:
        raise StepDiffError(f"{main} of view {old.name} is {options.dtype} already: give another --dtype")
    features, provenance = with_dtype(old.features, options.dtype), made_from(old, main, options.dtype)
    info = {"requantised_from": old.name, "numpy": version("numpy"), "store": old.provenance.dtypes}
    with store.writer(options.entity, options.to, provenance, features, info=info, wait=options.wait) as writer:
        new = writer.view
        source, before = old.status(), new.status()
        todo = np.flatnonzero(((source == OK) & (before != OK)) | ((source == FAILED) & (before == ABSENT)))
        failures = old.failures()
        reasons = dict(zip(store.catalog(old.entity).rows(failures["key"]).tolist(), failures["reason"], strict=True))

        def copied(rows: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
            good, failed = rows[source[rows] == OK], rows[source[rows] == FAILED]
            values = {  # floats that keep every stored bit
                name: old.read(name, good, dtype="float32" if feature.dtype == "int8" else None)
                for name, feature in old.features.items()
            }
            return values, {row: reasons[row] for row in failed.tolist()}

        with progress(f"{old.name} to {new.name}", len(todo)) as advance:
            writer.fill(todo, copied, advance)
    after = new.status()
    return Requantised(
        store=str(store.path),
        entity=options.entity,
        view=new.name,
        made_from=old.name,
        feature=main,
        dtype=options.dtype,
        done=int((after[todo] == OK).sum()),
        already=int((before == OK).sum()),
        failed=int((after == FAILED).sum()),
        seconds=round(time.monotonic() - begin, 3),
    )


def made_from(old: View, feature: str, dtype: str) -> Provenance:
    """Return the provenance of `old`, its `feature` in `dtype`: `int8 from float16`."""
    before = old.provenance.dtypes.get(feature, old.features[feature].dtype)
    return replace(old.provenance, dtypes={**old.provenance.dtypes, feature: f"{dtype} from {before}"})
