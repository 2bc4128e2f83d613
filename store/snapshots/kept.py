"""What snapshots name and the store no longer has: rows that were withdrawn, and parts of a catalog.

    kept/ENTITY/VIEW/<shard>-<crc>/ARRAY       a shard file with the kept rows of one array
    kept/ENTITY/VIEW/<shard>-<crc>/checksum    their checksums; `status`, written last, says which rows are kept
    kept/catalog/ENTITY/<seal>/<part>          a part that was updated or merged into another

A writer calls these functions before it replaces a file. Where there are no snapshots they cost one look at a folder.

Guarantees
- a row that a snapshot names keeps its bytes, whatever happens to it afterwards
- a part that a snapshot names keeps its metadata
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from stepdiff.common.errors import DamageError
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import crc32c
from store.format.layout import ViewPaths
from store.format.shard import Rows, encode_chunk, pieces, read_chunk
from store.io.remote import open_shard
from store.io.status import OK
from store.provenance import Feature
from store.snapshots.kept_parts import KEPT
from store.snapshots.manifest import names, read_snapshot
from store.snapshots.rows_then import RowsThen, row_digests
from store.view import View

VERSION = re.compile(r"(0|[1-9][0-9]{0,11})-[0-9a-f]{8}")
"""name of the folder of kept rows of a shard"""


def keep_rows(view: View, shard: int, status: UInt8[np.ndarray, " slots"]) -> None:
    """Copy those rows of a shard that snapshots name and that are not ok now: its files are about to be replaced.

    The caller holds the shard's lock. Rows that differ from their checksums are lost already, and are left out.
    """
    made, begun = names(view.paths.store)
    if not made and not begun:
        return
    sums = _stored_sums(view, shard)
    if sums is None:
        return
    gone = (status != OK) & sums.any(axis=1)
    if not begun:  # what one that is being made names is not known yet
        gone &= _named(view, shard, sums, made)
    if gone.any():
        _copy(view, shard, gone, sums)


def _stored_sums(view: View, shard: int) -> UInt32[np.ndarray, "slots arrays"] | None:
    """Return the checksums of a shard's rows, computed from its files where they are damaged; None without files."""
    shape = view.rows_per_shard, len(view.checksummed)
    try:
        known = read_chunk(view.paths.checksum(shard), shape, "uint32")
    except DamageError:
        known = None
    if known is not None:
        return known
    sums = np.zeros(shape, np.uint32)
    for column, name in enumerate(view.checksummed):
        try:
            path = view.paths.shard(name, shard, 1 + len(view.stored[name].shape))
            file = open_shard(path, view.rows_per_shard)
        except (FileNotFoundError, DamageError):
            return None
        for slot in np.flatnonzero(file.present).tolist():
            sums[slot, column] = crc32c(file.row(slot) or b"")
    return sums


def _named(
    view: View, shard: int, sums: UInt32[np.ndarray, "slots arrays"], made: Sequence[str]
) -> Bool[np.ndarray, " slots"]:
    """Return the slots of rows that a snapshot names with the bytes that they have."""
    rows = shard * view.rows_per_shard + np.arange(view.rows_per_shard)
    digests, found = row_digests(sums), np.zeros(len(rows), bool)
    for name in made:
        about = read_snapshot(view.paths.store, name).views.get(view.entity, {}).get(view.name)
        if about is not None and about.rows_per_shard == view.rows_per_shard:
            status, then = RowsThen(view.paths.store, name, view.entity, view.name, about).of(rows)
            found |= (status == OK) & (then == digests)
    return found


def _copy(view: View, shard: int, gone: Bool[np.ndarray, " slots"], sums: UInt32[np.ndarray, "slots arrays"]) -> None:
    """Write the kept version of a shard, if it is not there."""
    folder = _folder(view.paths) / f"{shard}-{crc32c(sums.tobytes() + gone.tobytes()):08x}"
    if (folder / "status").exists():
        return
    files: dict[str, Rows | None] = {}
    keep = gone.copy()
    for column, (name, feature) in enumerate((name, view.stored[name]) for name in view.checksummed):
        try:
            files[name] = open_shard(view.paths.shard(name, shard, 1 + len(feature.shape)), view.rows_per_shard)
        except FileNotFoundError:  # every row is the fill value
            files[name] = None
        except DamageError:
            return
        for slot in np.flatnonzero(keep).tolist():
            keep[slot] = crc32c(_row(files[name], slot, feature)) == sums[slot, column]
    if not keep.any():
        return
    root = view.paths.store / KEPT
    root.make_folder()
    folder.parent.make_folder()
    with folder.whole_folder(root) as made:
        for name, old in files.items():
            (made / name).put(pieces(old, keep, [], view.stored[name].row_bytes, lambda slot, row: None))
        (made / "checksum").put([encode_chunk((sums * keep[:, None]).astype("<u4"))])
        (made / "status").put([encode_chunk(np.where(keep, OK, 0).astype(np.uint8))])


def _row(file: Rows | None, slot: int, feature: Feature) -> bytes | memoryview:
    return (file.row(slot) if file else None) or bytes(feature.row_bytes)


def _folder(paths: ViewPaths) -> Place:
    return paths.store / KEPT / paths.entity / paths.view


class KeptRows:
    """The kept rows of one view, found by their digest."""

    def __init__(self, view: View) -> None:
        self._view = view

    def find(self, rows: Int[np.ndarray, " R"], digests: UInt32[np.ndarray, " R"]) -> list["KeptRow | None"]:
        """Return for each row the kept version with that digest; None where there is none. StepDiffError: damage."""
        view = self._view
        found: list[KeptRow | None] = [None] * len(rows)
        there: dict[int, list[Place]] = {}
        folder = _folder(view.paths)
        for version in folder.iterdir() if folder.is_dir() else ():
            if match := VERSION.fullmatch(version.name):
                there.setdefault(int(match[1]), []).append(version)
        opened: dict[Place, tuple[np.ndarray, np.ndarray] | None] = {}
        for place, (row, digest) in enumerate(zip(rows.tolist(), digests.tolist(), strict=True)):
            shard, slot = divmod(row, view.rows_per_shard)
            for version in there.get(shard, ()):
                if version not in opened:
                    opened[version] = kept_version(view, version)
                known = opened[version]
                if known and known[0][slot] == OK and row_digests(known[1][slot : slot + 1])[0] == digest:
                    found[place] = KeptRow(view, version, slot, known[1][slot])
                    break
        return found


def kept_version(
    view: View, folder: Place
) -> tuple[UInt8[np.ndarray, " slots"], UInt32[np.ndarray, "slots arrays"]] | None:
    """Return status and checksums of a kept version; None where it is not complete. DamageError: damage."""
    status = read_chunk(folder / "status", (view.rows_per_shard,), "uint8")
    sums = read_chunk(folder / "checksum", (view.rows_per_shard, len(view.checksummed)), "uint32")
    return None if status is None or sums is None else (status, sums)


class KeptRow:
    """One row of a kept version."""

    def __init__(self, view: View, folder: Place, slot: int, sums: UInt32[np.ndarray, " arrays"]) -> None:
        self._view, self._folder, self._slot = view, folder, slot
        self.sums = sums

    def read(self, name: str) -> bytes | memoryview:
        """Return the bytes of one array. StepDiffError: damage."""
        path, feature = self._folder / name, self._view.stored[name]
        try:
            data = _row(open_shard(path, self._view.rows_per_shard), self._slot, feature)
        except FileNotFoundError:
            raise DamageError(f"{path} is missing: restore it from a copy") from None
        if len(data) != feature.row_bytes or crc32c(data) != self.sums[self._view.checksummed.index(name)]:
            raise DamageError(f"{path} is not as it was written: restore it from a copy")
        return data
