"""Snapshots of earlier versions become folders of links.

    snapshots/NAME/snapshot.json                  parts of the catalog with their seals, figures of views
    snapshots/NAME/ENTITY/forgotten.parquet       the rows that were forgotten
    snapshots/NAME/ENTITY/VIEW/<first>.parquet    status and digest of each row
    snapshots/NAME/ENTITY/VIEW/failures.parquet   key and reason of the rows that failed
    kept/ENTITY/VIEW/<shard>-<crc>/               rows that the store has replaced: arrays, checksum, status
    kept/catalog/ENTITY/<seal>/<part>             parts of a catalog that it has replaced

The new files are written next to the old ones, and snapshot.json is deleted last: a killed conversion begins again.
"""

from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt8, UInt32

from stepdiff.common.errors import StepDiffError, some
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place, listed
from stepdiff.common.io.locks import locked
from store.catalog.catalog import Catalog, forgotten_path
from store.catalog.parts import is_part
from store.format.layout import ARRAYS, EARLIER, LOCK, SNAPSHOTS, ViewPaths, array_metadata, read_json, write_json
from store.format.shard import encode_chunk, read_chunk
from store.io.records import FAILED, OK, REASONS, Write, encode_writes, writes_of_shard
from store.provenance import check_entity, check_name
from store.snapshots.repair import write_array
from store.snapshots.snapshot import CONTENT, moved, names, row_digests, write_about
from store.view import View

KEPT = "kept"
_IMPOSSIBLE = KeyError, TypeError, AttributeError, ValueError, pl.exceptions.PolarsError
"""raised by content that no version wrote"""


def convert(store: Place, wait: bool = False) -> list[str]:
    """Convert all snapshots of earlier versions; return their names. StepDiffError where rows that one has are lost."""
    with locked(store / LOCK, wait):
        old = [name for name in names(store)[0] if (store / SNAPSHOTS / name / EARLIER).exists()]
        for name in old:
            folder = store / SNAPSHOTS / name
            try:
                _convert(store, folder)
            except (*_IMPOSSIBLE, FileNotFoundError, StepDiffError) as error:
                raise StepDiffError(
                    f"snapshot {name} of {store} cannot be converted ({error}): restore what is lost, or delete the "
                    f"snapshot with store tag {store} {name} --delete"
                ) from None
        (store / KEPT).remove()
    return old


def _convert(store: Place, folder: Place) -> None:
    about = read_json(folder / EARLIER)
    for name in CONTENT:
        (folder / name).remove()
    (store / ARRAYS / "zarr.json").link_as(folder / ARRAYS / "zarr.json")
    for entity, known in about["catalogs"].items():
        catalog = Catalog(store / "catalog" / check_entity(entity))
        for name, seal in known["parts"].items():
            part = catalog.folder / PurePosixPath(name).name
            if not is_part(part) or not part.exists() or table.written_seal(part) != seal:
                part = store / KEPT / "catalog" / entity / check_name("seal", seal) / part.name
            part.link_as(folder / "catalog" / entity / part.name)
        if (folder / entity / "forgotten.parquet").exists():
            (folder / entity / "forgotten.parquet").link_as(forgotten_path(folder, entity))
        for view, figures in about["views"].get(entity, {}).items():
            _convert_view(View(store, catalog, entity, check_name("view", view)), folder, figures)
        Catalog(folder / "catalog" / entity).index()
    snapshot = write_about(folder, folder.name, str(about["created"]), str(about["note"]))
    for entity, views in about["views"].items():
        for view, figures in views.items():
            if snapshot.views[entity][view].commit != figures["commit"]:
                raise StepDiffError(f"view {view} has other rows than its commit {figures['commit']}")
    (folder / EARLIER).unlink()
    for entity in about["catalogs"]:
        (folder / entity).remove()


def _convert_view(now: View, folder: Place, about: dict[str, Any]) -> None:
    """Link or write the files of a view as they were."""
    if now.provenance.as_dict() != about["provenance"] or now.rows_per_shard != about["rows_per_shard"]:
        raise StepDiffError(f"view {now.name} was dropped and made again")
    paths, size, entity = ViewPaths(folder, now.entity, now.name), now.rows_per_shard, now.entity
    for array in now.arrays:
        write_json(paths.metadata(array), array_metadata(entity, array, about["rows"], now.stored, size))
    for group in (paths.group, paths.group.parent):
        if not (group / "zarr.json").exists():
            moved(group / "zarr.json", folder, folder.parent.parent).link_as(group / "zarr.json")
    rows = pl.concat(
        [pl.DataFrame(schema={"status": pl.UInt8, "digest": pl.UInt32})]
        + [table.read(path) for path in listed(folder / entity / now.name, "[0-9]*.parquet")]
    )
    versions: dict[int, list[Place]] = {}
    for version in listed(folder.parent.parent / KEPT / entity / now.name, "[0-9]*-*"):
        versions.setdefault(int(version.name.partition("-")[0]), []).append(version)
    lost: list[int] = []
    for shard in range(-(-about["rows"] // size)):
        here = rows[shard * size : (shard + 1) * size]
        status, digests = np.zeros(size, np.uint8), np.zeros(size, np.uint32)
        status[: len(here)], digests[: len(here)] = here["status"].to_numpy(), here["digest"].to_numpy()
        if status.any():
            slots = _convert_shard(now, paths, shard, status, digests, versions.get(shard, []))
            lost += [shard * size + slot for slot in slots]
    if lost:
        raise StepDiffError(f"rows of view {now.name} are lost: {some(now.catalog.keys(np.array(lost)), 5)}")
    _convert_failures(now, paths, rows["status"].to_numpy())


def _convert_shard(
    now: View,
    paths: ViewPaths,
    shard: int,
    status: UInt8[np.ndarray, " slots"],
    digests: UInt32[np.ndarray, " slots"],
    kept: list[Place],
) -> list[int]:
    """Link or write status, checksums, features and record of a shard; return the slots of lost rows.

    `kept` are folders of rows that the store has replaced. Of `sources`, None is the store.
    """
    shape = now.rows_per_shard, len(now.checksummed)
    paths_of_sums = [(now.paths.checksum(shard), None), *((version / "checksum", version) for version in kept)]
    chunks = [(read_chunk(path, shape, "uint32"), version) for path, version in paths_of_sums]
    sources = [(sums, version) for sums, version in chunks if sums is not None]
    ok, unknown = status == OK, status == OK
    sums, of_now = np.zeros(shape, np.uint32), status == FAILED
    for known, version in sources:
        same = unknown & (row_digests(known) == digests)
        sums[same], unknown = known[same], unknown & ~same
        of_now |= same & (version is None)
    lost = set(np.flatnonzero(unknown).tolist())
    linked = bool((of_now[ok] & (now.shard_status(shard)[ok] == OK)).all())  # else a writer may have replaced a row
    if not linked:
        paths.checksum(shard).put([encode_chunk(sums)])
    elif ok.any():
        now.paths.checksum(shard).link_as(paths.checksum(shard))
    for column, name in enumerate(now.checksummed):
        feature, old = now.stored[name], now.shard_path(name, shard)
        path = moved(old, now.paths.store, paths.store)
        if not linked:
            files = [old if version is None else version / name for _, version in sources]
            lost |= set(write_array(path, files, feature, sums[:, column], ok & ~unknown).tolist())
        elif old.exists():
            old.link_as(path)
    paths.status(shard).put([encode_chunk(status)])
    rows = frozenset((shard * now.rows_per_shard + np.flatnonzero(of_now)).tolist())
    writes = writes_of_shard(now.paths, shard, now.rows_per_shard)
    paths.info(shard).put([encode_writes(shard, [Write(one.rows & rows, one.info, one.date) for one in writes])])
    return sorted(lost)


def _convert_failures(now: View, paths: ViewPaths, status: UInt8[np.ndarray, " rows"]) -> None:
    """Write the reasons of rows that failed, for each shard that has any."""
    path = paths.store / now.entity / now.name / "failures.parquet"
    reasons = table.read(path) if path.exists() else pl.DataFrame(schema=REASONS)
    shards = now.catalog.rows(reasons["key"]) // now.rows_per_shard
    for shard in np.unique(np.flatnonzero(status == FAILED) // now.rows_per_shard).tolist():
        data = table.encode(reasons.filter(pl.Series(shards == shard, dtype=pl.Boolean)).select(*REASONS))
        paths.failures(shard).put([data], len(data))
