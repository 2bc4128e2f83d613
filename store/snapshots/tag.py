"""A snapshot is made, also while a run writes the store.

Its folder exists before anything is read, and a writer that sees an unfinished snapshot keeps whatever that might name
(`store.snapshots.kept`). So no lock is needed, and a run of weeks can be tagged in the middle.

Guarantees
- a snapshot exists completely or not at all
- a name is given once
- a snapshot that is made while others write names each row as it was at one moment
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np
import polars as pl
from jaxtyping import UInt8

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import BLANK
from stepdiff.common.progress import progress
from store.catalog.catalog import Catalog
from store.catalog.forgotten import write_list
from store.feature_store import Store
from store.format.layout import write_json
from store.io.status import ABSENT, FAILED, REASONS
from store.snapshots.manifest import FAILURES, FILE, FOLDER, FORGOTTEN, NOW, CatalogThen, Snapshot, ViewThen, folder_of
from store.snapshots.rows_then import figures_of, write_group
from store.view import View

_BEGUN = "begun.json"


def tag(store: Store, name: str, note: str = "") -> Snapshot:
    """Make a snapshot of all catalogs and views.

    Raises:
        StepDiffError: the name is taken or impossible, the disk is full, or the store is damaged.
    """
    refuse_snapshot(store)
    if name == NOW:
        raise StepDiffError(f"snapshot name {NOW} is refused: store log calls the current state so; give another name")
    target = folder_of(store.path, name)
    if target.is_dir():
        done = (target / FILE).exists()
        raise StepDiffError(
            f"snapshot {name} of {store.path} {'exists' if done else 'was begun and not finished'}: give another name, "
            f"or delete it with store tag --delete {name}"
        )
    with target.whole_folder(store.path / FOLDER) as folder:
        if not (folder / _BEGUN).create([b"{}"], 2):  # from now on writers keep what they replace
            raise StepDiffError(f"snapshot {name} of {store.path} is being made by another process: give another name")
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        entities = store.entities()
        gone = {entity: store.forgotten(entity) for entity in entities}
        catalogs = {entity: _catalog(store.catalog(entity)) for entity in entities}
        views: dict[str, dict[str, ViewThen]] = {entity: {} for entity in entities}
        every = [store.view(entity, view) for entity in entities for view in store.views(entity)]
        with progress("views tagged", len(every)) as advance:
            for view in every:
                entity, into = view.entity, folder / view.entity / view.name
                views[entity][view.name], status = _view(into, view, catalogs[entity].rows)
                gone[entity] = _without_recalled(gone[entity], status)
                advance(1)
        for view in every:  # `store drop` refuses from now on
            view.check_not_dropped()
        for entity, rows in gone.items():
            if len(rows):
                write_list(folder / entity / FORGOTTEN, rows)
                catalogs[entity] = replace(catalogs[entity], forgotten=len(rows))
        made = Snapshot(name, created, note, catalogs, views)
        write_json(folder / FILE, {**asdict(made), "seal": BLANK})
        (folder / _BEGUN).unlink()
    return made


def refuse_snapshot(store: Store) -> None:
    """Raise StepDiffError for the store of a snapshot."""
    if store.at is not None:
        raise StepDiffError(f"snapshot {store.at} of {store.path} has no snapshots: give the store without it")


def _catalog(catalog: Catalog) -> CatalogThen:
    """Return the catalog's parts as they were together."""
    while True:
        parts, rows = catalog.parts(), len(catalog)
        try:
            seals = {part.name: table.written_seal(part) for part in parts}
        except StepDiffError:
            if catalog.parts() == parts:
                raise
            continue  # one was merged into another
        if catalog.parts() == parts:
            return CatalogThen(rows, seals)


def _view(folder: Place, view: View, most: int) -> tuple[ViewThen, UInt8[np.ndarray, " rows"]]:
    """Write status and digests of the rows of a view, of at most `most`, and why rows failed; return the statuses."""
    about, status = figures_of(view, most, partial(write_group, folder))
    if about.failed:
        data = table.encode(view.failures(np.flatnonzero(status == FAILED)).select(*REASONS))
        (folder / FAILURES).put([data], len(data))
    return about, status


def _without_recalled(gone: pl.DataFrame, status: UInt8[np.ndarray, " rows"]) -> pl.DataFrame:
    """Return a list of forgotten rows without those that were recalled and computed since it was read."""
    rows = gone["row"].to_numpy()
    recalled, known = np.zeros(len(rows), bool), rows < len(status)
    recalled[known] = status[rows[known]] != ABSENT
    return gone.filter(~recalled)
