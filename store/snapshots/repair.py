"""Damaged files of snapshots are replaced by those of the store, where these have the same rows.

A damaged file has the same bytes under all its names, and a repair of the store gives its own name to a new file.
"""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from stepdiff.common.errors import DamageError, StepDiffError
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import crc32c
from store.damage import FileDamage, view_damage
from store.feature_store import Store
from store.format.layout import ABOUT
from store.format.shard import index_bytes, open_shard
from store.io.records import OK
from store.provenance import Feature
from store.snapshots.snapshot import figures_of, folder_of, moved, names, read_snapshot
from store.view import View

_MOST_BYTES = 2**30  # of a file that is no array


def repair_snapshots(store: Store, view: View) -> list[FileDamage]:
    """Repair the snapshots of a view whose own damage was repaired; return what is left."""
    left: list[FileDamage] = []
    for name in names(store.path)[0]:
        try:
            then = Store.open(store.path, at=name)
            if view.name in then.views(view.entity):
                left += _repair(then, then.view(view.entity, view.name), view)
        except StepDiffError as error:
            left.append(FileDamage(folder_of(store.path, name) / ABOUT, f"is refused ({error})", "unreadable", None))
    return left


def _repair(store: Store, then: View, now: View) -> list[FileDamage]:
    """Repair one view of the store of a snapshot; return what is left."""
    if not (damage := _damage(then, now)) or store.at is None:
        return damage
    commit = read_snapshot(store.path, store.at).views[then.entity][then.name].commit
    others = [one.path for one in damage if _array(then, one.path) is None]
    before = {path: path.read_whole(_MOST_BYTES) for path in others if path.exists()}
    for path in others:
        same = moved(path, then.paths.store, now.paths.store)
        if same.exists():
            path.put([same.read_whole(_MOST_BYTES)])
    try:
        restored = figures_of(store.view(then.entity, then.name)).commit == commit
    except StepDiffError:
        restored = False
    if not restored:
        for path, data in before.items():
            path.put([data])
    for one in _damage(then, now):
        if one.shard is not None and (array := _array(then, one.path)) is not None:
            ok, column = then.shard_status(one.shard) == OK, then.checksummed.index(array)
            sums = np.zeros(len(ok), np.uint32)
            sums[ok] = then.checksums(one.shard * then.rows_per_shard + np.flatnonzero(ok))[:, column]
            files = [one.path, moved(one.path, then.paths.store, now.paths.store)]
            write_array(one.path, files, then.stored[array], sums, ok)
    return _damage(store.view(then.entity, then.name), now)


def _damage(then: View, now: View) -> list[FileDamage]:
    return list(view_damage(then, len(then.catalog), [now]))


def _array(view: View, path: Place) -> str | None:
    """Return the feature array whose shard file is `path`, None where it is another file."""
    arrays = [name for name in view.stored if str(path).startswith(f"{view.paths.group}/{name}/c/")]
    return arrays[0] if arrays else None


def write_array(
    path: Place,
    sources: Iterable[Place],
    feature: Feature,
    sums: UInt32[np.ndarray, " slots"],
    wanted: Bool[np.ndarray, " slots"],
) -> Int64[np.ndarray, " lost"]:
    """Write a shard file with the wanted rows, each from the first source in which it has its checksum.

    Returns the slots of rows that no source has; nothing is written where that is all of them.
    """
    fill = bytes(feature.row_bytes)
    rows: dict[int, bytes | memoryview] = {}
    for source in sources:
        with suppress(DamageError):
            file = open_shard(source, len(sums))
            for slot in np.flatnonzero(wanted).tolist():
                row = (file.row(slot) if file else None) or fill
                if slot not in rows and len(row) == len(fill) and crc32c(row) == sums[slot]:
                    rows[slot] = row
    present = np.zeros(len(sums), bool)
    present[list(rows)] = True
    if rows:
        data = [rows[slot] for slot in sorted(rows)]
        path.put([*data, index_bytes(present, len(fill))], len(rows) * len(fill))
    return np.flatnonzero(wanted & ~present)
