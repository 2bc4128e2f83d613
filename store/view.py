"""A feature view: everything that one frozen encoder computed for an entity.

    view = Store.open("data/features").view("clips", "clip")
    view.read("embedding", keys=["clip_0", "clip_7"])  # [2, 768]
    view.read("tokens", keys="clip_0", dtype="float32")  # int8 is dequantised

Guarantees
- the status of a row is correct at every moment
- an array shorter than the catalog reads as absent; a view longer than the catalog is refused
- a damaged row is refused with its key at the first read
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Int, Shaped, UInt8, UInt32

from stepdiff_core.errors import DamageError, StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.direct_io import aligned_empty, fill_memory
from stepdiff_core.io.files import Place
from stepdiff_core.io.local import Identity
from stepdiff_core.io.sealed import BLANK
from store.catalog.catalog import Catalog, refuse_forgotten
from store.format.layout import (
    ViewPaths,
    array_shape,
    check_locked,
    open_zarr,
    read_json,
    read_view,
    refuse_snapshot,
    snapshot_of,
    stored_features,
    write_json,
)
from store.format.quantise import Quantised, dequantise
from store.format.shard import by_shard
from store.io.reader import (
    ABSENT,
    FAILED,
    OK,
    Check,
    Checksums,
    RemoteReader,
    RowChecks,
    RowReader,
    Statuses,
    known_check,
    read_together,
    remedy,
)
from store.io.records import failures_of_shards
from store.provenance import Feature, RowNumbers, RowValues

if TYPE_CHECKING:
    from zarr import Array

Keys = str | Sequence[str] | Shaped[np.ndarray, " B"] | pl.Series
Rows = Sequence[int] | Int[np.ndarray, " B"] | pl.Series


def row_numbers(rows: Rows) -> RowNumbers:
    """Return row numbers as an array. StepDiffError if they are not a list of integers, or one is
    negative."""
    numbers = np.asarray(rows)
    if not numbers.size:
        numbers = numbers.astype(np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise StepDiffError(
            f"rows are {numbers.dtype} of shape {list(numbers.shape)}: give a list of row numbers, "
            "np.flatnonzero(mask) for a mask"
        )
    if len(numbers) and numbers.min() < 0:
        raise StepDiffError(
            f"no row {numbers.min()} in a view: rows are numbered from 0, leave it out"
        )
    return numbers.astype(np.int64, copy=False)


class View:
    """One view of a store, from `Store.view` or `Store.writer`. Picklable."""

    check: Check
    """when reads compare rows with their stored checksums by default: "first" (the first time that
    a row is read through this object, and again once its shard file was replaced), "always" or
    "never" """

    def __init__(
        self, store: Place, catalog: Catalog, entity: str, name: str, check: Check = "first"
    ) -> None:
        """Open the view `name` of `entity`, whose group exists; StepDiffError if it is damaged."""
        self.entity = entity
        self.name = name
        self.check = known_check(check)
        self.paths = ViewPaths(store, entity, name)
        self.catalog = catalog
        self._made = (self.paths.group / "zarr.json").identity()
        described = read_view(self.paths.group / "zarr.json")
        self.provenance, self.rows_per_shard, self.features, self.checksummed = described
        self.stored = stored_features(self.features)
        # status last: the view's length is its length
        self.arrays = (*self.stored, "checksum", "status")
        self._length: tuple[Identity | None, int] = (None, 0)
        self._statuses = Statuses(self.paths, self.rows_per_shard)
        self._checksums = Checksums(self.paths, self.rows_per_shard, len(self.checksummed))
        reader = RemoteReader if store.remote else RowReader
        self._readers: dict[str, RowReader | RemoteReader] = {}
        for array, feature in self.stored.items():
            path: Callable[[int], Any] = partial(
                self.paths.shard, array, axes=1 + len(feature.shape)
            )
            column, rows, row_bytes = (
                self.checksummed.index(array),
                self.rows_per_shard,
                feature.row_bytes,
            )
            checks = RowChecks(self._checksums, column, rows, row_bytes)
            self._readers[array] = reader(path, rows, row_bytes, checks)

    def __reduce__(self) -> tuple[Any, ...]:
        return View, (
            self.paths.store,
            Catalog(self.catalog.folder),
            self.entity,
            self.name,
            self.check,
        )

    def __repr__(self) -> str:
        """Return location, encoder, features and counts, on several lines."""
        made = self.provenance
        try:
            counts = np.bincount(self.status(), minlength=3).tolist()
            rows = f"{counts[OK]:,} ok, {counts[FAILED]:,} failed, {counts[ABSENT]:,} absent"
        except (StepDiffError, OSError) as error:
            # a view must be printable whatever became of its files
            rows = f"unknown ({error})"
        about = {
            "encoder": f"{made.encoder}, layer {made.layer}, weights {made.weights[:12]}",
            **{name: f"{form.dtype} {list(form.shape)}" for name, form in self.features.items()},
            "rows": rows,
        }
        width = max(map(len, about))
        lines = [f"  {name:{width}}  {text}" for name, text in about.items()]
        return "\n".join([f"View({self.entity}/{self.name} in {self.paths.store})", *lines])

    def __len__(self) -> int:
        """Return the rows that the arrays have room for now; StepDiffError if the catalog has
        fewer."""
        path = self.paths.metadata("status")
        now = path.identity()
        if self._length[0] != now:
            rows, length = array_shape(path, read_json(path))[0], len(self.catalog)
            if rows > length:
                raise StepDiffError(
                    f"{path} has {rows} rows and the catalog of {self.entity} has {length}: "
                    "a part of the catalog is lost, or the file is from another store; restore it"
                )
            self._length = (now, rows)
        return self._length[1]

    def resize(self) -> None:
        """Grow the arrays to the catalog's length. The caller holds the store's lock."""
        check_locked(self.paths.store, f"view {self.name} of {self.entity} grows")
        length = len(self.catalog)
        for array in self.arrays:
            path = self.paths.metadata(array)
            metadata = read_json(path)
            if array_shape(path, metadata)[0] < length:
                metadata["shape"][0] = length
                metadata["attributes"]["seal"] = BLANK
                write_json(path, metadata)

    def status(self, rows: RowNumbers | None = None) -> UInt8[np.ndarray, " rows"]:
        """Return the status of every row, or of R `rows`, whose shards alone are read: ABSENT, OK
        or FAILED."""
        if rows is not None:
            return np.where(rows < len(self), self._statuses.of_rows(rows), np.uint8(ABSENT))
        status = np.zeros(len(self.catalog), np.uint8)
        room = min(len(self), len(status))
        for shard, chunk in self._statuses.existing():
            part = status[shard * self.rows_per_shard : room][: self.rows_per_shard]
            part[:] = chunk[: len(part)]
        return status

    def shard_status(self, shard: int) -> UInt8[np.ndarray, " slots"]:
        """Return the current status of every slot of a shard."""
        return self._statuses.of_shard(shard)

    def rows(self, keys: Keys) -> RowNumbers:
        """Return the row of each key; StepDiffError names the first key that the catalog does not
        have."""
        keys = (
            [keys]
            if isinstance(keys, str)
            else keys.tolist()
            if isinstance(keys, np.ndarray)
            else keys
        )
        rows = self.catalog.rows(keys)
        if (rows < 0).any():
            unknown = keys[int(np.argmax(rows < 0))]
            raise StepDiffError(
                f"no key {unknown!r} among the {len(self.catalog)} {self.entity} of "
                f"{self.paths.store}: check its spelling, or run featurize for it"
            )
        return rows

    def read(
        self,
        feature: str,
        rows: Rows | None = None,
        out: RowValues | None = None,
        direct: bool = False,
        check: Check | None = None,
        *,
        keys: Keys | None = None,
        dtype: str | None = None,
    ) -> RowValues:
        """Read rows of a feature, in the order of `rows` or `keys`.

        Args:
            feature: a name in `features`.
            rows: row numbers of the catalog. Give these or `keys`.
            out: C-contiguous memory [R, ...] in the stored dtype, filled and returned.
            direct: read large rows that are not in memory past the page cache: faster, unless they
                are read again soon.
            check: when to compare rows with their stored checksums: "always", at their "first"
                read, or "never". By default as the view says.
            keys: a key, or R keys as a list, an array or a Polars series.
            dtype: "float16" or "float32"; int8 is dequantised. By default the stored dtype (int8:
                without its scales, which `read_quantised` also returns).

        Returns:
            [R, *shape of a row].

        Raises:
            StepDiffError: unknown feature or key, unsuitable `rows`, `out` or `dtype`; a row that
                is absent or failed.
            DamageError: a row that differs from its checksum.
        """
        self.check_feature(feature)
        if keys is None and rows is not None:
            rows = row_numbers(rows)
        elif keys is not None and rows is None:
            rows = self.rows(keys)
        else:
            raise StepDiffError(
                f"read {feature} of view {self.name} by rows or by keys: give one of them"
            )
        stored = self.features[feature].dtype
        if dtype is None or dtype == stored:
            self.check_ok(rows)
            return self._read(rows, {feature: out}, direct, check)[0]
        if dtype not in ("float16", "float32") or not np.can_cast(stored, dtype) or out is not None:
            into = "" if out is None else " into `out`"
            raise StepDiffError(
                f"{feature} of view {self.name} is {stored}: it cannot be read as {dtype}{into}"
            )
        if stored != "int8":
            return self.read(feature, rows, None, direct, check).astype(dtype)
        return dequantise(*self.read_quantised(feature, rows, None, direct, check), dtype)

    def zarr(self, array: str) -> "Array":
        """Return a stored array as zarr-python's, read-only: for dask, napari and others.

        Rows are numbered as in the catalog. A row is a feature only if its "status" is 1. Absent
        rows (0) and failed rows (2) are the fill value, 0, but what a killed run wrote, or what was
        withdrawn or forgotten, is there until another row of its shard is written. Nothing is
        compared with checksums.

        Args:
            array: a feature as stored; "scale" of an int8 feature, float16 [rows, ..., blocks of 64
                channels], by which it is multiplied; "status", uint8 [rows]; "checksum", uint32
                [rows, arrays].

        Raises:
            StepDiffError: no such array; the view was dropped; the array's metadata are damaged.
        """
        self.check_feature(array, self.arrays)
        self.check_not_dropped()
        return open_zarr(self.paths.store, f"{self.entity}/{self.name}/{array}")

    def in_place(
        self, feature: str, rows: RowNumbers, check: Check | None = None
    ) -> RowValues | None:
        """Return the values of `read` as a read-only part of a mapped file, without a copy. Raises
        as `read` does.

        None if the rows are not consecutive rows of one shard, are not in memory or are in an
        object store, or if one differs from its checksum (`read` then names it).
        """
        self.check_feature(feature)
        rows = row_numbers(rows)
        self.check_ok(rows)
        reader, stored = self._readers[feature], self.stored[feature]
        mapped = (
            reader.in_place(rows, known_check(self.check if check is None else check))
            if isinstance(reader, RowReader)
            else None
        )
        self.check_not_dropped()
        dtype = np.dtype(stored.dtype).newbyteorder("<")
        return None if mapped is None else mapped.view(dtype).reshape(len(rows), *stored.shape)

    def read_quantised(
        self,
        feature: str,
        rows: RowNumbers,
        out: Quantised | None = None,
        direct: bool = False,
        check: Check | None = None,
    ) -> Quantised:
        """Read rows of an int8 feature as stored, for callers that dequantise elsewhere; raises as
        `read` does."""
        self.check_feature(feature)
        if self.features[feature].dtype != "int8":
            raise StepDiffError(
                f"{feature} of view {self.name} is {self.features[feature].dtype}, not int8: use "
                "read"
            )
        rows = row_numbers(rows)
        self.check_ok(rows)
        levels, scale = out or (None, None)
        # what is small first
        scale, levels = self._read(rows, {"scale": scale, feature: levels}, direct, check)
        return Quantised(levels, scale)

    def checksums(self, rows: RowNumbers) -> UInt32[np.ndarray, "R arrays"]:
        """Return the current stored crc32c of finished rows, a column for each array of
        `checksummed`.

        Raises DamageError if they are damaged or missing.
        """
        self._checksums.forget(np.unique(rows // self.rows_per_shard).tolist())
        return self._checksums.of_rows(rows)

    def arrays_of(self, features: Sequence[str]) -> dict[str, Feature]:
        """Return the stored arrays of these features, by name: for an int8 feature also its
        scales."""
        scaled = any(self.features[feature].dtype == "int8" for feature in features)
        return {name: self.stored[name] for name in (*features, *(["scale"] if scaled else []))}

    def fill_memory(self, features: Sequence[str], count: int) -> bool:
        """Return whether `count` rows are more than the page cache keeps until they are read again:
        read `direct`."""
        return fill_memory(
            count * sum(array.row_bytes for array in self.arrays_of(features).values())
        )

    def write_shard(
        self,
        shard: int,
        rows: RowNumbers,
        features: Mapping[str, RowValues],
        failures: Mapping[int, str],
        info: dict[str, Any] | None = None,
    ) -> None:
        """Write rows of one shard and commit it. `Store.writer` calls it; worker processes of its
        owner may too.

        A row that is ok already keeps its bytes.

        Args:
            shard: the shard's number. Every shard has one writer at a time.
            rows: R row numbers of the shard.
            features: float32 or float16 values of every feature, which the view casts or quantises.
                A row with NaN, infinity or (stored as float16 or int8) a magnitude past float16
                becomes failed, with that reason. An int8 feature may also be given as stored: its
                levels, and `scale`.
            failures: row number -> why the row could not be computed.
            info: software that computed them (library versions, device), recorded with the shard.

        Raises:
            StepDiffError: rows or shapes do not fit, or the disk is full. Earlier commits are kept.
        """
        from store.io.writer import ShardWriter  # which imports this module

        refuse_snapshot(self.paths.store)
        ShardWriter(self, shard).write(rows, features, failures, info)

    def withdraw(self, rows: RowNumbers) -> int:
        """Make R rows absent, because they are forgotten or the catalog is about to name another
        video for them.

        The next run computes those that are not forgotten again.

        Returns:
            How many of the rows were ok.

        Raises:
            StepDiffError: the caller does not hold the store's lock, or the disk is full.
        """
        from store.io.writer import ShardWriter  # which imports this module

        check_locked(self.paths.store, f"rows of view {self.name} of {self.entity} are withdrawn")
        rows = np.unique(rows[(rows >= 0) & (rows < len(self))])
        parts = by_shard(rows, self.rows_per_shard)
        count = sum(ShardWriter(self, shard).withdraw(rows[places]) for shard, places in parts)
        self._statuses.forget()
        return count

    def failures(self, rows: RowNumbers | None = None) -> pl.DataFrame:
        """Return key and reason of the rows that failed, in the order of the catalog; or of R
        `rows` that failed."""
        table.check_threads("read failures")
        rows = np.flatnonzero(self.status() == FAILED) if rows is None else rows
        frame = pl.DataFrame({"key": self.catalog.keys(rows)}, schema={"key": pl.String})
        reasons = failures_of_shards(self.paths, np.unique(rows // self.rows_per_shard).tolist())
        lost = pl.col("reason").fill_null("the reason is lost: its file is missing")
        return frame.join(reasons, on="key", how="left", maintain_order="left").with_columns(lost)

    def shard_path(self, array: str, shard: int) -> Place:
        """Return the shard file of a stored array."""
        return self.paths.shard(array, shard, 1 + len(self.stored[array].shape))

    def check_feature(self, feature: str, names: Collection[str] | None = None) -> None:
        """Raise StepDiffError, naming the existing ones, if `feature` is not among `names`, by
        default the view's features."""
        if feature not in (names := names or self.features):
            there = ", ".join(names)
            raise StepDiffError(
                f"no feature {feature!r} in view {self.name} of {self.entity}: it has {there}"
            )

    def check_ok(self, rows: RowNumbers) -> None:
        """Raise StepDiffError, naming the key, if a row is absent or failed."""
        if unfit := self._statuses.first_not_ok(rows):
            row, status = unfit
            self.check_not_dropped()
            state = "failed" if status == FAILED else "absent"
            if (snapshot := snapshot_of(self.paths.store)) is not None:
                where = f"view {self.name} of {self.entity} at snapshot {snapshot}"
                raise StepDiffError(
                    f"{self.catalog.name(row)} was {state} in {where}: leave it out"
                )
            refuse_forgotten(self.paths.store, self.entity, np.array([row]), self.catalog.name)
            raise StepDiffError(
                f"{self.catalog.name(row)} is {state} in view {self.name} of {self.entity} (shard "
                f"{row // self.rows_per_shard}): leave it out, or run featurize for it"
            )

    def _read(
        self,
        rows: RowNumbers,
        arrays: Mapping[str, RowValues | None],
        direct: bool = False,
        check: Check | None = None,
    ) -> list[RowValues]:
        """Read rows of stored arrays, into the memory that is given."""
        check = known_check(self.check if check is None else check)
        filled = {name: self._room(name, len(rows), out) for name, out in arrays.items()}
        wrong = self._fill(rows, filled, direct, check)
        # the shard may have been computed again since its status was read: its checksums differ
        # then
        if wrong:
            shards = np.unique(rows[wrong[1]] // self.rows_per_shard).tolist()
            self._statuses.forget(shards)
            self._checksums.forget(shards)
            self.check_ok(rows)
            wrong = self._fill(rows, filled, direct, check)
            if wrong:
                raise self.damage(wrong[0], rows[wrong[1]])
        return list(filled.values())

    def _fill(
        self, rows: RowNumbers, filled: Mapping[str, RowValues], direct: bool, check: Check
    ) -> tuple[list[str], list[int]] | None:
        """Fill arrays with rows; return the arrays and the places of rows that differ from their
        checksums."""
        pairs = [(self._readers[name], out) for name, out in filled.items()]
        local = [(reader, out) for reader, out in pairs if isinstance(reader, RowReader)]
        # all, or none
        remote = [(reader, out) for reader, out in pairs if isinstance(reader, RemoteReader)]
        try:
            places = read_together(rows, local, direct, check)
            places += (reader.read(rows, out, check) for reader, out in remote)
        finally:
            self.check_not_dropped()  # then missing files are not damage, nor rows of zeros
        wrong = {name: of_array for name, of_array in zip(filled, places, strict=True) if of_array}
        return (list(wrong), sorted(set(chain(*wrong.values())))) if wrong else None

    def damage(self, arrays: Sequence[str], rows: RowNumbers) -> DamageError:
        """Return the error for rows that differ from their checksums in these arrays."""
        rows = np.unique(rows)
        shard = int(rows[0]) // self.rows_per_shard
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return DamageError(
            f"{self.catalog.name(int(rows[0]))}{more}: stored {' and '.join(sorted(arrays))} of "
            f"view {self.name} of {self.entity} (shard {shard}) is not as it was written: "
            f"{remedy(self.paths.store)}"
        )

    def _room(self, name: str, count: int, out: RowValues | None) -> RowValues:
        """Return `out`, or new memory, for `count` rows of a stored array."""
        stored = self.stored[name]
        shape, dtype = (count, *stored.shape), np.dtype(stored.dtype).newbyteorder("<")
        if out is None:
            return aligned_empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise StepDiffError(
                f"out is {out.dtype} {out.shape}: {name} needs C-contiguous {dtype} {shape}"
            )
        return out

    def check_not_dropped(self) -> None:
        """Raise StepDiffError if the view was dropped since it was opened, or another has its name
        now."""
        if (self.paths.group / "zarr.json").identity() != self._made:
            raise StepDiffError(
                f"view {self.name} of {self.entity} in {self.paths.store} was dropped: open it "
                "again"
            )
