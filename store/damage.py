"""The damage of one view, shard by shard: which rows a damaged file affects, and how these become absent.

A later run computes absent rows. A row that is withdrawn keeps its place in the record of its shard, with
`"damaged": true` in its info. A repair writes `"repaired": true` in its place. Rows with one of these marks that are
absent are computed after a kill. A record is written before the status.

Where a status chunk is damaged, the truth about its rows is unknown. A row is ok if the record of its shard names it,
no reason of a failure does, and its bytes match their checksums; it failed if a reason names it and its bytes do not
match. Other rows that the record names are withdrawn. Forgotten rows, and rows that no record names, are absent.
`View.withdraw` removes rows from the record, so that features of a video that was replaced do not return. Where the
record or the reasons are damaged too, every row that a shard file has is withdrawn.

Guarantees
- a flipped byte in any file of a view is found, and only the rows that it affects are named
- a file that the system refuses is not taken for a damaged one
- a damaged row is absent before anything is computed
- a kill at any step leaves a store in which the same call does the rest
- no row that was absent, forgotten or replaced becomes ok
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8, UInt32

from stepdiff.common.errors import DamageError, StepDiffError
from stepdiff.common.io.files import Place, listed
from stepdiff.common.io.sealed import crc32c, is_sealed
from store.catalog.catalog import are_forgotten
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
from store.io.records import (
    ABSENT,
    FAILED,
    OK,
    Write,
    all_writes,
    encode_failures,
    encode_writes,
    failures_of_shard,
    reasons_by_row,
    writes_of_shard,
)
from store.io.writer import CommitGroup, ShardWriter
from store.view import View

_CANNOT = "cannot be read ("
"""how the reason begins where the system refused to read a file, which may be whole"""
_MOST_SEALED = 2**40
_NO_ROWS = np.empty(0, np.int64)
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
    broken = [damage for array in view.arrays if (damage := _metadata_damage(view, array))]
    yield from broken
    if any(damage.path == view.paths.metadata("status") for damage in broken):
        return  # without it the number of rows is not known
    try:
        length = len(view)
    except StepDiffError as error:
        yield FileDamage(view.paths.metadata("status"), f"is refused ({error})", "unreadable", None)
        length = known
    for shard in shards_of(view, length):
        files, *others = ([file.identity() for file in shard_files(one, shard)] for one in (view, *same))
        if files not in others:
            yield from shard_damage(view, shard, length)
    reasons, records = view.paths.beside
    for path, what in unsealed(listed(reasons, "merged-*.parquet")):
        group = shard_number(path.stem.removeprefix("merged-"))
        yield _damage(path, what, "reasons", _NO_ROWS if group is None else _failed_in(view, group, length))
    for path, what in unsealed(listed(records, "merged-*.json")):
        yield _damage(path, what, "record", _NO_ROWS)


def shard_files(view: View, shard: int) -> list[Place]:
    """Return the files of a shard: status, checksums, features, reasons of failures, and record."""
    paths = view.paths
    arrays = (view.shard_path(name, shard) for name in view.stored)
    return [paths.status(shard), paths.checksum(shard), *arrays, paths.failures(shard), paths.info(shard)]


def _metadata_damage(view: View, array: str) -> FileDamage | None:
    """Return the damage of the metadata of an array, which other readers use, or how they differ from the view's."""
    path = view.paths.metadata(array)
    for _, what in unsealed([path]):
        return _damage(path, what, "metadata", None)
    try:
        metadata = read_json(path)
        array_shape(path, metadata)
    except StepDiffError as error:
        return FileDamage(path, f"is refused ({error})", "metadata", None)
    expected = array_metadata(view.entity, array, 0, view.stored, view.rows_per_shard)
    known = {**metadata, "shape": [0, *metadata["shape"][1:]]}
    differs = [name for name in ("shape", "data_type", "chunk_grid") if known.get(name) != expected[name]]
    return FileDamage(path, f"differs from the view in {', '.join(differs)}", "metadata", None) if differs else None


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


def shards_of(view: View, length: int) -> list[int]:
    """Return the shards of a view of `length` rows of which a file exists."""
    names = [path.name for path in listed(view.paths.status(0).parent, "*")]
    names += [path.stem for folder in view.paths.beside for path in listed(folder, "*")]
    return [shard for shard in shard_numbers(names) if shard * view.rows_per_shard < length]


def _failed_in(view: View, group: int, length: int) -> Int64[np.ndarray, " rows"]:
    """Return the rows whose failures are in the merged file of a group of shards."""
    rows = [_NO_ROWS]
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
    path, fill = view.shard_path(name, shard), bytes(view.stored[name].row_bytes)
    slots = rows % view.rows_per_shard
    wrong = np.zeros(len(rows), bool)
    try:
        file = open_shard(path, view.rows_per_shard)  # None: every row is the fill value, and the checksums decide
        for place, (slot, total) in enumerate(zip(slots.tolist(), sums[slots].tolist(), strict=True)):
            try:
                row = (file.row(slot) if file else None) or fill
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                row = b""
            wrong[place] = len(row) != len(fill) or crc32c(row) != total
    except DamageError:
        yield FileDamage(path, "has a damaged index", "rows", rows, shard)
    except OSError as error:
        yield _damage(path, "cannot be read", "rows", rows, shard, error)
    else:
        if wrong.any():
            what = f"has {int(wrong.sum())} rows that are not as they were written" if file else "is missing"
            yield FileDamage(path, what, "rows", rows[wrong], shard)


MARK = "damaged"
"""key in the info of rows that were withdrawn because they are damaged"""
REPAIRED = "repaired"
"""key in the info of rows that a repair computed"""
LOST_REASON = "the reason is lost: its file was damaged"
LOST_RECORD = {"record": "lost: its file was damaged"}


@dataclass
class Withdrawn:
    """What `withdraw_damaged` did."""

    rows: int = 0
    """rows that became absent"""
    rewritten: list[str] = field(default_factory=list)
    """files that were written again: metadata of arrays, status, reasons, records"""


def withdraw_damaged(view: View, found: list[FileDamage]) -> Withdrawn:
    """Make damaged rows absent, and write damaged files about rows again; `found`: what `view_damage` returns.

    Unreadable files are left alone. Raises StepDiffError where the store's lock is not held, a file is unreadable, or
    the disk is full: then the same call does the rest.
    """
    check_locked(view.paths.store, f"rows of view {view.name} of {view.entity} are withdrawn")
    done = Withdrawn()
    found = [damage for damage in found if damage.kind != "unreadable"]
    shards = {damage.shard for damage in found if damage.shard is not None}
    merged = [damage for damage in found if damage.shard is None and damage.kind in ("reasons", "record")]
    for damage in merged:
        group = shard_number(damage.path.stem.removeprefix("merged-"))
        shards |= {shard for shard in shards_of(view, len(view)) if shard // MERGED_SHARDS == group}
    for shard in sorted(shards):
        _withdraw_shard(view, shard, done)
    for damage in merged:  # every shard of its group has a file of its own now
        damage.path.unlink()
        done.rewritten.append(str(damage.path))
    return done


def rewrite_metadata(view: View, found: list[FileDamage]) -> list[str]:
    """Write the damaged metadata of arrays again, for as many rows as the catalog has; return the files.

    The caller holds the store's lock. What else is damaged in the view is known only afterwards. Raises StepDiffError
    if another array of the view is longer than the catalog: arrays never shrink.
    """
    damaged = {str(damage.path) for damage in found if damage.kind == "metadata"}
    arrays = {view.paths.metadata(array): array for array in view.arrays}
    length = len(view.catalog)
    for path in arrays:
        if str(path) not in damaged and array_shape(path, read_json(path))[0] > length:
            raise StepDiffError(f"{path} has more rows than the catalog of {view.entity}, {length}: restore its parts")
    rewritten = [path for path in arrays if str(path) in damaged]  # status last: the view's length is its length
    for path in rewritten:
        write_json(path, array_metadata(view.entity, arrays[path], length, view.stored, view.rows_per_shard))
    return [str(path) for path in rewritten]


def unfinished(view: View) -> dict[int, dict[str, Any]]:
    """Return the rows that were withdrawn as damaged and are still absent, with the info of what wrote them."""
    rows: dict[int, dict[str, Any]] = {}
    for shard, writes in all_writes(view.paths, view.rows_per_shard, skip_damaged=True):
        infos = [write for write in writes if True in (write.info.get(MARK), write.info.get(REPAIRED))]
        marked = {row: write.info for write in infos for row in write.rows}
        if not marked:
            continue
        with suppress(DamageError):  # the rows are damaged once more
            absent = set((shard * view.rows_per_shard + np.flatnonzero(view.shard_status(shard) == ABSENT)).tolist())
            rows |= {row: info for row, info in marked.items() if row in absent}
    gone = are_forgotten(view.paths.store, view.entity, np.array(list(rows), np.int64))
    return {row: info for (row, info), forgotten in zip(rows.items(), gone.tolist(), strict=True) if not forgotten}


def _withdraw_shard(view: View, shard: int, done: Withdrawn) -> None:
    """Look at a shard again, under its lock, and make its damaged rows absent."""
    paths, first = view.paths, shard * view.rows_per_shard
    with ShardWriter(view, shard).locked() as held:
        damage_now = list(shard_damage(view, shard, len(view)))
        if any(damage.kind == "unreadable" for damage in damage_now):
            return
        writes, reasons = _record_and_reasons(view, shard)
        rows = _union([damage for damage in damage_now if damage.kind == "rows"])
        if lost := any(damage.kind == "status" for damage in damage_now):
            status, rows = _rebuilt(view, shard, writes, reasons)
        else:
            status = view.shard_status(shard).copy()
            status[rows - first] = ABSENT
        failed = (first + np.flatnonzero(status == FAILED)).tolist()
        finished = {*(first + np.flatnonzero(status == OK)).tolist(), *failed}
        rewritten: list[Place] = []
        with CommitGroup(held) as files:
            if len(rows) or not finished <= _rows_of(writes or []):
                record = encode_writes(shard, _marked(writes or [], frozenset(rows.tolist()), finished))
                files.put(paths.info(shard), record)
            if writes is None or not finished <= _rows_of(writes):
                rewritten.append(paths.info(shard))
            if any(row not in (reasons or {}) for row in failed):
                known = {row: (reasons or {}).get(row, LOST_REASON) for row in failed}
                files.put(paths.failures(shard), encode_failures(view.catalog, known))
                rewritten.append(paths.failures(shard))
        if reasons is None and not failed and paths.failures(shard).exists():
            paths.failures(shard).unlink()  # no row needs it
            rewritten.append(paths.failures(shard))
        if lost or len(rows):
            paths.status(shard).put([encode_chunk(status)], len(status), held)
        if lost:
            rewritten.append(paths.status(shard))
        done.rewritten += map(str, rewritten)
        done.rows += len(rows)


def _record_and_reasons(view: View, shard: int) -> tuple[list[Write] | None, dict[int, str] | None]:
    """Return the record of a shard, and row -> reason of its failures; None where the file is damaged."""
    writes, failures = None, None
    with suppress(StepDiffError):
        writes = writes_of_shard(view.paths, shard, view.rows_per_shard)
    with suppress(StepDiffError):
        failures = failures_of_shard(view.paths, shard)
    return writes, None if failures is None else reasons_by_row(view.catalog, failures)


def _rebuilt(
    view: View, shard: int, writes: list[Write] | None, reasons: dict[int, str] | None
) -> tuple[UInt8[np.ndarray, " slots"], Int64[np.ndarray, " R"]]:
    """Return the status of a shard, whose chunk is damaged, and the rows that are withdrawn."""
    rows = rows_of_shard(view, shard, len(view))
    known = ~are_forgotten(view.paths.store, view.entity, rows)
    damaged = list(row_damage(view, shard, rows))
    for damage in damaged:
        if damage.kind == "unreadable":  # its rows may be whole
            raise StepDiffError(f"{damage.path} {damage.what}: correct that, then run the command again")
    written = np.isin(rows, list(_rows_of(writes))) if writes is not None else _present(view, shard, rows)
    failed = np.isin(rows, list(reasons or {})) & known
    whole = ~np.isin(rows, _union(damaged)) & known
    status = np.zeros(view.rows_per_shard, np.uint8)
    status[: len(rows)][failed & ~whole] = FAILED
    if writes is not None and reasons is not None:
        status[: len(rows)][written & whole & ~failed] = OK
    return status, rows[written & known & (status[: len(rows)] == ABSENT)]


def _present(view: View, shard: int, rows: Int64[np.ndarray, " R"]) -> Bool[np.ndarray, " R"]:
    """Return which rows a shard file has."""
    present = np.zeros(len(rows), bool)
    for name in view.stored:
        with suppress(DamageError):
            if file := open_shard(view.shard_path(name, shard), view.rows_per_shard):
                present |= file.present[: len(rows)]
    return present


def _union(found: list[FileDamage]) -> Int64[np.ndarray, " rows"]:
    rows = [damage.rows for damage in found if damage.rows is not None]
    return np.unique(np.concatenate([_NO_ROWS, *rows]))


def _rows_of(writes: list[Write]) -> frozenset[int]:
    return frozenset().union(*(write.rows for write in writes))


def _marked(writes: list[Write], damaged: frozenset[int], finished: set[int]) -> list[Write]:
    """Return a record in which damaged rows are marked, and finished rows that it does not name are named."""
    kept = [replace(write, rows=write.rows - damaged) for write in writes]
    moved = [replace(write, rows=write.rows & damaged, info={**write.info, MARK: True}) for write in writes]
    unknown = frozenset(finished | damaged) - _rows_of(writes)
    lost = [Write(unknown - damaged, LOST_RECORD), Write(unknown & damaged, {**LOST_RECORD, MARK: True})]
    return [write for write in (*kept, *moved, *lost) if write.rows]
