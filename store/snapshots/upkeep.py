"""What `store verify` and `store compact` do about snapshots and what is kept for them.

Guarantees
- a row that a snapshot names and that no longer has its bytes anywhere is found
- compact deletes what no snapshot names any more, and nothing else
- nothing is deleted while a snapshot is being made
"""

from collections.abc import Iterable, Iterator

import numpy as np

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place, listed
from store.feature_store import Store
from store.io.status import OK
from store.provenance import ENTITIES
from store.snapshots.kept import VERSION, kept_version
from store.snapshots.kept_parts import KEPT
from store.snapshots.manifest import FILE, Snapshot, folder_of, names, snapshots
from store.snapshots.rows_then import RowsThen, row_digests
from store.snapshots.store_then import StoreOfSnapshot
from store.snapshots.view_then import ViewOfSnapshot

_Found = tuple[Place, str, Iterable[str]]


def snapshot_damage(store: Store) -> Iterator[_Found]:
    """Yield path, damage and clips of each damaged file of a snapshot, and of each row that is lost to one."""
    for name in names(store.path)[0]:
        path = folder_of(store.path, name) / FILE
        try:
            then = StoreOfSnapshot(store.path, name)
        except StepDiffError as error:
            yield path, f"is refused ({error})", ()
            continue
        for entity in then.entities():
            try:
                then.forgotten(entity)
                for part in then.catalog(entity).parts():
                    table.read(part, ["row"])
                views = [then.view(entity, view) for view in then.views(entity)]
            except StepDiffError as error:
                yield path, f"names what is damaged or gone ({error})", ()
                continue
            for view in views:
                yield from _view(path, view)


def _view(path: Place, view: ViewOfSnapshot) -> Iterator[_Found]:
    for first in range(0, len(view), view.then.group):
        rows = np.arange(first, min(first + view.then.group, len(view)))
        try:
            ok = rows[view.status(rows) == OK]
            lost, why = view.lost(ok)
        except StepDiffError as error:
            yield path, f"names rows of view {view.name} that cannot be read ({error})", ()
            continue
        if len(lost):
            what = f"names rows of view {view.name} whose features of then are gone or damaged ({why})"
            yield path, what, view.catalog.keys(lost)
    try:
        view.failures()
    except StepDiffError as error:
        yield path, f"has damaged reasons of view {view.name} ({error})", ()


def unnamed(store: Store) -> Iterator[Place]:
    """Yield the kept files and folders that no snapshot names. StepDiffError: a snapshot is damaged."""
    if names(store.path)[1] or not (store.path / KEPT).is_dir():
        return
    known = snapshots(store.path)
    for entity in ENTITIES:
        for folder in listed(store.path / KEPT / "catalog" / entity, "*"):
            for part in listed(folder, "*"):
                if not any(_names_part(one, entity, part) for one in known):
                    yield part
        for folder in listed(store.path / KEPT / entity, "*"):
            views = [one for one in known if folder.name in one.views.get(entity, {})]
            if not views:
                yield folder
            elif folder.name in store.views(entity):
                for version in listed(folder, "*"):
                    if not any(_names_rows(store, one, entity, version) for one in views):
                        yield version


def _names_part(snapshot: Snapshot, entity: str, part: Place) -> bool:
    then = snapshot.catalogs.get(entity)
    return then is not None and then.parts.get(part.name) == part.parent.name


def _names_rows(store: Store, snapshot: Snapshot, entity: str, version: Place) -> bool:
    """Return whether a snapshot names a row of a kept version, or may: where the version is damaged or not whole."""
    name = version.parent.name
    view, match = store.view(entity, name), VERSION.fullmatch(version.name)
    try:
        found = kept_version(view, version)
    except StepDiffError:
        return True  # which verify reports
    if match is None or found is None:
        return True
    slots = np.flatnonzero(found[0] == OK)
    rows = int(match[1]) * view.rows_per_shard + slots
    status, digests = RowsThen(store.path, snapshot.name, entity, name, snapshot.views[entity][name]).of(rows)
    return bool(((status == OK) & (digests == row_digests(found[1][slots]))).any())
