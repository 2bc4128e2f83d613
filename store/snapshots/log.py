"""The snapshots of a store, and what changed from one to the next."""

from dataclasses import dataclass

from store.feature_store import Store
from store.snapshots.manifest import NOW, ViewThen, folders, snapshots
from store.snapshots.rows_then import figures_of


@dataclass(frozen=True)
class Logged:
    """One snapshot, or the store of now."""

    name: str
    """NOW for the store of now"""
    created: str
    note: str
    entity: str
    view: str
    rows: int
    ok: int
    failed: int
    commit: str
    new: int
    """finished rows more than in the snapshot before"""
    changed: bool
    """whether the view has another commit than in the snapshot before"""


@dataclass(frozen=True)
class Log:
    """All snapshots of a store."""

    path: str
    entries: list[Logged]
    """the newest first; one for each view of each snapshot"""
    unfinished: bool
    """whether a snapshot is being made, or a killed process left one"""
    begun: list[str]
    """names of the folders of such snapshots: temporary names, but in object stores their own"""


def log(store: Store) -> Log:
    """Return the log of a store. StepDiffError: a snapshot is damaged."""
    entries: list[Logged] = []
    before: dict[tuple[str, str], ViewThen] = {}
    for one in snapshots(store.path):
        entries += _entries(one.name, one.created, one.note, one.views, before)
    now: dict[str, dict[str, ViewThen]] = {entity: {} for entity in store.entities()}
    for entity in now:
        for name in store.views(entity):
            now[entity][name] = figures_of(store.view(entity, name))[0]
    entries += _entries(NOW, "", "", now, before)
    begun = folders(store.path)[1]
    return Log(str(store.path), entries[::-1], bool(begun), begun)


def _entries(
    name: str, created: str, note: str, views: dict[str, dict[str, ViewThen]], before: dict[tuple[str, str], ViewThen]
) -> list[Logged]:
    """Return the entries of one snapshot; `before` has each view in the snapshot before."""
    found = []
    for entity, own in views.items():
        for view, now in own.items():
            old = before.get((entity, view))
            new, changed = now.ok - (old.ok if old else 0), old is None or old.commit != now.commit
            figures = (now.rows, now.ok, now.failed, now.commit, new, changed)
            found.append(Logged(name, created, note, entity, view, *figures))
            before[entity, view] = now
    return found[::-1] or [Logged(name, created, note, "", "", 0, 0, 0, "", 0, False)]
