"""Damaged rows become absent, so that a later run computes them; files about rows are written again.

A row that is withdrawn keeps its place in the record of its shard, with `"damaged": true` in its info. A repair writes
`"repaired": true` in its place. Rows with one of these marks that are absent are computed after a kill. A record is
written before the status.

Where a status chunk is damaged, the truth about its rows is unknown. A row is ok if the record of its shard names it,
no reason of a failure does, and its bytes match their checksums; it failed if a reason names it and its bytes do not
match. Other rows that the record names are withdrawn. Forgotten rows, and rows that no record names, are absent.
`View.withdraw` removes rows from the record, so that features of a video that was replaced do not return. Where the
record or the reasons are damaged too, every row that a shard file has is withdrawn.

Guarantees
- a damaged row is absent before anything is computed
- a kill at any step leaves a store in which the same call does the rest
- no row that was absent, forgotten or replaced becomes ok
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from stepdiff.common.errors import DamageError, StepDiffError
from stepdiff.common.io.locks import holds
from store.catalog.forgotten import are_forgotten
from store.damage.view_damage import FileDamage, row_damage, rows_of_shard, shard_damage, shards_of
from store.format.layout import LOCK, MERGED_SHARDS, array_metadata, read_json, shard_number, write_json
from store.format.shard import encode_chunk, open_shard
from store.format.view_metadata import array_shape
from store.io.commit_group import CommitGroup
from store.io.records import Write, all_writes, encode_writes, writes_of_shard
from store.io.status import ABSENT, FAILED, OK, encode_failures, failures_of_shard, reasons_by_row
from store.io.writer import ShardWriter
from store.view import View

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
    if not holds(view.paths.store / LOCK):
        raise StepDiffError(f"rows of view {view.name} are withdrawn only under the store's lock: use store.lock()")
    done = Withdrawn()
    found = [damage for damage in found if damage.kind != "unreadable"]
    shards = {damage.shard for damage in found if damage.shard is not None}
    merged = [damage for damage in found if damage.shard is None and damage.kind in ("reasons", "record")]
    for damage in merged:
        group = shard_number(damage.path.stem.removeprefix("merged-"))
        shards |= {shard for shard in shards_of(view, len(view)) if shard // MERGED_SHARDS == group}
    for shard in sorted(shards):
        _Shard(view, shard).withdraw(done)
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
        write_json(path, array_metadata(arrays[path], length, view.stored, view.rows_per_shard))
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


class _Shard:
    """A shard of which a file is damaged."""

    def __init__(self, view: View, shard: int) -> None:
        self.view, self.shard = view, shard
        self.first = shard * view.rows_per_shard

    def withdraw(self, done: Withdrawn) -> None:
        """Look at the shard again, under its lock, and make its damaged rows absent."""
        view, paths = self.view, self.view.paths
        with ShardWriter(view, self.shard).locked() as held:
            damage_now = list(shard_damage(view, self.shard, len(view)))
            if any(damage.kind == "unreadable" for damage in damage_now):
                return
            writes, reasons = self._record_and_reasons()
            rows = _union([damage for damage in damage_now if damage.kind == "rows"])
            if lost := any(damage.kind == "status" for damage in damage_now):
                status, rows = self._rebuilt(writes, reasons)
            else:
                status = view.shard_status(self.shard).copy()
                status[rows - self.first] = ABSENT
            failed = (self.first + np.flatnonzero(status == FAILED)).tolist()
            finished = {*(self.first + np.flatnonzero(status == OK)).tolist(), *failed}
            with CommitGroup(held) as files:
                if len(rows) or not finished <= _rows_of(writes or []):
                    record = encode_writes(self.shard, _marked(writes or [], frozenset(rows.tolist()), finished))
                    files.put(paths.info(self.shard), record)
                if writes is None or not finished <= _rows_of(writes):
                    done.rewritten.append(str(paths.info(self.shard)))
                if any(row not in (reasons or {}) for row in failed):
                    known = {row: (reasons or {}).get(row, LOST_REASON) for row in failed}
                    files.put(paths.failures(self.shard), encode_failures(view.catalog, known))
                    done.rewritten.append(str(paths.failures(self.shard)))
            if reasons is None and not failed and paths.failures(self.shard).exists():
                paths.failures(self.shard).unlink()  # no row needs it
                done.rewritten.append(str(paths.failures(self.shard)))
            if lost or len(rows):
                paths.status(self.shard).put([encode_chunk(status)], len(status), held)
            if lost:
                done.rewritten.append(str(paths.status(self.shard)))
            done.rows += len(rows)

    def _record_and_reasons(self) -> tuple[list[Write] | None, dict[int, str] | None]:
        """Return the record of the shard, and row -> reason of its failures; None where the file is damaged."""
        writes, failures = None, None
        with suppress(StepDiffError):
            writes = writes_of_shard(self.view.paths, self.shard, self.view.rows_per_shard)
        with suppress(StepDiffError):
            failures = failures_of_shard(self.view.paths, self.shard)
        return writes, None if failures is None else reasons_by_row(self.view.catalog, failures)

    def _rebuilt(
        self, writes: list[Write] | None, reasons: dict[int, str] | None
    ) -> tuple[UInt8[np.ndarray, " slots"], Int64[np.ndarray, " R"]]:
        """Return the status of the shard, whose chunk is damaged, and the rows that are withdrawn."""
        rows = rows_of_shard(self.view, self.shard, len(self.view))
        known = ~are_forgotten(self.view.paths.store, self.view.entity, rows)
        damaged = list(row_damage(self.view, self.shard, rows))
        for damage in damaged:
            if damage.kind == "unreadable":  # its rows may be whole
                raise StepDiffError(f"{damage.path} {damage.what}: correct that, then run the command again")
        trusted = writes is not None and reasons is not None
        written = np.isin(rows, list(_rows_of(writes))) if writes is not None else self._present(rows)
        failed = np.isin(rows, list(reasons or {})) & known
        whole = ~np.isin(rows, _union(damaged)) & known
        status = np.zeros(self.view.rows_per_shard, np.uint8)
        status[: len(rows)][failed & ~whole] = FAILED
        if trusted:
            status[: len(rows)][written & whole & ~failed] = OK
        return status, rows[written & known & (status[: len(rows)] == ABSENT)]

    def _present(self, rows: Int64[np.ndarray, " R"]) -> Bool[np.ndarray, " R"]:
        """Return which rows a shard file has."""
        present = np.zeros(len(rows), bool)
        for name, feature in self.view.stored.items():
            path = self.view.paths.shard(name, self.shard, 1 + len(feature.shape))
            with suppress(DamageError):
                if file := open_shard(path, self.view.rows_per_shard):
                    present |= file.present[: len(rows)]
        return present


def _union(found: list[FileDamage]) -> Int64[np.ndarray, " rows"]:
    rows = [damage.rows for damage in found if damage.rows is not None]
    return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def _rows_of(writes: list[Write]) -> frozenset[int]:
    return frozenset().union(*(write.rows for write in writes))


def _marked(writes: list[Write], damaged: frozenset[int], finished: set[int]) -> list[Write]:
    """Return a record in which damaged rows are marked, and finished rows that it does not name are named."""
    kept = [replace(write, rows=write.rows - damaged) for write in writes]
    moved = [replace(write, rows=write.rows & damaged, info={**write.info, MARK: True}) for write in writes]
    unknown = frozenset(finished | damaged) - _rows_of(writes)
    lost = [Write(unknown - damaged, LOST_RECORD), Write(unknown & damaged, {**LOST_RECORD, MARK: True})]
    return [write for write in (*kept, *moved, *lost) if write.rows]
