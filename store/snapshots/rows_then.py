"""Status and digest of each row of a view, as a snapshot names them.

    snapshots/NAME/ENTITY/VIEW/<first>.parquet    columns status and digest, a row for each row of the view

A file has 2**20 rows, or those of one shard where that is more. The digest of a row is the crc32c of its stored
checksums: four bytes that say which bytes the row had.

Guarantees
- a row that changed since the snapshot has another digest, to one chance in 2**32
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
from jaxtyping import Int, UInt8, UInt32

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import crc32c
from store.io.status import ABSENT, FAILED, OK, REASONS
from store.provenance import Provenance
from store.snapshots.manifest import FAILURES, ViewThen, folder_of
from store.view import View

Group = Callable[[int, UInt8[np.ndarray, " R"], UInt32[np.ndarray, " R"]], None]
"""takes first row, statuses and digests of a group of rows"""
_COLUMNS = {"status": pl.UInt8, "digest": pl.UInt32}


def row_digests(sums: UInt32[np.ndarray, "R arrays"]) -> UInt32[np.ndarray, " R"]:
    """Return the digest of each row, given the checksums of its arrays."""
    data, size = np.ascontiguousarray(sums, "<u4").tobytes(), sums.shape[1] * 4
    return np.array([crc32c(data[at : at + size]) for at in range(0, len(data), size)], np.uint32)


class Commit:
    """16 hex digits, the same for the same provenance, the same finished and failed rows, and the same features.

    It is the beginning of the sha256 of the provenance (JSON with sorted keys) and of the sha256 of each group of rows,
    up to the last group that has a row: of its statuses, as uint8, and digests, as little-endian uint32, up to the last
    row that is not absent.
    """

    def __init__(self, provenance: Provenance) -> None:
        self._groups = [json.dumps(provenance.as_dict(), sort_keys=True).encode()]
        self._end = 1

    def add(self, status: UInt8[np.ndarray, " R"], digests: UInt32[np.ndarray, " R"]) -> None:
        """Add the next group of rows."""
        end = int(np.max(np.flatnonzero(status), initial=-1)) + 1
        self._groups.append(hashlib.sha256(status[:end].tobytes() + digests[:end].astype("<u4").tobytes()).digest())
        self._end = len(self._groups) if end else self._end

    def digits(self) -> str:
        """Return the 16 digits."""
        return hashlib.sha256(b"".join(self._groups[: self._end])).hexdigest()[:16]


def state_of(view: View, rows: Int[np.ndarray, " R"]) -> tuple[UInt8[np.ndarray, " R"], UInt32[np.ndarray, " R"]]:
    """Return status and digest of rows as they were together: read again where one was withdrawn in between."""
    while True:
        status, digests = view.status(rows), np.zeros(len(rows), np.uint32)
        ok = np.flatnonzero(status == OK)
        digests[ok] = row_digests(view.checksums(rows[ok]))
        if (view.status(rows[ok]) == OK).all():
            return status, digests


def figures_of(
    view: View,
    most: int | None = None,
    write: Group = lambda first, status, digests: None,
) -> tuple[ViewThen, UInt8[np.ndarray, " rows"]]:
    """Return the figures of a view, of at most `most` rows, and their statuses.

    write: gets first row, statuses and digests of each group.
    """
    count = len(view) if most is None else min(len(view), most)
    about = ViewThen(count, 0, 0, "", view.provenance.as_dict(), view.rows_per_shard)
    status, commit = np.zeros(count, np.uint8), Commit(view.provenance)
    for first in range(0, count, about.group):
        rows = np.arange(first, min(first + about.group, count))
        status[rows], digests = state_of(view, rows)
        write(first, status[rows], digests)
        commit.add(status[rows], digests)
    ok, failed = (int((status == kind).sum()) for kind in (OK, FAILED))
    return replace(about, ok=ok, failed=failed, commit=commit.digits()), status


def write_group(folder: Place, first: int, status: UInt8[np.ndarray, " R"], digests: UInt32[np.ndarray, " R"]) -> None:
    """Write the rows from `first` on."""
    data = table.encode(pl.DataFrame({"status": status, "digest": digests}, schema=_COLUMNS))
    _path(folder, first).put([data], len(data))


def _path(folder: Place, first: int) -> Place:
    return folder / f"{first:012d}.parquet"


class RowsThen:
    """The rows of one view. A file is read when it is first needed, and takes 5 bytes a row from then on."""

    def __init__(self, store: Place, name: str, entity: str, view: str, about: ViewThen) -> None:
        self.folder = folder_of(store, name) / entity / view
        self._about = about
        self._groups: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._about.rows

    def of(self, rows: Int[np.ndarray, " R"]) -> tuple[UInt8[np.ndarray, " R"], UInt32[np.ndarray, " R"]]:
        """Return status and digest of R rows; ABSENT where the snapshot has no such row. StepDiffError: damage."""
        status, digests = np.full(len(rows), ABSENT, np.uint8), np.zeros(len(rows), np.uint32)
        groups = np.where((rows >= 0) & (rows < len(self)), rows // self._about.group, -1)
        for group in np.unique(groups[groups >= 0]).tolist():
            here = np.flatnonzero(groups == group)
            places = rows[here] - group * self._about.group
            status[here], digests[here] = (part[places] for part in self._group(group))
        return status, digests

    def failures(self) -> pl.DataFrame:
        """Return key and reason of the rows that failed."""
        path = self.folder / FAILURES
        return table.read(path) if path.exists() else pl.DataFrame(schema=REASONS)

    def _group(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        if group not in self._groups:
            first = group * self._about.group
            path = _path(self.folder, first)
            frame = table.read(path)
            if dict(frame.schema) != _COLUMNS or len(frame) != min(self._about.group, len(self) - first):
                raise StepDiffError(f"{path} has other rows than its snapshot names: restore the file")
            self._groups[group] = frame["status"].to_numpy(), frame["digest"].to_numpy()
        return self._groups[group]
