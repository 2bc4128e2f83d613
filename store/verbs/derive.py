"""A new view made from the rows of an existing one.

Guarantees
- features that are not converted keep every bit; failed rows are failed in the new view too, for the same reason
- a killed run resumes, and a later run adds what is new in the old view
- memory holds the features of one shard
- no damaged row is copied
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from jaxtyping import Int64

from stepdiff.common.progress import progress
from store.feature_store import Store
from store.io.writer import Values
from store.provenance import Feature, Provenance
from store.view import ABSENT, FAILED, OK, View


@dataclass(frozen=True)
class Derived:
    """The new view. Counts are of rows that are finished or failed in the old view."""

    store: str
    entity: str
    view: str
    made_from: str
    feature: str
    """the feature that is converted"""
    dtype: str
    done: int
    """converted by this run"""
    already: int
    """converted before"""
    failed: int
    """failed in the old view, or because they do not fit the dtype"""
    seconds: float


def derive(
    store: Store,
    old: View,
    to: str,
    provenance: Provenance,
    features: Mapping[str, Feature],
    feature: str,
    verb: str,
    wait: bool,
    convert: Callable[[Values], Values] = lambda values: values,
) -> Derived:
    """Write the missing rows of the view `to`.

    Args:
        store: the store of both views.
        old: the view to read, which compares rows with their checksums always.
        to: the name of the new view.
        provenance: of the new view.
        features: likewise.
        feature: the one that is converted.
        verb: how, for the record of each shard: `VERB_from` names the old view.
        wait: wait while another process holds the lock.
        convert: makes the features of some rows of the new view from those of the old one, which are floats that
            keep every stored bit.

    Raises StepDiffError where the new view exists and has another provenance.
    """
    begin = time.monotonic()
    info = {f"{verb}_from": old.name, "numpy": version("numpy"), "store": old.provenance.dtypes}
    with store.writer(old.entity, to, provenance, features, info=info, wait=wait) as writer:
        new = writer.view
        source, before = old.status(), new.status()
        todo = np.flatnonzero(((source == OK) & (before != OK)) | ((source == FAILED) & (before == ABSENT)))
        failures = old.failures()
        reasons = dict(zip(store.catalog(old.entity).rows(failures["key"]).tolist(), failures["reason"], strict=True))

        def copied(rows: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
            good, failed = rows[source[rows] == OK], rows[source[rows] == FAILED]
            values = {
                name: old.read(name, good, dtype="float32" if made.dtype == "int8" else None)
                for name, made in old.features.items()
            }
            return convert(values), {row: reasons[row] for row in failed.tolist()}

        with progress(f"{old.name} to {new.name}", len(todo)) as advance:
            writer.fill(todo, copied, advance)
    after = new.status()
    return Derived(
        store=str(store.path),
        entity=old.entity,
        view=new.name,
        made_from=old.name,
        feature=feature,
        dtype=features[feature].dtype,
        done=int((after[todo] == OK).sum()),
        already=int((before == OK).sum()),
        failed=int((after == FAILED).sum()),
        seconds=round(time.monotonic() - begin, 3),
    )
