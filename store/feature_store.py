"""A feature store: one folder with the catalog and the views of clips and texts.

Guarantees
- a view refuses another provenance, and says what differs
- a store of a newer format is refused, and nothing that is not a store is written into
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from common.io.locks import holds, locked
from common.io.places import Place, place
from common.io.remote import RemotePath
from common.io.seal import BLANK
from store.catalog.catalog import Catalog
from store.format.layout import (
    ARRAYS,
    FORMAT,
    LOCK,
    VERSION,
    ViewPaths,
    chunked_metadata,
    group_metadata,
    read_json,
    sharded_metadata,
    write_json,
)
from store.format.view_metadata import MOST_SHARD_ROWS, check_features, is_shard_rows, stored_features
from store.io.row_checks import Check
from store.provenance import ENTITIES, Feature, Provenance, check_entity, check_name
from store.view import View

_SHARD_BYTES = 256 * 2**20
_MOST_ROWS = 2**16


class Store:
    """One feature store. `Store.open` makes it."""

    def __init__(self, path: Path | Place) -> None:
        """The store in `path`, which exists."""
        self.path = place(path)
        self._catalogs: dict[str, Catalog] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str] | RemotePath, create: bool = False) -> "Store":
        """The store in `path`, a folder or a URL as of `s3://`; with `create`, made where there is none.

        Raises StepDiffError where there is none, where `path` holds something else, or where a newer
        version wrote it.
        """
        path = place(path)
        try:
            about = read_json(path / "store.json", sealed=False)
        except FileNotFoundError:
            if not create:
                raise StepDiffError(f"no feature store in {path}: create one with featurize") from None
            _create(path)
            return cls(path)
        except NotADirectoryError:
            raise StepDiffError(f"{path} is a file: a feature store is a folder") from None
        if about.get("format") != FORMAT:
            raise StepDiffError(f"{path} is no feature store: its store.json says {str(about)[:200]}")
        version = about.get("version")
        if type(version) is not int or version < 1:
            raise StepDiffError(f"{path} has no format version: its store.json says {str(about)[:200]}")
        if version > VERSION:
            raise StepDiffError(f"{path} has format version {version}, this program reads up to {VERSION}: upgrade it")
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as where it lies."""
        return Store, (self.path,)

    def entities(self) -> list[str]:
        """The entities that have rows or views."""
        return [entity for entity in ENTITIES if self.catalog(entity).parts() or (self.path / ARRAYS / entity).is_dir()]

    def views(self, entity: str) -> list[str]:
        """The names of the views of an entity."""
        folder = self.path / ARRAYS / check_entity(entity)
        return sorted(found.parent.name for found in folder.glob("*/zarr.json"))

    def catalog(self, entity: str) -> Catalog:
        """The catalog of an entity, empty where it has no rows yet."""
        check_entity(entity)
        if entity not in self._catalogs:
            self._catalogs[entity] = Catalog(self.path / "catalog" / entity)
        return self._catalogs[entity]

    def view(self, entity: str, name: str, check: Check = "first") -> View:
        """A view; StepDiffError, listing those there are, where there is none.

        `check` says when its reads compare rows with their stored checksums: "always", at their "first" read through
        the returned object, or "never".
        """
        if name not in self.views(entity):
            there = ", ".join(self.views(entity)) or "none yet"
            raise StepDiffError(f"no view {name!r} of {entity} in {self.path}: there is {there}")
        check_name("view", name)
        return View(self.path, self.catalog(entity), entity, name, check)

    def create_view(
        self,
        entity: str,
        name: str,
        provenance: Provenance,
        features: Mapping[str, Feature],
        rows_per_shard: int | None = None,
    ) -> View:
        """The view with that provenance and those features, made where there is none.

        `rows_per_shard`, a power of two, counts only for a new view; by default a shard of the
        largest array is about 256 MiB. Raises StepDiffError where the view stands with another
        provenance or other features, on unusable names, and without the store's lock.
        """
        check_entity(entity)
        check_name("view", name)
        try:
            check_features(features)
        except StepDiffError as error:
            raise StepDiffError(f"view {name}: {error}") from None
        if not holds(self.path / LOCK):
            raise StepDiffError(
                f"view {name} is made under the store's lock only: create it inside `with store.lock()`"
            )
        if name in self.views(entity):
            view = self.view(entity, name)
            differs = view.provenance.difference(provenance)
            if view.features != dict(features):
                differs = differs or f"features {view.features} against {dict(features)}"
            if differs:
                raise StepDiffError(
                    f"view {name} of {entity} in {self.path} was made otherwise: {differs}; "
                    "give the new view another name"
                )
            return view
        rows = shard_rows(features) if rows_per_shard is None else rows_per_shard
        if not is_shard_rows(rows):
            raise StepDiffError(f"rows_per_shard {rows} is refused: give a power of two up to {MOST_SHARD_ROWS}")
        self._make_view(ViewPaths(self.path, entity, name), provenance, dict(features), rows)
        return self.view(entity, name)

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the planner's lock; what dead attempts left behind is removed.

        Raises StepDiffError, naming host and pid, where another process holds it; waits with `wait`.
        """
        with locked(self.path / LOCK, wait):
            self.path.remove_dead()
            yield

    def _make_view(self, paths: ViewPaths, provenance: Provenance, features: dict[str, Feature], rows: int) -> None:
        """Make the view's group beside the arrays, then move it there whole.

        In an object store nothing moves: the group's own zarr.json, without which there is no view, comes last.
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
        for folder in (paths.group, *paths.beside):  # of a dropped view of that name, whose removal was cut short
            folder.remove_folder(self.path)
        with paths.group.whole_folder(self.path) as group:
            _write_view(group, length, stored, attributes)


def _write_view(group: Place, length: int, stored: Mapping[str, Feature], attributes: dict[str, Any]) -> None:
    """The metadata of a view of `length` rows, that of its group last."""
    rows = attributes["rows_per_shard"]
    for name, feature in stored.items():
        metadata = sharded_metadata((length, *feature.shape), feature.dtype, rows)
        write_json(group / name / "zarr.json", metadata)
    sums = chunked_metadata((length, len(stored)), "uint32", rows)
    write_json(group / "checksum" / "zarr.json", sums)
    write_json(group / "status" / "zarr.json", chunked_metadata((length,), "uint8", rows))
    write_json(group / "zarr.json", group_metadata(attributes))


def _create(path: Place) -> None:
    if path.is_dir() and any(path.iterdir()) and not (path / ARRAYS).is_dir():
        raise StepDiffError(f"{path} holds other files: give an empty or new folder for the store")
    path.make_folder()
    write_json(path / ARRAYS / "zarr.json", group_metadata())
    write_json(path / "store.json", {"format": FORMAT, "version": VERSION, "seal": BLANK})


def shard_rows(features: Mapping[str, Feature]) -> int:
    """Rows a shard of a view with such features: a power of two, about 256 MiB of its largest array."""
    largest = max(feature.row_bytes for feature in features.values())
    return min(2 ** max(int(math.log2(_SHARD_BYTES / largest)), 0), _MOST_ROWS)
