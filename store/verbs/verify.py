"""Verification: read every byte of a store, and report damage and the affected clips.

A version of an annotation stage contains sealed JSON and Parquet files. The card of an index
carries a sha256 of its own content, and names the files of the index with their sizes and sha256.

Guarantees
- a flipped byte in any file of catalog, views, annotations and indexes that is sealed or named in a
  card is found, and the clips that it affects are named
- verify reports no damage while a store is being written
- the report lists content that is not covered: `NOT_COVERED`, and the files that `uncovered`
  returns
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from stepdiff_core.errors import DamageError, StepDiffError
from stepdiff_core.io.files import Place, listed
from stepdiff_core.io.local import TEMPORARY
from store.catalog.catalog import Catalog, first_row, read_part
from store.catalog.key_index import open_index
from store.damage import CANNOT, unreadable, unsealed, view_damage, withdraw_damaged
from store.feature_store import Store
from store.format.layout import (
    ABOUT,
    ARRAYS,
    LOCK,
    SNAPSHOTS,
    array_shape,
    half_made,
    read_json,
)
from store.io.reader import FILL_AGAIN, remedy
from store.provenance import RowNumbers
from store.snapshots.snapshot import figures_of, folder_of, names, read_snapshot
from store.verbs.removal import wrongly_forgotten
from store.view import View

NOT_COVERED = (
    "videos, manifests and runs outside the store",
    "whether features are what the encoder computes",
    "lock files",
    "files lost together with all that refers to them, such as the last part of a catalog that no "
    "view has rows of",
)
"""content that verify cannot check in any store"""
_RESTORE = "restore it from a copy"
_MOST_NAMED = 100_000  # lost rows named one by one
_MOST_CARD = 64 * 2**20  # bytes
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # in the folder of its card: no separators
_Found = tuple[Place, str, Iterable[str]]


@dataclass(frozen=True)
class Damage:
    """One damaged file."""

    path: str
    """the file, relative to the store"""
    what: str
    """the fault"""
    clips: tuple[str, ...]
    """keys of the rows that it affects, `row N` if the key is not known"""
    remedy: str
    """the remedy"""
    withdrawn: bool = False
    """whether its rows are absent now; if only what wrote them is lost, whether that is recorded"""


def verify(store: Store, withdraw: bool = False) -> list[Damage]:
    """Return all damage in `store` and its snapshots; it raises nothing.

    With `withdraw` the damaged rows of views become absent (see `store.damage`); the caller holds
    the store's lock.
    """
    if store.at is not None:
        raise StepDiffError(
            f"{store.path} is verified with all its snapshots: give the store without @{store.at}"
        )
    read: dict[tuple[str, str], list[View]] = {}
    withdrawn = set[Place]()
    damage = [
        *unsealed([store.path / "store.json"], ()),
        *_catalogs_and_views(store, read, withdrawn if withdraw else None),
        *_annotations(store.path / "annotations"),
        *_cards(store.path / "indexes"),
    ]
    for name in names(store.path)[0]:
        damage += _snapshot(store, name, read)
    listed_damage = []
    for path, what, clips in damage:
        below = _below(store, path)
        advice = FILL_AGAIN if path in withdrawn else _remedy(store.path, below)
        if what.startswith(CANNOT):
            advice = "correct that, then verify the store again"
        listed_damage.append(Damage(below, what, tuple(clips), advice, path in withdrawn))
    return listed_damage


def _remedy(store: Place, path: str) -> str:
    """Return the remedy for the damaged file `path`, which is relative to the store."""
    parts = PurePosixPath(path).parts
    folder = parts[0] if parts else ""
    if folder in (ARRAYS, "failures", "shards") and len(parts) > 3:
        if parts[3] != "zarr.json":
            return remedy(store)
        return f"{_RESTORE}, or remove the view with python -m store drop and fill it again"
    if folder == SNAPSHOTS:
        return remedy(store / SNAPSHOTS / parts[1])
    return {
        "catalog": "delete it: it is built again when needed"
        if path.endswith(".keys")
        else _RESTORE,
        "forgotten": f"{_RESTORE}, or run python -m store forget again for its rows",
        "annotations": "delete the folder of this version and run its stage again",
        "indexes": "run python -m retrieval build for its view",
    }.get(folder, _RESTORE)


def _below(store: Store, path: Place) -> str:
    return str(path.relative_to(store.path))  # type: ignore[arg-type]  # both local, or both remote


def uncovered(store: Store) -> list[str]:
    """Return the files below annotations/ and indexes/ that carry no checksum, relative to the
    store."""
    files = _files(store.path / "indexes")
    cards = [path for path in files if path.name.endswith(".json")]
    covered = {*cards, *(path.parent / name for path in cards for name in _named_files(path) or ())}
    paths = [path for path in files if path not in covered]
    paths += [path for path in _files(store.path / "annotations") if not _is_sealed_file(path)]
    return [_below(store, path) for path in paths]


def _catalogs_and_views(
    store: Store, read: dict[tuple[str, str], list[View]], withdrawn: set[Place] | None = None
) -> Iterator[_Found]:
    """Yield the damage of catalogs and views.

    Args:
        store: The store, or the store of a snapshot.
        read: Views whose files were read. Those of `store` are added.
        withdrawn: Receives the files whose damaged rows were made absent. None: no row is.
    """
    yield from unsealed([store.folder / ARRAYS / "zarr.json"], ())
    for entity in store.entities():
        while True:
            keys = _Keys(store.catalog(entity))
            damage = list(_catalog(store, entity, keys))
            if store.catalog(entity).parts() == keys.parts:  # else some were merged in the meantime
                break
        yield from damage
        yield from _indexes(store.catalog(entity))
        root = store.folder / ARRAYS / entity
        folders = [
            folder for folder in listed(root, "*") if folder.is_dir() and not half_made(folder)
        ]
        if folders or (root / "zarr.json").exists():
            yield from unsealed([root / "zarr.json"], ())
        for folder in folders:
            group = folder / "zarr.json"
            yield from (broken := list(unsealed([group], keys.all)))
            if broken:
                continue
            try:
                view, before = (
                    store.view(entity, folder.name),
                    read.setdefault((entity, folder.name), []),
                )
                damage_of_view = list(view_damage(view, keys.rows, before))
            except StepDiffError as error:
                yield group, f"is refused ({error})", keys.all
                continue
            except FileNotFoundError:
                if group.exists():
                    raise
                continue
            if withdrawn is not None:
                withdrawn |= {one.path for one in withdraw_damaged(view, damage_of_view)}
            for one in damage_of_view:
                yield one.path, one.what, keys.all if one.rows is None else keys(one.rows)
            before.append(view)
        # after the status of rows that a view withdraws
        yield from wrongly_forgotten(store, entity)


def _snapshot(store: Store, name: str, read: dict[tuple[str, str], list[View]]) -> Iterator[_Found]:
    """Yield the damage of a snapshot: of its files, and that it has other rows than when it was
    made."""
    path = folder_of(store.path, name) / ABOUT
    try:
        then, about = Store.open(store.path, at=name), read_snapshot(store.path, name)
    except StepDiffError as error:
        yield path, f"is refused ({error})", ()
        return
    yield from (damage := list(_catalogs_and_views(then, read)))
    for entity, count in about.rows.items() if not damage else ():
        views = about.views.get(entity, {})
        if len(then.catalog(entity)) != count or set(views) - set(then.views(entity)):
            yield path, f"names rows or views of {entity} that are lost", ()
            continue
        for view, of in views.items():
            with suppress(StepDiffError):  # by a file that the store has too, which was reported
                if figures_of(then.view(entity, view)) != of:
                    yield path, f"names rows of view {view} that are lost or changed", ()


class _Keys:
    """Row -> key, from those parts of a catalog that can be read."""

    def __init__(self, catalog: Catalog) -> None:
        self.parts = catalog.parts()
        self.key_of: dict[int, str] = {}
        self.heights: dict[Place, int] = {}
        self.refused: dict[Place, str] = {}
        """why a part has no height"""
        for part in self.parts:
            try:
                keys = read_part(part, ["key"])["key"].to_list()
                self.key_of |= enumerate(keys, first_row(part))
                self.heights[part] = len(keys)
            except StepDiffError as error:
                self.refused[part] = str(error)
        self.all = list(self.key_of.values())
        self.rows = max(self.key_of, default=-1) + 1
        """of the catalog, as far as is known"""

    def __call__(self, rows: RowNumbers) -> list[str]:
        return [self.key_of.get(row, f"row {row}") for row in rows.tolist()]


def _catalog(store: Store, entity: str, keys: _Keys) -> Iterator[_Found]:
    starts = [first_row(part) for part in keys.parts]
    row = 0
    for part, start, end in zip(
        keys.parts, starts, [*starts[1:], _longest(store, entity)], strict=False
    ):
        if start != row:
            lost = np.arange(row, min(start, row + _MOST_NAMED))
            yield part.parent, f"has no part for rows {row} to {start - 1}", keys(lost)
        height = keys.heights.get(part) or max(end - start, 1)
        clips = keys(np.arange(start, start + min(height, _MOST_NAMED)))
        broken = list(unsealed([part], clips))
        if part in keys.refused and not broken:
            broken = [(part, f"is refused ({keys.refused[part]})", clips)]
        yield from broken
        row = start + height


def _indexes(catalog: Catalog) -> Iterator[_Found]:
    """Yield the damaged key indexes. They affect no clip: they are rebuilt from the parts."""
    for path in listed(catalog.folder, "*.keys"):
        try:
            if index := open_index(path):
                index.check_all()
        except DamageError:
            yield path, "is not as it was written (it is rebuilt when it is needed)", ()
        except FileNotFoundError:
            continue  # merged into another since it was listed


def _longest(store: Store, entity: str) -> int:
    """Return the number of rows of the longest view, for a catalog whose last part is damaged."""
    lengths = [0]
    for name in store.views(entity):
        with suppress(StepDiffError, FileNotFoundError):  # reported with the view
            path = store.view(entity, name).paths.metadata("status")
            lengths.append(array_shape(path, read_json(path))[0])
    return max(lengths)


def _annotations(root: Place) -> Iterator[_Found]:
    """Yield the damaged files below `annotations/`, and versions without their provenance."""
    files = _files(root)
    for path in filter(_is_sealed_file, files):
        if (what := unreadable(path)) is not None:
            yield path, what, ()
    tables = [path for path in files if path.name.endswith(".parquet")]
    for version in (
        version for stage in listed(root, "*") for version in listed(stage, "*") if version.is_dir()
    ):
        provenance = version / "provenance.json"
        if any(str(path).startswith(f"{version}/") for path in tables) and not provenance.exists():
            yield provenance, "is missing", ()


def _is_sealed_file(path: Place) -> bool:
    return path.name != LOCK and path.name.endswith((".json", ".parquet"))


def _cards(root: Place) -> Iterator[_Found]:
    """Yield the damaged cards and index files below `indexes/`."""
    for path in _files(root):
        while path.name.endswith(".json"):
            named = _named_files(path)
            damage = list(_damaged_files(path, named))
            if not damage or _named_files(path) == named:  # else it was rebuilt in the meantime
                yield from damage
                break


def _damaged_files(path: Place, named: dict[str, Any] | None) -> Iterator[_Found]:
    """Yield the card at `path` if it is damaged, else the files `named` in it that differ from
    it."""
    if named is None:
        yield path, "is not as it was written", ()
    for name, entry in (named or {}).items():
        if not _FILE.fullmatch(name):
            yield path, f"names a file {name[:100]!r} that is not in its folder", ()
        elif (why := _differs(path.parent / name, entry)) is not None:
            yield path.parent / name, why, ()


def _named_files(path: Place) -> dict[str, Any] | None:
    """Return the files that a card names, None if it is damaged: its seal is the sha256 of the
    rest."""
    try:
        card = json.loads(path.read_whole(_MOST_CARD))
        seal = card.pop("seal", None) if isinstance(card, dict) else None
        if seal != hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest():
            return None
        return card["files"] if isinstance(card.get("files"), dict) else {}
    except (OSError, StepDiffError, ValueError, RecursionError):
        return None


def _differs(path: Place, entry: object) -> str | None:
    """Return the fault of a file of an index, None if it matches its card."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("sha256"), str):
        return "has no sha256 in its card"
    try:
        return None if path.sha256() == entry["sha256"] else "is not as it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _files(root: Place) -> list[Place]:
    """Return all files below `root`, but temporary ones."""
    return [path for path in root.files() if not path.name.startswith(TEMPORARY)]
