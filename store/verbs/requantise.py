"""A new view out of one that stands: the same rows, the main feature in another dtype.

Guarantees
- the provenance says what the view was made from: int8 made from float16 is not int8 made from float32
- the other features keep every bit; what failed has failed in the new view too, for the same reason
- a run that is killed resumes, and a later run adds what the old view has got since
- in memory are the features of one shard
- no damaged row is copied
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

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
    """What is in the new view. Counts are of the rows that the old view has, finished or failed."""

    store: str
    entity: str
    view: str
    made_from: str
    feature: str
    """the feature whose dtype is another"""
    dtype: str
    done: int
    """made by this run"""
    already: int
    """there already"""
    failed: int
    """failed in the old view, or now because they do not fit the dtype"""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def requantise(options: RequantiseOptions) -> Requantised:
    """Make what is missing of the new view. StepDiffError where there is no old one, or the new one is another."""
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
        reasons = _reasons(old)

        def copied(rows: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
            good, failed = rows[source[rows] == OK], rows[source[rows] == FAILED]
            values = {name: _values(old, name, good) for name in old.features}
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
    """The provenance of `old`, its `feature` in `dtype`: `int8 from float16`."""
    before = old.provenance.dtypes.get(feature, old.features[feature].dtype)
    return replace(old.provenance, dtypes={**old.provenance.dtypes, feature: f"{dtype} from {before}"})


def _values(view: View, name: str, rows: Int64[np.ndarray, " K"]) -> np.ndarray:
    """Rows of a feature as floats that hold what is stored."""
    return view.read(name, rows, dtype="float32" if view.features[name].dtype == "int8" else None)


def _reasons(view: View) -> Mapping[int, str]:
    """Row -> why it failed."""
    frame = view.failures()
    rows = view.catalog.rows(frame["key"].to_list()).tolist()
    return dict(zip(rows, frame["reason"], strict=True))
