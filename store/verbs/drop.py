"""A view is removed.

Guarantees
- a view is gone at once or not at all: its group is renamed away before a byte is deleted, or in an object store its
  zarr.json is deleted before the rest
- what a killed run leaves is ignored, and removed by the next run or by compact; in an object store by the same
  command or by the next view of that name, and until then verify may miss its zarr.json
"""

from dataclasses import dataclass

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, listed
from store.feature_store import Store
from store.format.layout import ViewPaths
from store.provenance import check_entity, check_name
from store.snapshots.snapshot import names, read_snapshot
from store.verbs.options import DropOptions


@dataclass(frozen=True)
class Dropped:
    """What is removed, or would be."""

    store: str
    entity: str
    view: str
    bytes: int
    files: int
    stale: list[str]
    """files that were built from the view and stay: indexes and their cards"""
    dropped: bool
    """whether it was removed"""


def drop(options: DropOptions) -> Dropped:
    """Remove a view if `yes`. StepDiffError where it does not exist, or another run is writing."""
    store = Store.open(options.path)
    paths = ViewPaths(store.path, check_entity(options.entity), check_name("view", options.view))
    with store.lock(options.wait):
        if options.yes:
            _refuse_in_snapshot(store.path, options)
        folders = [folder for folder in (paths.group, *paths.beside) if folder.is_dir()]
        if not folders:
            there = ", ".join(store.views(options.entity)) or "none"
            raise StepDiffError(f"no view {options.view!r} of {options.entity} in {store.path}: it has {there}")
        sizes = [size for folder in folders for size in folder.files().values()]
        dropped = Dropped(
            store=str(store.path),
            entity=options.entity,
            view=options.view,
            bytes=sum(sizes),
            files=len(sizes),
            stale=[str(path) for path in listed(store.path / "indexes" / options.entity, f"{options.view}.*")],
            dropped=options.yes,
        )
        if options.yes:
            for folder in folders:  # the group first: without it there is no view
                folder.remove_folder(store.path)
    return dropped


def _refuse_in_snapshot(store: Place, options: DropOptions) -> None:
    """Raise StepDiffError if a snapshot has the view: its files would stay on the disk."""
    having = [n for n in names(store)[0] if options.view in read_snapshot(store, n).views.get(options.entity, {})]
    if having:
        raise StepDiffError(
            f"view {options.view} of {options.entity} in {store} is in snapshot {', '.join(having)}: delete that "
            "first, with store tag --delete"
        )
