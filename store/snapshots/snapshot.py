"""Snapshots: the files that a store had at one moment, under second names.

    snapshots/NAME/arrays.zarr, catalog, failures, forgotten, shards
                                 hard links; in an object store copies
    snapshots/NAME/about.json    time, note, rows, and commit of each view

A writer never changes a file of a store: it gives the name to a new file. A link therefore keeps
the committed content, and the folder of a snapshot is read as a store is. Without about.json, which
is written last, it is not a snapshot yet.

Guarantees
- a snapshot exists completely or not at all, and a name is given once
- made while others write, it has each shard as it was at one moment, with the metadata that the
  features are of
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt32

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, RemotePath, listed
from stepdiff_core.io.local import TEMPORARY, sync_tree
from stepdiff_core.io.sealed import BLANK, crc32c
from stepdiff_core.progress import progress
from store.catalog.catalog import FOLDER as FORGOTTEN
from store.catalog.catalog import Catalog, forgotten_path, span_of
from store.damage import shard_files
from store.format.layout import ABOUT, ARRAYS, SNAPSHOTS, read_json, shard_numbers, write_json
from store.io.reader import FAILED, OK
from store.provenance import ENTITIES, RowNumbers, check_name
from store.view import View

NOW = "now"
"""name of the current state in `store log`"""
CONTENT = (ARRAYS, "catalog", "failures", FORGOTTEN, "shards")
"""the folders of a store that a snapshot has"""
_BEGUN = "begun.json"
_GROUP = 2**20


@dataclass(frozen=True)
class Figures:
    """The rows of a view at one moment."""

    rows: int
    ok: int
    failed: int
    commit: str
    """16 hex digits, the same for the same provenance, the same finished and failed rows, and the
    same features"""


@dataclass(frozen=True)
class Snapshot:
    """The content of about.json."""

    name: str
    created: str
    """UTC, ISO 8601 with microseconds"""
    note: str
    rows: dict[str, int]
    """entity -> rows of its catalog"""
    views: dict[str, dict[str, Figures]]
    """entity -> view -> its figures"""


def folder_of(store: Place, name: str) -> Place:
    """Return the folder of a snapshot; StepDiffError if no snapshot can have that name."""
    return store / SNAPSHOTS / check_name("snapshot", name)


def names(store: Place) -> tuple[list[str], list[str]]:
    """Return the names of the snapshots, and of the folders of those that are being made or were
    left by a kill."""
    whole_names: list[str] = []
    unfinished: list[str] = []
    for folder in listed(store / SNAPSHOTS, "*"):
        whole = not folder.name.startswith(TEMPORARY) and (folder / ABOUT).exists()
        (whole_names if whole else unfinished).append(folder.name)
    return whole_names, unfinished


def snapshots(store: Place) -> list[Snapshot]:
    """Return all snapshots, the oldest first. StepDiffError if one is damaged."""
    return sorted(
        (read_snapshot(store, name) for name in names(store)[0]),
        key=lambda one: (one.created, one.name),
    )


def read_snapshot(store: Place, name: str) -> Snapshot:
    """Return a snapshot. StepDiffError if it is damaged, or does not exist: then it lists the
    others."""
    folder = folder_of(store, name)
    try:
        about = read_json(folder / ABOUT)
        rows = {entity: int(count) for entity, count in about["rows"].items()}
        views = {
            entity: {check_name("view", view): _figures(figures) for view, figures in of.items()}
            for entity, of in about["views"].items()
        }
        if {*rows, *views} - set(ENTITIES):
            raise ValueError("it names unknown entities")
        return Snapshot(name, str(about["created"]), str(about["note"]), rows, views)
    except FileNotFoundError:
        there = ", ".join(names(store)[0]) or "none"
        raise StepDiffError(
            f"no snapshot {name!r} in {store}: there is {there}; store tag makes one"
        ) from None
    except (StepDiffError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise StepDiffError(
            f"{folder / ABOUT} is no snapshot ({error}): restore it, or delete it with store tag "
            "--delete"
        ) from None


def _figures(of: dict[str, Any]) -> Figures:
    return Figures(int(of["rows"]), int(of["ok"]), int(of["failed"]), str(of["commit"]))


def delete_snapshot(store: Place, name: str) -> None:
    """Delete a snapshot, or the files of it that a killed process left."""
    if not folder_of(store, name).remove_folder(store / SNAPSHOTS):
        read_snapshot(store, name)  # raises, and lists the others


def tag(store: Place, name: str, note: str = "") -> Snapshot:
    """Make a snapshot of all catalogs and views; it takes no lock. StepDiffError if the name is
    taken."""
    if name == NOW:
        raise StepDiffError(
            f"snapshot name {NOW} is refused: store log calls the current state so; give another "
            "name"
        )
    target = folder_of(store, name)
    if target.is_dir():
        state = "exists" if name in names(store)[0] else "was begun and not finished"
        raise StepDiffError(
            f"snapshot {name} of {store} {state}: give another name, or delete it with store tag "
            f"--delete {name}"
        )
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    (store / SNAPSHOTS).make_folder()
    with target.whole_folder(store / SNAPSHOTS) as folder:
        if folder.remote and not (folder / _BEGUN).create([b"{}"], 2):
            raise StepDiffError(
                f"snapshot {name} of {store} is being made by another process: give another name"
            )
        _link_store(store, folder)
        snapshot = write_about(folder, name, created, note)
        if isinstance(folder, RemotePath):
            (folder / _BEGUN).unlink()
        else:
            sync_tree(folder)
    return snapshot


def write_about(folder: Place, name: str, created: str, note: str) -> Snapshot:
    """Write about.json of a snapshot whose other files are in `folder`."""
    views: dict[str, dict[str, Figures]] = {}
    for view in views_in(folder):
        views.setdefault(view.entity, {})[view.name] = figures_of(view)
    rows = {
        entity: count
        for entity in ENTITIES
        if (count := len(_catalog(folder, entity))) or entity in views
    }
    snapshot = Snapshot(name, created, note, rows, views)
    write_json(folder / ABOUT, {**asdict(snapshot), "seal": BLANK})
    return snapshot


def views_in(store: Place) -> list[View]:
    """Return all views in the folder of a store or snapshot."""
    groups = [
        (entity, path.parent.name)
        for entity in ENTITIES
        for path in listed(store / ARRAYS / entity, "*/zarr.json")
    ]
    return [View(store, _catalog(store, entity), entity, name) for entity, name in groups]


def _catalog(store: Place, entity: str) -> Catalog:
    return Catalog(store / "catalog" / entity)


def _link_store(store: Place, folder: Place) -> None:
    """Link the committed files of a store.

    Rows become absent before their metadata change or they are forgotten, and are computed
    afterwards. So the shards go with metadata and forgotten rows that were the same before and
    after the shards were linked.
    """
    while True:
        try:
            views = views_in(store)
        except FileNotFoundError:  # one was dropped since it was listed
            continue
        before = _settled(store, views)
        with progress("views tagged", len(views)) as advance:
            for view in views:
                _link_shards(view, folder)
                advance(1)
        # what grows meanwhile, in an order in which no array is longer than its catalog
        for view in views:
            _link(
                [view.paths.metadata(array) for array in ("status", "checksum", *view.stored)],
                store,
                folder,
            )
            merged = [path for other in view.paths.beside for path in listed(other, "merged-*")]
            _link([*merged, view.paths.group / "zarr.json"], store, folder)
        groups = [store / ARRAYS, *(store / ARRAYS / entity for entity in ENTITIES)]
        _link([group / "zarr.json" for group in groups], store, folder)
        _link([forgotten_path(store, entity) for entity in ENTITIES], store, folder)
        for catalog in (_catalog(store, entity) for entity in ENTITIES):
            _link(catalog.parts(), store, folder)
            for index in listed(catalog.folder, "*.keys"):
                _link([index], store, folder)
        if before.items() <= _settled(store, views).items():
            return
        for name in CONTENT:
            (folder / name).remove()


def _settled(store: Place, views: Sequence[View]) -> dict[str, object]:
    """Return the versions of files that must not change while shards are linked; new parts of a
    catalog may come."""
    settled: dict[str, object] = {}
    for entity in ENTITIES:
        settled[f"forgotten {entity}"] = forgotten_path(store, entity).identity()
        parts = (store / "catalog" / entity).identities()
        settled |= {
            f"{entity} {name}": version for name, version in parts.items() if span_of(store / name)
        }
    for view in views:
        files = (file for folder in view.paths.beside for file in folder.identities().items())
        merged = sorted((name, version) for name, version in files if name.startswith("merged"))
        settled[str(view.paths.group)] = (view.paths.group / "zarr.json").identity(), merged
    return settled


def _link_shards(view: View, folder: Place) -> None:
    """Link the files of all committed shards of a view."""
    shards = shard_numbers(path.name for path in listed(view.paths.status(0).parent, "*"))
    list(
        folder.map(lambda shard: _link(shard_files(view, shard), view.paths.store, folder), shards)
    )


def _link(files: Sequence[Place], store: Place, folder: Place) -> None:
    """Link those files that exist below `folder`, as they were together at one moment."""
    targets = [folder / str(file.relative_to(store)) for file in files]  # type: ignore[operator,arg-type]
    while True:
        before = [file.identity() for file in files]
        try:
            for file, target, version in zip(files, targets, before, strict=True):
                if version is not None:
                    file.link_as(target)
        except FileNotFoundError:  # deleted meanwhile
            pass
        if [file.identity() for file in files] == before:
            return
        for target in targets:
            target.unlink(missing_ok=True)


def row_digests(sums: UInt32[np.ndarray, "R arrays"]) -> UInt32[np.ndarray, " R"]:
    """Return the crc32c of each row's checksums: four bytes that say which features the row has."""
    data, size = np.ascontiguousarray(sums, "<u4").tobytes(), sums.shape[1] * 4
    return np.array([crc32c(data[at : at + size]) for at in range(0, len(data), size)], np.uint32)


def figures_of(view: View) -> Figures:
    """Return the figures of a view, each row as it was at one moment.

    The commit is the beginning of the sha256 of the provenance (JSON with sorted keys) and of the
    sha256 of each group of rows, up to the last group that has a row: of its statuses, as uint8,
    and digests, as little-endian uint32, up to the last row that is not absent.
    """
    count, size, ok, failed = len(view), max(_GROUP, view.rows_per_shard), 0, 0
    groups, filled = [json.dumps(view.provenance.as_dict(), sort_keys=True).encode()], 1
    for first in range(0, count, size):
        status, digests = _state_of(view, np.arange(first, min(first + size, count)))
        ok, failed = ok + int((status == OK).sum()), failed + int((status == FAILED).sum())
        end = int(np.max(np.flatnonzero(status), initial=-1)) + 1
        groups.append(
            hashlib.sha256(status[:end].tobytes() + digests[:end].astype("<u4").tobytes()).digest()
        )
        filled = len(groups) if end else filled
    return Figures(count, ok, failed, hashlib.sha256(b"".join(groups[:filled])).hexdigest()[:16])


def _state_of(
    view: View, rows: RowNumbers
) -> tuple[UInt8[np.ndarray, " R"], UInt32[np.ndarray, " R"]]:
    """Return status and digest of rows as they were together: read again if one was withdrawn in
    between."""
    while True:
        status, digests = view.status(rows), np.zeros(len(rows), np.uint32)
        ok = np.flatnonzero(status == OK)
        digests[ok] = row_digests(view.checksums(rows[ok]))
        if (view.status(rows[ok]) == OK).all():
            return status, digests
