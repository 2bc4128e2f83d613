"""What to do about a damaged file, by its place in the store."""

from collections.abc import Callable
from pathlib import PurePosixPath

from stepdiff.common.io.files import Place
from store.format.layout import ARRAYS, EARLIER, SNAPSHOTS, ViewPaths, shard_number
from store.io.records import filled_by_featurize

_RESTORE = "restore it from a copy"
_BUILD = "run python -m retrieval build for its view"


def remedy(store: Place, path: str) -> str:
    """Return what to do about the damaged file `path`, which is relative to the store."""
    parts = PurePosixPath(path).parts
    known: dict[str, Callable[[], str]] = {
        ARRAYS: lambda: _of_view(store, parts[1:]),
        "failures": lambda: _of_view(store, parts[1:]),
        "shards": lambda: _of_view(store, parts[1:]),
        "catalog": lambda: "delete it: it is built again when needed" if path.endswith(".keys") else _RESTORE,
        "forgotten": lambda: f"{_RESTORE}, or run python -m store forget again for its rows",
        "annotations": lambda: "delete the folder of this version and run its stage again",
        "indexes": lambda: _BUILD,
        SNAPSHOTS: lambda: _of_snapshot(store, parts[1], parts[-1]),
    }
    return known.get(parts[0] if parts else "", lambda: _RESTORE)()


def _of_snapshot(store: Place, name: str, file: str) -> str:
    if file == EARLIER:
        return f"run python -m store convert-snapshots {store}"
    return f"{_RESTORE}, or delete the snapshot with python -m store tag {store} {name} --delete"


def _of_view(store: Place, parts: tuple[str, ...]) -> str:
    if len(parts) < 3:
        return _RESTORE
    entity, view = parts[:2]
    if parts[2] == "zarr.json":
        return f"{_RESTORE}, or remove the view with python -m store drop and fill it again"
    paths = ViewPaths(store, entity, view)
    shard = next((n for part in parts[2:] if (n := shard_number(part.split(".")[0])) is not None), None)
    if filled_by_featurize(paths, shard):
        return f"repeat the featurize command that filled view {view} of {entity}, with --repair"
    if shard is None:
        return f"{_RESTORE}, or remove the view with python -m store drop and fill it again"
    return f"delete {paths.status(shard)} and repeat the command that filled view {view} of {entity}"
