"""The damage of one view, shard by shard: which rows a damaged file affects, and how these become
absent.

Damaged rows are absent rows: `withdraw_damaged` changes their status, and the command that filled
the view computes them like any other absent row. If a status chunk is damaged, all rows of its
shard become absent; if reasons of failures are, the failed rows. A row whose record is damaged
keeps its features: the record says that it was lost.

Guarantees
- a flipped byte in any file of a view is found, and only the rows that it affects are named
- a file that the system refuses is not taken for a damaged one
- a kill at any step leaves a store in which the same call does the rest
- no row that was absent, forgotten or replaced becomes ok
"""

import errno
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt32

from stepdiff_core.errors import DamageError, StepDiffError
from stepdiff_core.io.files import Place, listed
from stepdiff_core.io.remote import ReplacedError
from stepdiff_core.io.sealed import crc32c, is_sealed
from store.format.layout import (
    MERGED_SHARDS,
    array_metadata,
    array_shape,
    check_locked,
    read_json,
    shard_number,
    shard_numbers,
    write_json,
)
from store.format.shard import encode_chunk, open_shard, read_chunk
from store.io.reader import ABSENT, FAILED, OK
from store.io.records import Write, encode_writes
from store.io.writer import ShardWriter
from store.provenance import RowNumbers
from store.view import View

CANNOT = "cannot be read ("
"""how `FileDamage.what` begins if the system refused to read a file, which may be whole"""
_MOST_SEALED = 2**40
_NO_ROWS = np.empty(0, np.int64)
Kind = Literal["metadata", "status", "rows", "reasons", "record", "unreadable"]
"""content of a damaged file: the metadata of an array; the status of rows; their features or
checksums; why rows failed; the record of their writer. `unreadable`: it may be whole, and the cause
is another, such as its permissions"""


@dataclass(frozen=True)
class FileDamage:
    """A damaged or missing file of a view."""

    path: Place
    what: str
    """the fault"""
    kind: Kind
    rows: Int64[np.ndarray, " rows"] | None
    """rows that it affects; None: every row of the view"""
    shard: int | None = None
    """None: the file is of several shards"""


def unsealed(paths: Iterable[Place], *more: Any) -> Iterator[Any]:
    """Yield the missing and damaged files among the sealed `paths`, with their damage, and
    `more`."""
    for path in paths:
        what = unreadable(path) if path.exists() else "is missing"
        if what is not None:
            yield path, what, *more


def unreadable(path: Place) -> str | None:
    """Return why a sealed file cannot be read, or that it is not as it was written; None if it is
    sound or gone."""
    try:
        return None if is_sealed(path.read_whole(_MOST_SEALED)) else "is not as it was written"
    except FileNotFoundError:
        return None  # replaced since it was listed
    except OSError as error:
        return f"{CANNOT}{error.strerror})"
    except StepDiffError as error:
        return f"{CANNOT}{error})"


def view_damage(view: View, length: int, same: Sequence[View] = ()) -> Iterator[FileDamage]:
    """Yield the damage of a view; its catalog has `length` rows, if the view claims more.

    A shard that has the same files in one of the views `same`, which were read before, is not read
    again: a snapshot has links to files of its store.
    """
    broken = [damage for array in view.arrays if (damage := _metadata_damage(view, array))]
    yield from broken
    if all(damage.path != view.paths.metadata("status") for damage in broken):
        try:
            length = len(view)
        except StepDiffError as error:
            yield FileDamage(
                view.paths.metadata("status"), f"is refused ({error})", "unreadable", None
            )
    for shard in shards_of(view, length):
        files, *others = (
            [file.identity() for file in shard_files(one, shard)] for one in (view, *same)
        )
        if files not in others:
            yield from shard_damage(view, shard, length)
    reasons, records = view.paths.beside
    for path, what in unsealed(listed(reasons, "merged-*.parquet")):
        group = shard_number(path.stem.removeprefix("merged-"))
        yield _damage(
            path, what, "reasons", _NO_ROWS if group is None else _failed_in(view, group, length)
        )
    for path, what in unsealed(listed(records, "merged-*.json")):
        yield _damage(path, what, "record", _NO_ROWS)


def shard_files(view: View, shard: int) -> list[Place]:
    """Return the files of a shard: status, checksums, features, reasons of failures, and record."""
    paths = view.paths
    arrays = (view.shard_path(name, shard) for name in view.stored)
    return [
        paths.status(shard),
        paths.checksum(shard),
        *arrays,
        paths.failures(shard),
        paths.info(shard),
    ]


def _metadata_damage(view: View, array: str) -> FileDamage | None:
    """Return the damage of the metadata of an array, which other readers use, or how they differ
    from the view's."""
    path = view.paths.metadata(array)
    for _, what in unsealed([path]):
        return _damage(path, what, "metadata", None)
    try:
        metadata = read_json(path)
        array_shape(path, metadata)
    except StepDiffError as error:
        return FileDamage(path, f"is refused ({error})", "metadata", None)
    expected = array_metadata(view.entity, array, 0, view.stored, view.rows_per_shard)
    emptied = {**metadata, "shape": [0, *metadata["shape"][1:]]}
    differs = [
        name for name in ("shape", "data_type", "chunk_grid") if emptied.get(name) != expected[name]
    ]
    return (
        FileDamage(path, f"differs from the view in {', '.join(differs)}", "metadata", None)
        if differs
        else None
    )


def _damage(
    path: Place,
    what: str,
    kind: Kind,
    rows: RowNumbers | None,
    shard: int | None = None,
    error: Exception | None = None,
) -> FileDamage:
    """Return the damage of a file; unless the disk itself or the content is at fault, `error` makes
    it unreadable."""
    cause = error if isinstance(error, OSError) or error is None else error.__cause__
    if isinstance(cause, OSError) and cause.errno != errno.EIO:
        what = f"{CANNOT}{cause.strerror})"
    return FileDamage(path, what, "unreadable" if what.startswith(CANNOT) else kind, rows, shard)


def shards_of(view: View, length: int) -> list[int]:
    """Return the shards of a view of `length` rows that have a file."""
    names = [path.name for path in listed(view.paths.status(0).parent, "*")]
    names += [path.stem for folder in view.paths.beside for path in listed(folder, "*")]
    return [shard for shard in shard_numbers(names) if shard * view.rows_per_shard < length]


def _failed_in(view: View, group: int, length: int) -> RowNumbers:
    """Return the rows whose failures are in the merged file of a group of shards."""
    rows = [_NO_ROWS]
    for shard in (shard for shard in shards_of(view, length) if shard // MERGED_SHARDS == group):
        with suppress(DamageError):  # reported with the shard
            if not view.paths.failures(shard).exists():
                rows.append(
                    shard * view.rows_per_shard + np.flatnonzero(view.shard_status(shard) == FAILED)
                )
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
        status = np.full(view.rows_per_shard, ABSENT, np.uint8)
    if (status > FAILED).any():
        yield FileDamage(path, "holds values other than 0, 1, 2", "status", every, shard)
    ok, failed = first + np.flatnonzero(status == OK), first + np.flatnonzero(status == FAILED)
    paths = view.paths
    for damaged in _own_or_merged(
        paths.failures(shard), paths.merged_failures(shard), len(failed) > 0
    ):
        yield _damage(*damaged, "reasons", failed, shard)
    for damaged in _own_or_merged(
        paths.info(shard), paths.merged_info(shard), len(ok) + len(failed) > 0
    ):
        yield _damage(*damaged, "record", every, shard)
    if len(ok):
        yield from row_damage(view, shard, ok)


def rows_of_shard(view: View, shard: int, length: int) -> RowNumbers:
    """Return all rows of a shard of a view of `length` rows."""
    first = shard * view.rows_per_shard
    return np.arange(first, min(first + view.rows_per_shard, length))


def _own_or_merged(path: Place, merged: Place, needed: bool) -> list[tuple[Place, str]]:
    """Return the damage of a shard's own file, which may be missing if it was merged into
    another."""
    if path.exists() or (needed and not merged.exists()):
        damage = list(unsealed([path]))
        if path.exists() or not merged.exists():  # else it was merged in the meantime
            return damage
    return []


def row_damage(view: View, shard: int, rows: RowNumbers) -> Iterator[FileDamage]:
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
    view: View, name: str, shard: int, sums: UInt32[np.ndarray, " slots"], rows: RowNumbers
) -> Iterator[FileDamage]:
    """Yield the shard file of an array if some of R rows differ from their checksums."""
    path, fill = view.shard_path(name, shard), bytes(view.stored[name].row_bytes)
    slots = rows % view.rows_per_shard
    wrong = np.zeros(len(rows), bool)
    try:
        # None: every row is the fill value, and the checksums decide
        file = open_shard(path, view.rows_per_shard)
        for place, (slot, total) in enumerate(
            zip(slots.tolist(), sums[slots].tolist(), strict=True)
        ):
            try:
                row = (file.row(slot) if file else None) or fill
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                row = b""
            wrong[place] = len(row) != len(fill) or crc32c(row) != total
    except ReplacedError:  # a row that was ok is in the new object too
        yield from _array_damage(view, name, shard, sums, rows)
    except DamageError:
        yield FileDamage(path, "has a damaged index", "rows", rows, shard)
    except OSError as error:
        yield _damage(path, "cannot be read", "rows", rows, shard, error)
    else:
        if wrong.any():
            what = (
                f"has {int(wrong.sum())} rows that are not as they were written"
                if file
                else "is missing"
            )
            yield FileDamage(path, what, "rows", rows[wrong], shard)


LOST_RECORD = {"record": "lost: its file was damaged"}


def withdraw_damaged(view: View, damage: Iterable[FileDamage]) -> list[FileDamage]:
    """Make the rows of `damage`, which `view_damage` returned, absent; replace damaged files about
    rows.

    Returns the withdrawn part of it: all but unreadable files and the other damage of their shards.
    Raises StepDiffError if the store's lock is not held, an array is longer than the catalog, or
    the disk is full: then the same call does the rest.
    """
    check_locked(view.paths.store, f"rows of view {view.name} of {view.entity} are withdrawn")
    damage = list(damage)
    skipped = {one.shard for one in damage if one.kind == "unreadable"} - {None}
    damage = [one for one in damage if one.kind != "unreadable" and one.shard not in skipped]
    _rewrite_metadata(view, {str(one.path) for one in damage if one.kind == "metadata"})
    merged = [one for one in damage if one.shard is None and one.kind in ("reasons", "record")]
    groups = {(shard_number(one.path.stem.removeprefix("merged-")), one.kind) for one in merged}
    shards = {one.shard for one in damage if one.shard is not None}
    if groups:
        shards |= {
            shard for shard in shards_of(view, len(view)) if shard // MERGED_SHARDS in dict(groups)
        } - skipped
    for shard in sorted(shards):
        _withdraw_shard(
            view, shard, {kind for group, kind in groups if group == shard // MERGED_SHARDS}
        )
    for one in merged:  # no row needs it any more
        one.path.unlink(missing_ok=True)
    return damage


def _rewrite_metadata(view: View, damaged: set[str]) -> None:
    """Write the damaged metadata of arrays again, for as many rows as the catalog has: arrays never
    shrink."""
    if not damaged:
        return
    length = len(view.catalog)
    paths = {view.paths.metadata(array): array for array in view.arrays}
    for path in paths:
        if str(path) not in damaged and array_shape(path, read_json(path))[0] > length:
            raise StepDiffError(
                f"{path} has more rows than the catalog of {view.entity}, {length}: restore its "
                "parts"
            )
    for path, array in paths.items():  # status last: the view's length is its length
        if str(path) in damaged:
            write_json(
                path, array_metadata(view.entity, array, length, view.stored, view.rows_per_shard)
            )


def _withdraw_shard(view: View, shard: int, merged: Set[Kind]) -> None:
    """Look at a shard again, under its lock, and make its damaged rows absent.

    merged: kinds of damaged files of its group, which matter if the shard has no file of its own.
    """
    paths, first = view.paths, shard * view.rows_per_shard
    with ShardWriter(view, shard).locked() as held:
        damage = list(shard_damage(view, shard, len(view)))
        lost: set[Kind] = {one.kind for one in damage}
        if "unreadable" in lost:
            return
        files: dict[Kind, Place] = {"reasons": paths.failures(shard), "record": paths.info(shard)}
        lost |= {kind for kind in merged if not files[kind].exists()}
        before = (
            np.full(view.rows_per_shard, ABSENT, np.uint8)
            if "status" in lost
            else view.shard_status(shard)
        )
        status = before.copy()
        for one in damage:
            if one.kind == "rows" and one.rows is not None:
                status[one.rows - first] = ABSENT
        if "reasons" in lost:
            status[status == FAILED] = ABSENT
        finished = (first + np.flatnonzero(status != ABSENT)).tolist()
        if "record" in lost:
            record = encode_writes(shard, [Write(frozenset(finished), LOST_RECORD)])
            paths.info(shard).put([record], len(record), held)
        if "status" in lost or (status != before).any():
            paths.status(shard).put([encode_chunk(status)], len(status), held)
        if "reasons" in lost:
            files["reasons"].unlink(missing_ok=True)
