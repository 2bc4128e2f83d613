"""A feature store: one folder with the catalog and the views of clips and texts.

    store = Store.open("data/features")
    store.catalog("clips").frame()  # Polars: key, row, metadata
    store.view("clips", "clip").read("embedding", keys=["clip_0", "clip_7"])
    Store.open("data/features", at="paper-v1")  # as it was when `store tag paper-v1` ran
    features = {"embedding": Feature((512,), "float16")}
    with store.writer("clips", "mine", provenance, features) as writer:
        for keys, frames in batches:
            writer.write(keys, {"embedding": encoder(frames)})

Guarantees
- a view refuses another provenance and reports the difference
- a store of a newer format is refused, and nothing that is not a store is written into
"""

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, RemotePath, place
from stepdiff_core.io.locks import locked
from stepdiff_core.io.sealed import BLANK
from store.catalog.catalog import Catalog, read_forgotten
from store.format.layout import (
    ARRAYS,
    FORMAT,
    LOCK,
    MOST_SHARD_ROWS,
    SNAPSHOTS,
    VERSION,
    ViewPaths,
    array_metadata,
    check_features,
    check_locked,
    group_metadata,
    is_shard_rows,
    open_zarr,
    read_json,
    refuse_snapshot,
    snapshot_of,
    stored_features,
    write_json,
)
from store.io.reader import Check
from store.io.writer import ViewWriter
from store.provenance import ENTITIES, Feature, Provenance, check_entity, check_name
from store.snapshots.snapshot import folder_of, read_snapshot, snapshots, tag
from store.view import View

if TYPE_CHECKING:
    from zarr import Group

_SHARD_BYTES = 256 * 2**20
_MOST_ROWS = 2**16
_LEAST_ROWS = 2**12  # of a shard that is made smaller so that all workers get work


class Store:
    """One feature store, from `Store.open`. Picklable."""

    at: str | None
    """name of the snapshot, None: the live store"""

    def __init__(self, path: Path | Place, at: str | None = None) -> None:
        self.path = place(path)
        self.at = at
        self.folder = self.path if at is None else folder_of(self.path, at)  # of catalogs and views
        self._catalogs: dict[str, Catalog] = {}
        self._locked_by: int | None = None  # the thread in `lock`

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | RemotePath, create: bool = False, at: str | None = None
    ) -> "Store":
        """Open the store in `path`, a folder or a URL as of `s3://`; with `create`, make it if it
        does not exist.

        `at` names a snapshot: the store is then read-only and as it was; `path@NAME` does the same
        if no store has that name. Raises StepDiffError if store or snapshot do not exist, if `path`
        holds something else, or if a newer version wrote it.
        """
        path = place(path)
        try:
            about = read_json(path / "store.json", sealed=False)
        except FileNotFoundError:
            before, _, name = str(path).rpartition("@")
            if before and at is None and (place(before) / "store.json").exists():
                return cls.open(before, create, name)
            folder = path.absolute()
            if at is None and (snapshot := snapshot_of(folder)) is not None:
                return cls.open(folder.parent.parent, create, snapshot)
            if not create:
                raise StepDiffError(
                    f"no feature store in {path}: create one with featurize"
                ) from None
            _create(path)
            return cls(path)
        except NotADirectoryError:
            raise StepDiffError(f"{path} is a file: a feature store is a folder") from None
        if about.get("format") != FORMAT:
            raise StepDiffError(
                f"{path} is no feature store: its store.json says {str(about)[:200]}"
            )
        version = about.get("version")
        if type(version) is not int or version < 1:
            raise StepDiffError(
                f"{path} has no format version: its store.json says {str(about)[:200]}"
            )
        if version > VERSION:
            raise StepDiffError(
                f"{path} has format version {version}, this program reads up to {VERSION}: upgrade "
                "it"
            )
        if at is None:
            return cls(path)
        read_snapshot(path, at)
        store = cls(path, at)
        if create:
            store.refuse_snapshot()
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path, self.at)

    def __repr__(self) -> str:
        """Return location, rows and views, a line for each entity."""
        lines = [f"Store({self.location})"]
        for entity in self.entities():
            lines.append(
                f"  {entity}: {len(self.catalog(entity)):,} rows; views: "
                f"{', '.join(self.views(entity)) or 'none'}"
            )
        return "\n".join(lines)

    @property
    def location(self) -> str:
        """Folder or URL as `open` takes it, with `@NAME` of a snapshot."""
        return str(self.path) if self.at is None else f"{self.path}@{self.at}"

    def entities(self) -> list[str]:
        """Return the entities that have rows or views."""
        return [
            e for e in ENTITIES if self.catalog(e).parts() or (self.folder / ARRAYS / e).is_dir()
        ]

    def views(self, entity: str) -> list[str]:
        """Return the names of the views of an entity."""
        folder = self.folder / ARRAYS / check_entity(entity)
        return sorted(path.parent.name for path in folder.glob("*/zarr.json"))

    def catalog(self, entity: str) -> Catalog:
        """Return the catalog of an entity, "clips" or "texts"; it is empty if it has no rows
        yet."""
        check_entity(entity)
        if entity not in self._catalogs:
            self._catalogs[entity] = Catalog(self.folder / "catalog" / entity)
        return self._catalogs[entity]

    def forgotten(self, entity: str) -> pl.DataFrame:
        """Return row, key and reason of the forgotten rows, by row."""
        return read_forgotten(self.folder, entity)

    def tag(self, name: str, note: str = "") -> None:
        """Make a snapshot of that name, as `store tag` does. StepDiffError: the name is taken or
        impossible."""
        self.refuse_snapshot()
        tag(self.path, name, note)

    def snapshots(self) -> list[str]:
        """Return the names of the snapshots, the oldest first."""
        return [one.name for one in snapshots(self.path)]

    def refuse_snapshot(self) -> None:
        """Raise StepDiffError for the store of a snapshot."""
        refuse_snapshot(self.folder)

    def view(self, entity: str, name: str, check: Check = "first") -> View:
        """Return a view; StepDiffError lists the existing ones if it does not exist.

        `check` says when reads compare rows with their stored checksums: "always", at their "first"
        read through the returned object, or "never".
        """
        try:
            view = View(self.folder, self.catalog(entity), entity, name, check)
        except (FileNotFoundError, NotADirectoryError):
            there = ", ".join(self.views(entity)) or "none yet"
            raise StepDiffError(
                f"no view {name!r} of {entity} in {self.location}: there is {there}"
            ) from None
        check_name("view", name)
        return view

    def zarr(self) -> "Group":
        """Return all arrays as a read-only group of zarr-python, `ENTITY/VIEW/ARRAY`, for xarray,
        dask and others.

        See `View.zarr` for what rows hold that are not ok.
        """
        return open_zarr(self.folder)

    def create_view(
        self,
        entity: str,
        name: str,
        provenance: Provenance,
        features: Mapping[str, Feature],
        rows_per_shard: int | None = None,
    ) -> View:
        """Return the view with that provenance and those features; make it if it does not exist.

        `rows_per_shard`, a power of two, is for a new view; by default a shard of the largest array
        is about 256 MiB. Raises StepDiffError if the view has another provenance or other features,
        on unusable names, and without the store's lock.
        """
        self.refuse_snapshot()
        check_entity(entity)
        check_name("view", name)
        try:
            check_features(features)
        except StepDiffError as error:
            raise StepDiffError(f"view {name}: {error}") from None
        check_locked(self.path, f"view {name} of {entity} is made")
        if name in self.views(entity):
            view = self.view(entity, name)
            differs = view.provenance.difference(provenance)
            if view.features != dict(features):
                differs = differs or f"features {view.features} against {dict(features)}"
            if differs:
                where = f"view {name} of {entity} in {self.path}"
                raise StepDiffError(
                    f"{where} was made differently: {differs}; give the new view another name"
                )
            return view
        rows = shard_rows(features) if rows_per_shard is None else rows_per_shard
        if not is_shard_rows(rows):
            raise StepDiffError(
                f"rows_per_shard {rows} is refused: give a power of two up to {MOST_SHARD_ROWS}"
            )
        self._make_view(ViewPaths(self.path, entity, name), provenance, dict(features), rows)
        return self.view(entity, name)

    @contextmanager
    def writer(
        self,
        entity: str,
        view: str,
        provenance: Provenance,
        features: Mapping[str, Feature],
        *,
        info: dict[str, Any] | None = None,
        rows_per_shard: int | None = None,
        wait: bool = False,
    ) -> Iterator[ViewWriter]:
        """Hold the store's lock and write a view, which is made if it does not exist.

        Rows that were given before an exception and are not yet committed are lost.

        Args:
            entity: "clips" or "texts".
            view: the view's name.
            provenance: source of the features. An existing view with another one is refused.
            features: the arrays of the view.
            info: software that computes the features (library versions, device), recorded with
                every shard.
            rows_per_shard: see `create_view`.
            wait: wait while another process holds the lock, instead of raising HeldError. Inside
                `with store.lock()` that lock is used.
        """
        with nullcontext() if self._locked_by == threading.get_ident() else self.lock(wait):
            writer = ViewWriter(
                self.create_view(entity, view, provenance, features, rows_per_shard), info
            )
            yield writer
            writer.flush()

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the store's lock, and remove files that dead runs left.

        Raises HeldError, naming host and pid, if another process holds it; with `wait`, waits for
        it.
        """
        self.refuse_snapshot()
        with locked(self.path / LOCK, wait):
            self.path.remove_dead(but=self.path / SNAPSHOTS)
            (self.path / SNAPSHOTS).remove_dead(deep=False)
            self._locked_by = threading.get_ident()
            try:
                yield
            finally:
                self._locked_by = None

    def _make_view(
        self, paths: ViewPaths, provenance: Provenance, features: dict[str, Feature], rows: int
    ) -> None:
        """Make the view's group in a temporary folder, then rename it.

        An object store has no rename: the group's own zarr.json, without which there is no view, is
        written last.
        """
        length = len(self.catalog(paths.entity))
        stored = stored_features(features)
        attributes = {
            "provenance": provenance.as_dict(),
            "features": {name: asdict(feature) for name, feature in features.items()},
            "rows_per_shard": rows,
            "checksummed": list(stored),
        }
        entity = paths.group.parent
        if not (entity / "zarr.json").exists():
            write_json(entity / "zarr.json", group_metadata())
        for folder in (paths.group, *paths.beside):  # remains of a dropped view of that name
            folder.remove_folder(self.path)
        with paths.group.whole_folder(self.path) as group:
            for array in (*stored, "checksum", "status"):
                write_json(
                    group / array / "zarr.json",
                    array_metadata(paths.entity, array, length, stored, rows),
                )
            write_json(group / "zarr.json", group_metadata(attributes))


def _create(path: Place) -> None:
    if path.is_dir() and any(path.iterdir()) and not (path / ARRAYS).is_dir():
        raise StepDiffError(f"{path} holds other files: give an empty or new folder for the store")
    path.make_folder()
    write_json(path / ARRAYS / "zarr.json", group_metadata())
    write_json(path / "store.json", {"format": FORMAT, "version": VERSION, "seal": BLANK})


def shard_rows(
    features: Mapping[str, Feature],
    shard_bytes: int | None = None,
    rows: int | None = None,
    workers: int = 1,
) -> int:
    """Return the rows of a shard of a new view: a power of two.

    Args:
        features: of the view.
        shard_bytes: of the largest array in a shard. By default about 256 MiB, in up to 65,536
            rows.
        rows: rows to compute now. Where a shard has the most rows by default, as of embeddings,
            there are as many shards as `workers`, of 4,096 rows or more.
        workers: that share the rows.
    """
    largest = max(feature.row_bytes for feature in features.values())
    if shard_bytes is not None:
        if shard_bytes < 1:
            raise StepDiffError(f"--shard-size {shard_bytes} is too small: give 1 or more, in MiB")
        return min(2 ** max(int(math.log2(shard_bytes / largest)), 0), MOST_SHARD_ROWS)
    size = min(2 ** max(int(math.log2(_SHARD_BYTES / largest)), 0), _MOST_ROWS)
    if rows is None or workers < 2 or size < _MOST_ROWS:
        return size
    return min(
        size, max(2 ** ((rows // workers).bit_length() - 1) if rows >= workers else 1, _LEAST_ROWS)
    )
