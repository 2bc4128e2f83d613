"""Rows are forgotten, or recalled; a view is dropped.

Order of a commit: the rows become absent in every view, then the list names them, then they are
made absent once more, because a worker of a dead run may have finished one of them in between. From
then on writers refuse them.

Guarantees
- a forgotten row is absent in every view
- a kill at any step leaves other rows as they are, and the same command completes the rest
- an unknown key is refused before anything changes
- a view is gone at once or not at all: its group is renamed away before a byte is deleted, or in an
  object store its zarr.json is deleted before the rest
- files that a killed drop leaves are ignored, and removed by the next run or by compact; in an
  object store by the same command or by the next view of that name, and until then verify may miss
  its zarr.json
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, listed
from store.catalog.catalog import are_forgotten, forgotten_path, read_forgotten, write_forgotten
from store.feature_store import Store
from store.format.layout import ViewPaths
from store.provenance import check_entity, check_name
from store.snapshots.snapshot import names, read_snapshot
from store.verbs.options import DropOptions, ForgetOptions
from store.view import ABSENT


def forget(options: ForgetOptions) -> dict[str, Any]:
    """Forget rows, or recall them. StepDiffError: a key is unknown, or another run is writing.

    Returns how many `rows` changed and how many were so `already`; `withdrawn`, the finished rows
    of each view that became absent; `stale`, the cards of indexes of those views, which are refused
    from now on.
    """
    store, entity = Store.open(options.path), check_entity(options.entity)
    keys = list(dict.fromkeys(options.keys))
    with store.lock(options.wait):
        rows = store.catalog(entity).rows(keys)
        if (rows < 0).any():
            unknown = keys[int(np.argmax(rows < 0))]
            raise StepDiffError(
                f"no key {unknown!r} among the {entity} of {store.path}: nothing was changed"
            )
        forgotten = read_forgotten(store.path, entity)
        before = np.isin(rows, forgotten["row"].to_numpy())
        withdrawn: dict[str, int] = {}
        if options.undo:
            gone = pl.col("row").is_in(rows.tolist())
            if before.any():
                write_forgotten(store.path, entity, forgotten.filter(~gone))
        else:
            withdrawn = _withdraw(store, entity, rows)
            new = pl.DataFrame({"row": rows, "key": keys}).filter(pl.Series(~before))
            if len(new):
                new = new.with_columns(reason=pl.lit(options.reason, pl.String))
                write_forgotten(store.path, entity, pl.concat([forgotten, new]))
            for view, count in _withdraw(store, entity, rows).items():
                withdrawn[view] = withdrawn.get(view, 0) + count
    changed = int((before if options.undo else ~before).sum())
    cards = (listed(store.path / "indexes" / entity, f"{view}.json") for view in withdrawn)
    stale = [str(path) for card in cards for path in card]
    counts = {
        "rows": changed,
        "already": len(rows) - changed,
        "withdrawn": withdrawn,
        "stale": stale,
    }
    return {"store": str(store.path), "entity": entity, "recalled": options.undo, **counts}


def _withdraw(store: Store, entity: str, rows: np.ndarray) -> dict[str, int]:
    """Make rows absent in every view; return view -> how many of them were finished, if any
    were."""
    counts = {name: store.view(entity, name).withdraw(rows) for name in store.views(entity)}
    return {name: count for name, count in counts.items() if count}


def wrongly_forgotten(store: Store, entity: str) -> Iterator[tuple[Place, str, list[str]]]:
    """Yield, for verify, a damaged list, and the keys of forgotten rows that have features in a
    view."""
    path = forgotten_path(store.folder, entity)
    if not path.exists():
        return
    try:
        rows = read_forgotten(store.folder, entity)["row"].to_numpy()
        for name in store.views(entity):
            finished = rows[store.view(entity, name).status(rows) != ABSENT]
            # others were recalled in the meantime
            finished = finished[are_forgotten(store.folder, entity, finished)]
            if len(finished):
                what = (
                    f"names rows of which view {name} has features: run python -m store forget for "
                    "them again"
                )
                yield path, what, store.catalog(entity).keys(finished)
    except StepDiffError as error:
        yield path, f"is refused ({error})", []


def drop(options: DropOptions) -> dict[str, Any]:
    """Remove a view if `yes`. StepDiffError if it does not exist, or another run is writing.

    Returns its bytes and files; `stale`, the indexes and cards that were built from it and stay;
    and whether it is `dropped`.
    """
    store = Store.open(options.path)
    paths = ViewPaths(store.path, check_entity(options.entity), check_name("view", options.view))
    with store.lock(options.wait):
        every = names(store.path)[0] if options.yes else []
        views = {
            name: read_snapshot(store.path, name).views.get(options.entity, {}) for name in every
        }
        # which keeps its files
        if having := ", ".join(name for name in every if options.view in views[name]):
            raise StepDiffError(
                f"view {options.view} of {options.entity} in {store.path} is in snapshot {having}: "
                "delete that first, with store tag --delete"
            )
        folders = [folder for folder in (paths.group, *paths.beside) if folder.is_dir()]
        if not folders:
            there = ", ".join(store.views(options.entity)) or "none"
            raise StepDiffError(
                f"no view {options.view!r} of {options.entity} in {store.path}: it has {there}"
            )
        sizes = [size for folder in folders for size in folder.files().values()]
        stale = [
            str(path)
            for path in listed(store.path / "indexes" / options.entity, f"{options.view}.*")
        ]
        # the group first: without it there is no view
        for folder in folders if options.yes else ():
            folder.remove_folder(store.path)
    view = {"store": str(store.path), "entity": options.entity, "view": options.view}
    return {
        **view,
        "bytes": sum(sizes),
        "files": len(sizes),
        "stale": stale,
        "dropped": options.yes,
    }
