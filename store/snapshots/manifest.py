"""The list of a store's snapshots, and what each names: parts of catalogs and figures of views.

    snapshots/NAME/snapshot.json                  written last
    snapshots/NAME/ENTITY/forgotten.parquet       the rows that were forgotten, as of `store.catalog.forgotten`
    snapshots/NAME/ENTITY/VIEW/<first>.parquet    see `store.snapshots.rows_then`
    snapshots/NAME/ENTITY/VIEW/failures.parquet   key and reason of the rows that failed

A folder without snapshot.json is a snapshot that is being made, or that a killed process left.

Guarantees
- a damaged or impossible snapshot is refused in one line
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, place
from stepdiff.common.io.local import TEMPORARY
from store.catalog.parts import is_part
from store.format.layout import read_json
from store.format.view_metadata import is_shard_rows
from store.provenance import ENTITIES, Provenance, check_name

FOLDER = "snapshots"
FILE = "snapshot.json"
NOW = "now"
"""what `store log` calls the current state"""
FAILURES = "failures.parquet"
FORGOTTEN = "forgotten.parquet"
_GROUP = 2**20


@dataclass(frozen=True)
class CatalogThen:
    """The catalog of an entity as a snapshot names it."""

    rows: int
    parts: dict[str, str]
    """name of a part's file -> its seal, by first row"""
    forgotten: int = 0
    """rows that were forgotten; 0 also in snapshots of earlier versions, which do not record them"""


@dataclass(frozen=True)
class ViewThen:
    """A view as a snapshot names it."""

    rows: int
    ok: int
    failed: int
    commit: str
    """see `store.snapshots.rows_then.Commit`"""
    provenance: dict[str, Any]
    rows_per_shard: int

    @property
    def group(self) -> int:
        """Rows of one of its files: of one shard or more."""
        return max(_GROUP, self.rows_per_shard)


@dataclass(frozen=True)
class Snapshot:
    """The content of snapshot.json."""

    name: str
    created: str
    """UTC, ISO 8601 with microseconds; earlier versions wrote whole seconds"""
    note: str
    catalogs: dict[str, CatalogThen]
    views: dict[str, dict[str, ViewThen]]
    """entity -> view -> its figures"""


def folder_of(store: Place, name: str) -> Place:
    """Return the folder of a snapshot; StepDiffError where no snapshot can have that name."""
    return store / FOLDER / check_name("snapshot", name)


def names(store: Place) -> tuple[list[str], bool]:
    """Return the names of the snapshots, and whether one is being made, or was when a process was killed."""
    made, begun = folders(store)
    return made, bool(begun)


def folders(store: Place) -> tuple[list[str], list[str]]:
    """Return the names of the snapshots, and of the folders of those that are being made or were left by a kill."""
    made: list[str] = []
    begun: list[str] = []
    root = store / FOLDER
    for folder in root.iterdir() if root.is_dir() else ():
        is_made = not folder.name.startswith(TEMPORARY) and (folder / FILE).exists()
        (made if is_made else begun).append(folder.name)
    return sorted(made), sorted(begun)


def snapshots(store: Place) -> list[Snapshot]:
    """Return all snapshots, the oldest first. StepDiffError where one is damaged."""
    return sorted((read_snapshot(store, name) for name in names(store)[0]), key=lambda one: (one.created, one.name))


def read_snapshot(store: Place, name: str) -> Snapshot:
    """Return a snapshot. StepDiffError where it is damaged, or does not exist: then it lists the others."""
    path = folder_of(store, name) / FILE
    try:
        return _parsed(name, read_json(path))
    except FileNotFoundError:
        there = ", ".join(names(store)[0]) or "none"
        raise StepDiffError(f"no snapshot {name!r} in {store}: there is {there}; store tag makes one") from None
    except (StepDiffError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise StepDiffError(
            f"{path} is no snapshot ({error}): restore it, or delete it with store tag --delete"
        ) from None


def _parsed(name: str, found: Mapping[str, Any]) -> Snapshot:
    catalogs = {
        entity: CatalogThen(int(about["rows"]), dict(about["parts"]), int(about.get("forgotten", 0)))
        for entity, about in found["catalogs"].items()
    }
    views = {e: {view: ViewThen(**about) for view, about in own.items()} for e, own in found["views"].items()}
    if {*catalogs, *views} - set(ENTITIES):
        raise ValueError("it names unknown entities")
    for entity, known in catalogs.items():
        if not all(is_part(place(part)) and isinstance(known.parts[part], str) for part in known.parts):
            raise ValueError(f"it names impossible parts of {entity}")
    for entity, own in views.items():
        for view, about in own.items():
            check_name("view", view)
            Provenance.from_dict(about.provenance)
            if not is_shard_rows(about.rows_per_shard) or not 0 <= about.rows <= catalogs[entity].rows:
                raise ValueError(f"it names impossible rows of view {view}")
    return Snapshot(name, str(found["created"]), str(found["note"]), catalogs, views)


def delete_snapshot(store: Place, name: str) -> None:
    """Delete a snapshot, or what a killed process left of it. What was kept for it goes with the next `compact`."""
    if not folder_of(store, name).remove_folder(store / FOLDER):
        read_snapshot(store, name)  # raises, and lists the others
