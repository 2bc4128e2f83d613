"""Compaction: small files of a store are merged, and those that nothing refers to are deleted. No
row moves.

Guarantees
- at every moment, also after a kill, each row and each reason can be read once, also by open
  readers
- committed data stays, to the byte; of metadata, all that was written before
- the store's lock is held; a shard that is still being written is left alone
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.errors import HeldError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import Place, listed
from stepdiff_core.io.local import Identity
from stepdiff_core.io.locks import check_held, locked
from stepdiff_core.progress import progress
from store.catalog.catalog import MOST_ROWS, Catalog, part_name, read_part, rows_of_merged, span_of
from store.feature_store import Store
from store.format.layout import (
    ARRAYS,
    MERGED_SHARDS,
    ViewPaths,
    half_made,
    shard_numbers,
)
from store.io.records import (
    encode_merged_writes,
    failures_of_shards,
    read_merged_writes,
    writes_of_shard,
)
from store.provenance import ENTITIES
from store.verbs.options import CompactOptions
from store.view import ABSENT, OK, View

_MOST_RECORD_BYTES = 16 * 2**20  # of the merged records of writers


Done = Counter[str]
"""`catalog_parts`, `failure_files` and `records` (of shards' writers) merged into others, `locks`
deleted that nobody holds, `orphans` deleted, files that nothing referred to, and their
`orphan_bytes`"""


def compact(options: CompactOptions) -> dict[str, Any]:
    """Compact a store; return the counts of `Done`. StepDiffError if it is damaged, or another run
    is writing."""
    store = Store.open(options.path)
    done = Done(catalog_parts=0, failure_files=0, records=0, locks=0, orphans=0, orphan_bytes=0)
    temporaries = [(path, path.files()) for path in store.path.temporaries()]
    with store.lock(options.wait):  # removes temporary files of dead runs
        for path, files in temporaries:
            if not path.exists():
                _count_orphans(done, files)
        _remove_dropped(store, done)
        views = [
            store.view(entity, name) for entity in store.entities() for name in store.views(entity)
        ]
        for entity in store.entities():
            _merge_parts(store.catalog(entity), done)
        with progress("views compacted", len(views)) as advance:
            for view in views:
                _remove_uncommitted(view, done)
                _merge_failures(view, done)
                _merge_records(view, done)
                advance(1)
    return {"store": str(store.path), **done}


def _count_orphans(done: Done, files: Mapping[Any, int]) -> None:
    """Count deleted files, given with their sizes."""
    done.update(orphans=len(files), orphan_bytes=sum(files.values()))


def _merge_parts(catalog: Catalog, done: Done) -> None:
    """Merge neighbours of up to MOST_ROWS rows; then delete the files that a merged part hides."""
    run: list[pl.DataFrame] = []
    for part in catalog.parts():
        if rows_of_merged(part) > MOST_ROWS / 2:
            _merge(catalog, run)
            continue
        frame = read_part(part)
        if run and (sum(map(len, run)) + len(frame) > MOST_ROWS or not _follows(run, frame)):
            _merge(catalog, run)
        run.append(frame)
    _merge(catalog, run)
    current = catalog.parts()
    hidden = {path for path in catalog.folder.glob("*.parquet") if span_of(path)} - set(current)
    for part in filter(rows_of_merged, current if hidden else ()):
        read_part(part)  # delete others only if the merged part is sound
    for part in hidden:
        part.unlink()
    catalog.sweep()  # their indexes are stale
    done["catalog_parts"] += len(hidden)


def _follows(run: list[pl.DataFrame], frame: pl.DataFrame) -> bool:
    """Return whether `frame` begins where `run` ends, with the same dtypes."""
    dtypes = {name: dtype for parts in run for name, dtype in parts.schema.items()}
    same = all(dtypes.get(name, dtype) == dtype for name, dtype in frame.schema.items())
    return same and frame["row"][0] == run[-1]["row"][-1] + 1


def _merge(catalog: Catalog, run: list[pl.DataFrame]) -> None:
    """Write parts as one, if there are several, and empty the list."""
    if len(run) > 1:
        data = table.encode(pl.concat(run, how="diagonal"))
        name = part_name(int(run[0]["row"][0]), int(run[-1]["row"][-1]) + 1)
        (catalog.folder / name).create([data], len(data))
    run.clear()


def _merge_failures(view: View, done: Done) -> None:
    """Merge the failures of shards, group by group."""
    path = view.paths.failures
    for merged, identities in _mergeable(path, "*.parquet", view.paths.merged_failures):
        first = min(identities) // MERGED_SHARDS * MERGED_SHARDS
        frame = failures_of_shards(view.paths, range(first, first + MERGED_SHARDS))
        rows = view.catalog.rows(frame["key"])
        order = np.argsort(rows, kind="stable")
        data = table.encode(frame[order[view.status()[rows[order]] != OK]])
        merged.put([data], len(data))
        for shard in _unwritten(view, identities):
            if path(shard).identity() == identities[shard]:
                path(shard).unlink()
                done["failure_files"] += 1


def _merge_records(view: View, done: Done) -> None:
    """Merge the records of shards' writers, group by group, and delete their locks."""
    path = view.paths.info
    for merged, identities in _mergeable(path, "*.json", view.paths.merged_info):
        records = read_merged_writes(merged, view.rows_per_shard) if merged.exists() else {}
        records |= {
            shard: writes_of_shard(view.paths, shard, view.rows_per_shard) for shard in identities
        }
        data = encode_merged_writes(records)
        if len(data) > _MOST_RECORD_BYTES:
            continue
        merged.put([data], len(data))
        for shard in _unwritten(view, identities):
            if path(shard).identity() == identities[shard]:
                path(shard).unlink()
                done["records"] += 1
            lock = view.paths.lock(shard)
            if not lock.remote:  # a new lease might be deleted
                lock.unlink()
                done["locks"] += 1


def _mergeable(
    path: Callable[[int], Place], pattern: str, merged: Callable[[int], Place]
) -> Iterator[tuple[Place, dict[int, Identity | None]]]:
    """Yield the merged file of each group of shards that has files to merge, and the identity of
    these by shard."""
    shards = shard_numbers(file.stem for file in path(0).parent.glob(pattern))
    for _, group in groupby(shards, lambda shard: shard // MERGED_SHARDS):
        identities = {shard: path(shard).identity() for shard in group}
        target = merged(min(identities))
        if len(identities) > 1 or target.exists():
            yield target, identities


def _unwritten(view: View, shards: Iterable[int]) -> Iterator[int]:
    """Yield those shards that no process is writing, each while its lock is held."""
    for shard in shards:
        with suppress(HeldError), locked(view.paths.lock(shard), wait=False):
            yield shard


def _remove_uncommitted(view: View, done: Done) -> None:
    """Delete the files of shards that a killed run wrote and did not commit."""
    arrays = [view.paths.group / array / "c" for array in (*view.stored, "checksum")]
    shards = shard_numbers(path.name for folder in arrays for path in folder.glob("*"))
    for shard in _unwritten(view, [shard for shard in shards if not _is_committed(view, shard)]):
        if _is_committed(view, shard):  # since then
            continue
        beside = (view.paths.failures(shard), view.paths.info(shard))
        # the arrays last: by them an interrupted run is found
        for path in (*beside, *(folder / str(shard) for folder in arrays)):
            _count_orphans(done, path.files())
            check_held(view.paths.lock(shard))  # or another run may have written it
            path.remove()


def _is_committed(view: View, shard: int) -> bool:
    return bool((view.shard_status(shard) != ABSENT).any())


def _remove_dropped(store: Store, done: Done) -> None:
    """Delete the files of a view that a killed `drop` left."""
    for entity in ENTITIES:
        for group in filter(half_made, listed(store.path / ARRAYS / entity, "*")):
            if group.is_dir():
                _count_orphans(done, group.files())
                group.remove_folder(store.path)
        for parent in {folder.parent for folder in ViewPaths(store.path, entity, "any").beside}:
            for folder in parent.glob("*"):
                if folder.is_dir() and not (store.path / ARRAYS / entity / folder.name).is_dir():
                    _count_orphans(done, folder.files())
                    folder.remove_folder(store.path)
