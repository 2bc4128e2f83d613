"""Import of features from an HDF5 file into a view of a store.

Guarantees
- a killed run resumes, and ends with the same arrays as an uninterrupted one
- float16 and float32 keep every bit
- a clip that cannot be read or does not fit is recorded as failed, and changes no other
- memory holds the keys, and the features of one shard
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from common.progress import progress
from store.feature_store import Store
from store.io.writer import Values, ViewWriter
from store.provenance import Feature, Provenance, with_dtype
from store.verbs.hdf5_layout import Source, opened
from store.verbs.options import ImportOptions
from store.view import ABSENT, FAILED, OK

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Imported:
    """The outcome of an import."""

    path: str
    store: str
    entity: str
    view: str
    asked: int
    """clips of the file"""
    done: int
    """imported by this run"""
    already: int
    """imported before"""
    failed: int
    """failed in this run or an earlier one"""
    seconds: float
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of the failed clips"""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def import_hdf5(options: ImportOptions) -> Imported:
    """Import what is missing of a file. StepDiffError where the file, the store or the view cannot be used."""
    if not _SHA256.fullmatch(options.weights_sha256):
        raise StepDiffError(f"--weights-sha256 {options.weights_sha256!r} is not a sha256: give 64 hex digits")
    begin = time.monotonic()
    path = Path(options.path)
    with opened(path, options.group, options.layout, options.keys, options.features) as source:
        _check_keys(path, source.keys)
        features = {name: Feature(kind.shape, kind.stored) for name, kind in source.kinds.items()}
        if options.dtype:
            features = with_dtype(features, options.dtype)
        store = Store.open(options.store, create=True)
        info = {"imported_from": path.name, "h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version}
        provenance = _provenance(options, features)
        with store.writer(options.entity, options.view, provenance, features, info=info, wait=options.wait) as writer:
            view = writer.view
            rows = writer.add(pl.DataFrame({"key": source.keys}))
            before = view.status()[rows]
            todo = before == ABSENT
            if options.retry_failed:
                todo |= before == FAILED
            places = np.flatnonzero(todo)
            with progress(f"import into {options.view}", len(places)) as advance:
                _import(source, writer, rows, places, advance)
    after = view.status()[rows]
    failed = {source.keys[place] for place in np.flatnonzero(after == FAILED).tolist()}
    failures = view.failures() if failed else pl.DataFrame(schema={"key": pl.String, "reason": pl.String})
    return Imported(
        path=str(path),
        store=str(store.path),
        entity=options.entity,
        view=options.view,
        asked=len(rows),
        done=int(((after == OK) & todo).sum()),
        already=int((before == OK).sum()),
        failed=len(failed),
        seconds=round(time.monotonic() - begin, 3),
        failures=failures.filter(pl.col("key").is_in(failed)).to_dicts(),
    )


def _import(
    source: Source,
    writer: ViewWriter,
    rows: Int64[np.ndarray, " keys"],
    places: Int64[np.ndarray, " todo"],
    advance: Callable[[int], None],
) -> None:
    """Write the clips at `places` of the source; `rows` are the rows of all its clips."""
    places = places[np.argsort(rows[places])]

    def imported(some: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
        here = places[np.searchsorted(rows[places], some)]
        with np.errstate(over="ignore"):  # a float64 that overflows becomes infinity, and its clip fails
            features, reasons = source.read(here)
        if reasons:
            good = np.setdiff1d(np.arange(len(here)), list(reasons))
            features = {name: values[good] for name, values in features.items()}
        return features, {int(some[at]): reason for at, reason in reasons.items()}

    writer.fill(rows[places], imported, advance)


def _provenance(options: ImportOptions, features: dict[str, Feature]) -> Provenance:
    return Provenance(
        encoder=options.encoder,
        weights=options.weights_sha256,
        layer=options.layer,
        frames=options.frames,
        crop=options.crop,
        dtypes={name: feature.dtype for name, feature in features.items()},
    )


def _check_keys(path: Path, keys: list[str]) -> None:
    """Raise StepDiffError where a key is empty or duplicated."""
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        if not key:
            raise StepDiffError(f"{path} has no key for row {place}: give every row one")
        if places.setdefault(key, place) != place:
            raise StepDiffError(f"{path} has key {key!r} in rows {places[key]} and {place}: keys are unique")
