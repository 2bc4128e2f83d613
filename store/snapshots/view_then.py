"""A view as a snapshot names it.

    view = Store.open("data/features", at="paper-v1").view("clips", "clip")

Its rows are read where they are; those that were withdrawn since, from what was kept of them. Before a row is returned,
the digest of its checksums is compared with the snapshot's.

Guarantees
- every read returns the bytes of the snapshot, or is refused
- rows that were finished, failed or forgotten since the snapshot have the status that they had
- a view of a snapshot cannot be written
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int64, Shaped, UInt8, UInt32

from stepdiff.common.errors import DamageError, StepDiffError
from store.io.row_checks import Check
from store.io.status import FAILED, OK, Statuses
from store.snapshots.catalog_then import CatalogOfSnapshot
from store.snapshots.kept import KeptRow, KeptRows
from store.snapshots.manifest import ViewThen
from store.snapshots.rows_then import RowsThen, row_digests
from store.view import View

_TRIES = 10


class StatusesOfSnapshot(Statuses):
    """The status of the rows of a snapshot, in chunks of a shard each."""

    def __init__(self, then: RowsThen, rows_per_shard: int) -> None:
        self._then = then
        self._slots = rows_per_shard

    def of_shard(self, shard: int) -> UInt8[np.ndarray, " slots"]:
        """Return the status of every slot of a shard."""
        return self.of_rows(shard * self._slots + np.arange(self._slots))

    def of_rows(self, rows: Int[np.ndarray, " K"]) -> UInt8[np.ndarray, " K"]:
        """Return the status of K rows."""
        return self._then.of(rows)[0]

    def existing(self) -> Iterator[tuple[int, UInt8[np.ndarray, " slots"]]]:
        """Yield every shard with its status."""
        for shard in range(-(-len(self._then) // self._slots)):
            yield shard, self.of_shard(shard)

    def first_not_ok(self, rows: Int[np.ndarray, " B"]) -> tuple[int, int] | None:
        """Return a row that was not ok and its status; None if all were."""
        status = self.of_rows(rows)
        wrong = int(np.argmax(status != OK)) if len(rows) else 0
        return None if (status == OK).all() else (int(rows[wrong]), int(status[wrong]))

    def forget(self, shards: object = None) -> None:
        """Do nothing: a snapshot does not change."""


class ViewOfSnapshot(View):
    """A view at the time of a snapshot."""

    catalog: CatalogOfSnapshot

    def __init__(self, catalog: CatalogOfSnapshot, name: str, then: ViewThen, check: Check = "first") -> None:
        """Open a view of `catalog`'s entity. StepDiffError: the view was dropped, or another has its name now."""
        store = catalog.folder.parent.parent
        super().__init__(store, catalog, catalog.entity, name, check)
        if self.provenance.as_dict() != then.provenance or self.rows_per_shard != then.rows_per_shard:
            raise StepDiffError(
                f"view {name} of {catalog.entity} in {store} is not the one that snapshot {catalog.snapshot} names: it "
                "was dropped and made again"
            )
        self.then = then
        self._rows = RowsThen(store, catalog.snapshot, catalog.entity, name, then)
        self._statuses = StatusesOfSnapshot(self._rows, self.rows_per_shard)
        self._kept = KeptRows(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return ViewOfSnapshot, (self.catalog, self.name, self.then, self.check)

    def __len__(self) -> int:
        return self.then.rows

    def check_ok(self, rows: Int[np.ndarray, " B"]) -> None:
        """Raise StepDiffError, naming the key, if a row was absent or failed."""
        if found := self._statuses.first_not_ok(rows):
            row, status = found
            raise StepDiffError(
                f"{self.catalog.name(row)} was {'failed' if status == FAILED else 'absent'} in view {self.name} of "
                f"{self.entity} at snapshot {self.catalog.snapshot}: leave it out"
            )

    def failures(self, rows: Int[np.ndarray, " F"] | None = None) -> pl.DataFrame:
        """Return key and reason of the rows that had failed; or of F `rows` that had."""
        reasons = self._rows.failures()
        if rows is None:
            return reasons
        keys = pl.DataFrame({"key": self.catalog.keys(rows)}, schema={"key": pl.String})
        return keys.join(reasons, on="key", how="left", maintain_order="left")

    def checksums(self, rows: Int[np.ndarray, " R"]) -> UInt32[np.ndarray, "R arrays"]:
        """Return the crc32c that the rows' arrays had."""
        sums, changed = self._sums(rows)
        for place, kept in zip(np.flatnonzero(changed), self._of_changed(rows[changed]), strict=True):
            sums[place] = kept.sums
        return sums

    def lost(self, rows: Int[np.ndarray, " R"]) -> tuple[Int64[np.ndarray, " L"], str]:
        """Return those of R finished rows that cannot be read any more, and why of the last.

        Rows that did not change and are finished now are not read: `store verify` reads them with the store.
        """
        live = Statuses(self.paths, self.rows_per_shard).of_rows(rows)
        lost, why = [], ""
        for row in rows[self.changed(rows) | (live != OK)].tolist():
            try:
                self._read(np.array([row]), dict.fromkeys(self.checksummed), check="always")
            except DamageError as error:
                lost.append(row)
                why = str(error)
        return np.array(lost, np.int64), why

    def changed(self, rows: Int[np.ndarray, " R"]) -> Bool[np.ndarray, " R"]:
        """Return which of R finished rows the store of now has not, or with other features."""
        return self._sums(rows)[1]

    def damage(self, arrays: Sequence[str], rows: Int[np.ndarray, " R"]) -> DamageError:
        """Return the error for rows that differ from their checksums in these arrays."""
        return DamageError(
            f"{self.catalog.name(int(rows[0]))}: stored {' and '.join(sorted(arrays))} of view {self.name} of "
            f"{self.entity} is not as snapshot {self.catalog.snapshot} names it, and was not kept: run python -m store "
            "verify"
        )

    def in_place(
        self, feature: str, rows: Int[np.ndarray, " B"], check: Check | None = None
    ) -> Shaped[np.ndarray, "B ..."] | None:
        """See `View.in_place`; None also where a row changed since the snapshot."""
        found = super().in_place(feature, rows, self._check(check))
        return None if found is None or self._sums(rows)[1].any() else found

    def _read(
        self,
        rows: Int[np.ndarray, " B"],
        wanted: Mapping[str, Shaped[np.ndarray, "B ..."] | None],
        direct: bool = False,
        check: Check | None = None,
    ) -> list[Shaped[np.ndarray, "B ..."]]:
        kept = np.zeros(len(rows), bool)
        for _ in range(_TRIES):
            changed = self.changed(rows) | kept
            try:
                if changed.any():
                    found = self._read_changed(rows, wanted, changed, direct, check)
                else:
                    found = super()._read(rows, wanted, direct, check)
            except DamageError:  # a writer that has replaced the features, and not yet their checksums, kept the rows
                there = np.array([one is not None for one in self._kept.find(rows, self._rows.of(rows)[1])], bool)
                if not (there & ~changed).any():
                    raise
                kept |= there
                continue
            if not self.changed(rows[~changed]).any():  # else a writer replaced one in between
                return found
        raise StepDiffError(f"rows of view {self.name} are being replaced all the time: read them again later")

    def _read_changed(
        self,
        rows: Int[np.ndarray, " B"],
        wanted: Mapping[str, Shaped[np.ndarray, "B ..."] | None],
        changed: Bool[np.ndarray, " B"],
        direct: bool,
        check: Check | None,
    ) -> list[Shaped[np.ndarray, "B ..."]]:
        """Read rows of which some changed since the snapshot."""
        kept = self._of_changed(rows[changed])
        same = super()._read(rows[~changed], dict.fromkeys(wanted), direct, check)
        filled = [self._room(name, len(rows), out) for name, out in wanted.items()]
        for name, into, values in zip(wanted, filled, same, strict=True):
            into[~changed] = values
            stored = self.stored[name]
            for place, row in zip(np.flatnonzero(changed), kept, strict=True):
                into[place] = np.frombuffer(row.read(name), into.dtype).reshape(stored.shape)
        return filled

    def _sums(self, rows: Int[np.ndarray, " R"]) -> tuple[UInt32[np.ndarray, "R arrays"], Bool[np.ndarray, " R"]]:
        """Return the stored checksums of rows, and which of the rows changed since the snapshot."""
        try:
            sums = self._checksums.of_rows(rows)
        except DamageError:  # of a shard that has no finished rows any more there are none
            sums = np.zeros((len(rows), len(self.checksummed)), np.uint32)
            shards = rows // self.rows_per_shard
            for shard in np.unique(shards).tolist():
                here = shards == shard
                if self.paths.checksum(shard).exists():
                    sums[here] = self._checksums.of_rows(rows[here])
        return sums, row_digests(sums) != self._rows.of(rows)[1]

    def _of_changed(self, rows: Int[np.ndarray, " C"]) -> list[KeptRow]:
        """Return what was kept of rows that changed since. StepDiffError: nothing was."""
        found = self._kept.find(rows, self._rows.of(rows)[1])
        kept = [one for one in found if one is not None]
        if len(kept) < len(found):
            row = int(rows[found.index(None)])
            raise DamageError(
                f"{self.catalog.name(row)} of view {self.name} of {self.entity} is not as snapshot "
                f"{self.catalog.snapshot} names it, and its features of then were not kept"
            )
        return kept

    def _check(self, check: Check | None) -> Check:
        """Return when to compare rows with their checksums: at their first read at least."""
        wanted = super()._check(check)
        return "first" if wanted == "never" else wanted

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise StepDiffError(f"snapshot {self.catalog.snapshot} cannot be changed: write to the store without it")

    resize = write_shard = withdraw = _refuse
