"""A store as it was when a snapshot of it was made: `Store.open("data/features", at="NAME")`, or "data/features@NAME".

Guarantees
- only what the snapshot names is there
- a store of a snapshot cannot be written
"""

from typing import Any, NoReturn

import polars as pl

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place
from store.catalog.forgotten import COLUMNS, read_list
from store.feature_store import Store
from store.io.row_checks import Check
from store.provenance import check_entity
from store.snapshots.catalog_then import CatalogOfSnapshot
from store.snapshots.manifest import FORGOTTEN, CatalogThen, folder_of, read_snapshot
from store.snapshots.view_then import ViewOfSnapshot


class StoreOfSnapshot(Store):
    """A store at the time of a snapshot."""

    at: str

    def __init__(self, path: Place, name: str) -> None:
        """Open the snapshot of that name. StepDiffError: it does not exist or is damaged."""
        super().__init__(path)
        self.then = read_snapshot(self.path, name)
        self.at = name

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreOfSnapshot, (self.path, self.at)

    def entities(self) -> list[str]:
        """Return the entities that had rows or views."""
        return list(self.then.catalogs)

    def views(self, entity: str) -> list[str]:
        """Return the names of the views of an entity."""
        return sorted(self.then.views.get(check_entity(entity), {}))

    def catalog(self, entity: str) -> CatalogOfSnapshot:
        """Return the catalog of an entity as it was; it is empty if it had no rows."""
        then = self.then.catalogs.get(check_entity(entity), CatalogThen(0, {}))
        if entity not in self._catalogs:
            self._catalogs[entity] = CatalogOfSnapshot(self.path / "catalog" / entity, then, self.at)
        found = self._catalogs[entity]
        assert isinstance(found, CatalogOfSnapshot)
        return found

    def forgotten(self, entity: str) -> pl.DataFrame:
        """Return row, key and reason of the rows that were forgotten, by row. StepDiffError: the list is damaged."""
        then = self.then.catalogs.get(check_entity(entity), CatalogThen(0, {}))
        if not then.forgotten:
            return pl.DataFrame(schema=COLUMNS)
        path = folder_of(self.path, self.at) / entity / FORGOTTEN
        found = read_list(path)
        if len(found) != then.forgotten:
            raise StepDiffError(f"{path} has {len(found)} rows, its snapshot {then.forgotten}: restore the file")
        return found

    def view(self, entity: str, name: str, check: Check = "first") -> ViewOfSnapshot:
        """Return a view as it was; see `Store.view`. `check` "never" is taken as "first"."""
        if name not in self.views(entity):
            there = ", ".join(self.views(entity)) or "none"
            raise StepDiffError(f"no view {name!r} of {entity} in snapshot {self.at} of {self.path}: there is {there}")
        if name not in super().views(entity):
            raise StepDiffError(
                f"view {name} of {entity}, which snapshot {self.at} names, was dropped from {self.path}"
            )
        return ViewOfSnapshot(self.catalog(entity), name, self.then.views[entity][name], check)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise StepDiffError(f"snapshot {self.at} of {self.path} cannot be changed: give the store without it")

    create_view = writer = lock = _refuse
