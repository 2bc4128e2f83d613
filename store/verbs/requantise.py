"""A new view made from an existing one: the same rows, the main feature in another dtype.

Guarantees
- the provenance records the source: int8 made from float16 is not int8 made from float32
- the other features keep every bit; failed rows are failed in the new view too, for the same reason
- a killed run resumes, and a later run adds what is new in the old view
- memory holds the features of one shard
- no damaged row is copied
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.progress import progress
from store.feature_store import Store
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def requantise(options: RequantiseOptions) -> Requantised:
    """Convert the missing rows. StepDiffError where the old view does not exist, or the new one has another source."""
    begin = time.monotonic()
    store = Store.open(options.path)
    old = store.view(options.entity, options.view, check="always")
    main = main_feature(old.features)
    if old.features[main].dtype == options.dtype:
        raise StepDiffError(f"{main} of view {old.name} is {options.dtype} already: give another --dtype")
    with store.lock(options.wait):
        features = with_dtype(old.features, options.dtype)
        new = store.create_view(options.entity, options.to, made_from(old, main, options.dtype), features)
        new.resize()
        source, before = old.status(), new.status()
        todo = np.flatnonzero(((source == OK) & (before != OK)) | ((source == FAILED) & (before == ABSENT)))
        with progress(f"{old.name} to {new.name}", len(todo)) as advance:
            _copy(old, new, todo, source, advance)
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


def _copy(
    old: View, new: View, rows: Int64[np.ndarray, " todo"], status: np.ndarray, advance: Callable[[int], None]
) -> None:
    """Write `rows` of the new view, shard by shard; `status` is that of every row of the old one."""
    reasons = _reasons(old)
    info = {"requantised_from": old.name, "numpy": version("numpy"), "store": old.provenance.dtypes}
    shards = rows // new.rows_per_shard
    for shard in np.unique(shards).tolist():
        here = rows[shards == shard]
        good, failed = here[status[here] == OK], here[status[here] == FAILED]
        features = {name: _values(old, name, good) for name in old.features}
        new.write_shard(shard, good, features, {row: reasons[row] for row in failed.tolist()}, info)
        advance(len(here))


def _values(view: View, name: str, rows: Int64[np.ndarray, " K"]) -> np.ndarray:
    """Return rows of a feature as floats that hold what is stored."""
    return view.read_float(name, rows) if view.features[name].dtype == "int8" else view.read(name, rows)


def _reasons(view: View) -> Mapping[int, str]:
    """Return row -> why it failed."""
    frame = view.failures()
    rows = view.catalog.rows(frame["key"].to_list()).tolist()
    return dict(zip(rows, frame["reason"], strict=True))
