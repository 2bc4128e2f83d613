"""The damage of one view, shard by shard: which rows a damaged file affects. `verify` and `withdrawal` use it.

Guarantees
- a flipped byte in any file of a view is found, and only the rows that it affects are named
- a file that the system refuses is not taken for a damaged one
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, UInt32

from stepdiff.common.errors import DamageError, StepDiffError
from stepdiff.common.io.files import Place, listed
from stepdiff.common.io.local import Identity
from stepdiff.common.io.sealed import crc32c, is_sealed
from store.format.layout import (
    MERGED_SHARDS,
    array_metadata,
    read_json,
    shard_number,
    shard_numbers,
)
from store.format.shard import open_shard, read_chunk
from store.format.view_metadata import array_shape
from store.view import FAILED, OK, View

_CANNOT = "cannot be read ("
"""how the reason begins where the system refused to read a file, which may be whole"""
_MOST_SEALED = 2**40
Kind = Literal["metadata", "status", "rows", "reasons", "record", "unreadable"]
"""what a damaged file holds: the metadata of an array; the status of rows; their features or checksums; why rows
failed; what wrote them. `unreadable`: it may be whole, and the cause is another, such as its permissions"""


@dataclass(frozen=True)
class FileDamage:
    """A damaged or missing file of a view."""

    path: Place
    what: str
    """what is wrong with it"""
    kind: Kind
    rows: Int64[np.ndarray, " rows"] | None
    """rows that it affects; None: every row of the view"""
    shard: int | None = None
    """None: the file is of several shards"""


def unsealed(paths: Iterable[Place]) -> Iterator[tuple[Place, str]]:
    """Yield those of the sealed files `paths` that are missing or damaged, with what is wrong."""
    for path in paths:
        what = unreadable(path) if path.exists() else "is missing"
        if what is not None:
            yield path, what


def unreadable(path: Place) -> str | None:
    """Return why a sealed file cannot be read, or that it is not as it was written; None where it is sound or gone."""
    try:
        return None if is_sealed(path.read_whole(_MOST_SEALED)) else "is not as it was written"
    except FileNotFoundError:
        return None  # replaced since it was listed
    except OSError as error:
        return f"{_CANNOT}{error.strerror})"
    except StepDiffError as error:
        return f"{_CANNOT}{error})"


def view_damage(view: View, known: int, same: Sequence[View] = ()) -> Iterator[FileDamage]:
    """Yield the damage of a view whose catalog has `known` rows, for a view that is longer.

    A shard whose files are those of one of the views `same`, which were read before, is not read again: a snapshot has
    links to files of its store.
    """
    broken = None
    for array in view.arrays:
        if broken := _metadata_damage(view, array):
            yield broken
    if broken:
        return  # without the metadata of `status` the number of rows is not known
    try:
        length = len(view)
    except StepDiffError as error:
        yield FileDamage(view.paths.metadata("status"), f"is refused ({error})", "unreadable", None)
        length = known
    for shard in shards_of(view, length):
        files = _versions(view, shard) if same else []
        if not any(files == _versions(other, shard) for other in same):
            yield from shard_damage(view, shard, length)
    reasons, records = view.paths.beside
    for path, what in unsealed(listed(reasons, "merged-*.parquet")):
        group = shard_number(path.stem.removeprefix("merged-"))
        yield _damage(path, what, "reasons", _no_rows() if group is None else _failed_in(view, group, length))
    for path, what in unsealed(listed(records, "merged-*.json")):
        yield _damage(path, what, "record", _no_rows())


def shard_files(view: View, shard: int) -> list[Place]:
    """Return the files of a shard: status, checksums, features, reasons of failures, and record."""
    paths = view.paths
    arrays = [paths.shard(name, shard, 1 + len(feature.shape)) for name, feature in view.stored.items()]
    return [paths.status(shard), paths.checksum(shard), *arrays, paths.failures(shard), paths.info(shard)]


def _versions(view: View, shard: int) -> list[Identity | None]:
    return [file.identity() for file in shard_files(view, shard)]


def _metadata_damage(view: View, array: str) -> FileDamage | None:
    path = view.paths.metadata(array)
    for _, what in unsealed([path]):
        return _damage(path, what, "metadata", None)
    misfit = _misfit(view, array, path)
    return FileDamage(path, misfit, "metadata", None) if misfit else None


def _damage(
    path: Place,
    what: str,
    kind: Kind,
    rows: Int64[np.ndarray, " R"] | None,
    shard: int | None = None,
    error: Exception | None = None,
) -> FileDamage:
    """Return the damage of a file; unless the disk itself or the content is at fault, `error` makes it unreadable."""
    cause = error if isinstance(error, OSError) or error is None else error.__cause__
    if isinstance(cause, OSError) and cause.errno != errno.EIO:
        what = f"{_CANNOT}{cause.strerror})"
    return FileDamage(path, what, "unreadable" if what.startswith(_CANNOT) else kind, rows, shard)


def _misfit(view: View, array: str, path: Place) -> str | None:
    """Return how the metadata of an array, which other readers use, differs from the view's; None where it does not."""
    try:
        metadata = read_json(path)
        array_shape(path, metadata)
    except StepDiffError as error:
        return f"is refused ({error})"
    expected = array_metadata(array, 0, view.stored, view.rows_per_shard)
    known = {**metadata, "shape": [0, *metadata["shape"][1:]]}
    differs = [name for name in ("shape", "data_type", "chunk_grid") if known.get(name) != expected[name]]
    return f"differs from the view in {', '.join(differs)}" if differs else None


def shards_of(view: View, length: int) -> list[int]:
    """Return the shards of a view of `length` rows of which a file exists."""
    names = [path.name for path in listed(view.paths.status(0).parent, "*")]
    names += [path.stem for folder in view.paths.beside for path in listed(folder, "*")]
    return [shard for shard in shard_numbers(names) if shard * view.rows_per_shard < length]


def _failed_in(view: View, group: int, length: int) -> Int64[np.ndarray, " rows"]:
    """Return the rows whose failures are in the merged file of a group of shards."""
    rows = [_no_rows()]
    for shard in (shard for shard in shards_of(view, length) if shard // MERGED_SHARDS == group):
        with suppress(DamageError):  # reported with the shard
            if not view.paths.failures(shard).exists():
                rows.append(shard * view.rows_per_shard + np.flatnonzero(view.shard_status(shard) == FAILED))
    return np.concatenate(rows)


def shard_damage(view: View, shard: int, length: int) -> Iterator[FileDamage]:
    """Yield the damage of a shard of a view of `length` rows."""
    first = shard * view.rows_per_shard
    every = rows_of_shard(view, shard, length)
    path = view.paths.status(shard)
    try:
        status = view.shard_status(shard)
    except DamageError as error:
        yield _damage(path, "has a wrong checksum", "status", every, shard, error)
        return
    if (status > FAILED).any():
        yield FileDamage(path, "holds values other than 0, 1, 2", "status", every, shard)
    ok, failed = first + np.flatnonzero(status == OK), first + np.flatnonzero(status == FAILED)
    paths = view.paths
    for damaged in _own_or_merged(paths.failures(shard), paths.merged_failures(shard), len(failed) > 0):
        yield _damage(*damaged, "reasons", failed, shard)
    for damaged in _own_or_merged(paths.info(shard), paths.merged_info(shard), len(ok) + len(failed) > 0):
        yield _damage(*damaged, "record", every, shard)
    if len(ok):
        yield from row_damage(view, shard, ok)


def rows_of_shard(view: View, shard: int, length: int) -> Int64[np.ndarray, " rows"]:
    """Return all rows of a shard of a view of `length` rows."""
    first = shard * view.rows_per_shard
    return np.arange(first, min(first + view.rows_per_shard, length))


def _own_or_merged(path: Place, merged: Place, needed: bool) -> list[tuple[Place, str]]:
    """Return the damage of a shard's own file, which may be missing where it was merged into another."""
    if path.exists() or (needed and not merged.exists()):
        damage = list(unsealed([path]))
        if path.exists() or not merged.exists():  # else it was merged in the meantime
            return damage
    return []


def row_damage(view: View, shard: int, rows: Int[np.ndarray, " R"]) -> Iterator[FileDamage]:
    """Yield the files of a shard in which some of R rows differ from their checksums."""
    path = view.paths.checksum(shard)
    try:
        sums = read_chunk(path, (view.rows_per_shard, len(view.checksummed)), "uint32")
    except DamageError as error:
        yield _damage(path, "has a wrong checksum", "rows", rows, shard, error)
        return
    if sums is None:
        yield FileDamage(path, "is missing", "rows", rows, shard)
        return
    for column, name in enumerate(view.checksummed):
        yield from _array_damage(view, name, shard, sums[:, column], rows)


def _array_damage(
    view: View, name: str, shard: int, sums: UInt32[np.ndarray, " slots"], rows: Int[np.ndarray, " R"]
) -> Iterator[FileDamage]:
    """Yield the shard file of an array if some of R rows differ from their checksums."""
    feature = view.stored[name]
    path = view.paths.shard(name, shard, 1 + len(feature.shape))
    fill = bytes(feature.row_bytes)
    slots = rows % view.rows_per_shard
    try:
        file = open_shard(path, view.rows_per_shard)  # None: every row is the fill value, and the checksums decide
    except DamageError:
        yield FileDamage(path, "has a damaged index", "rows", rows, shard)
        return
    except OSError as error:
        yield _damage(path, "cannot be read", "rows", rows, shard, error)
        return
    wrong = np.zeros(len(rows), bool)
    for place, (slot, total) in enumerate(zip(slots.tolist(), sums[slots].tolist(), strict=True)):
        try:
            row = (file.row(slot) if file else None) or fill
        except OSError as error:
            if error.errno != errno.EIO:
                yield _damage(path, "cannot be read", "rows", rows, shard, error)
                return
            row = b""
        wrong[place] = len(row) != feature.row_bytes or crc32c(row) != total
    if wrong.any():
        what = f"has {int(wrong.sum())} rows that are not as they were written"
        yield FileDamage(path, what if file else "is missing", "rows", rows[wrong], shard)


def _no_rows() -> Int64[np.ndarray, " 0"]:
    return np.empty(0, np.int64)
