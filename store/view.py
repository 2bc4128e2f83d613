"""A feature view: all that one frozen encoder computed for an entity.

Guarantees
- what status says is true at every moment
- an array shorter than the catalog reads as absent; the length of a view is bounded by the catalog
- a view that is open notices rows that others add
- arrays grow under the planner's lock only, and never shrink
- a damaged row is refused, by its key, at its first read
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Int, Shaped, UInt8, UInt32

from common.errors import DamageError, StepDiffError
from common.io import sealed as table
from common.io.direct_io import aligned_empty, fill_memory
from common.io.locks import holds
from common.io.places import Identity, Place
from common.io.seal import BLANK
from store.catalog.catalog import Catalog
from store.format.layout import LOCK, ViewPaths, read_json, shard_number, write_json
from store.format.quantise import Quantised, dequantise
from store.format.shard import read_chunk
from store.format.view_metadata import array_shape, read_view
from store.io import failures
from store.io.reader import RowReader, read_together
from store.io.remote import RemoteReader
from store.io.row_checks import Check, Checksums, RowChecks, known_check, remedy
from store.io.writer import ShardWriter
from store.provenance import Feature

ABSENT, OK, FAILED = 0, 1, 2


class View:
    """One view of a store. Picklable; `Store.view` and `Store.create_view` make it."""

    check: Check
    """when reads compare rows with their stored checksums, where a read does not say otherwise: "first" (the first
    time that a row is read through this object, and again when its shard file was replaced), "always" or "never" """

    def __init__(self, store: Place, catalog: Catalog, entity: str, name: str, check: Check = "first") -> None:
        """The view `name` of `entity`, whose group exists; StepDiffError where it is damaged."""
        self.entity = entity
        self.name = name
        self.check = known_check(check)
        self.paths = ViewPaths(store, entity, name)
        self.catalog = catalog
        self._made = (self.paths.group / "zarr.json").identity()
        metadata = read_view(self.paths.group / "zarr.json")
        self.provenance = metadata.provenance
        self.rows_per_shard = metadata.rows_per_shard
        self.features = metadata.features
        self.stored = metadata.stored
        self.checksummed = metadata.checksummed
        self._length: tuple[Identity | None, int] = (None, 0)
        self._chunks: dict[int, tuple[Identity | None, np.ndarray]] = {}
        self._checksums = Checksums(self.paths, self.rows_per_shard, len(self.checksummed))
        self._readers = {name: self._reader(name) for name in self.stored}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as where it lies."""
        return View, (self.paths.store, Catalog(self.catalog.folder), self.entity, self.name, self.check)

    def __len__(self) -> int:
        """Rows that the arrays have room for, now; StepDiffError where the catalog has not as many."""
        path = self.paths.metadata("status")
        now = path.identity()
        if self._length[0] != now:
            rows, known = array_shape(path, read_json(path))[0], len(self.catalog)
            if rows > known:
                raise StepDiffError(
                    f"{path} tells of {rows} rows and the catalog of {self.entity} has {known}: "
                    "a part of the catalog is lost, or the file is not this store's; restore it"
                )
            self._length = (now, rows)
        return self._length[1]

    def resize(self) -> None:
        """Grow the arrays to the catalog's length. StepDiffError without the store's lock."""
        if not holds(self.paths.store / LOCK):
            raise StepDiffError(
                f"view {self.name} of {self.entity} grows under the store's lock only: "
                "resize it inside `with store.lock()`"
            )
        length = len(self.catalog)
        for array in (*self.stored, "checksum", "status"):  # status last: it tells the length
            path = self.paths.metadata(array)
            metadata = read_json(path)
            if array_shape(path, metadata)[0] < length:
                metadata["shape"][0] = length
                metadata["attributes"]["seal"] = BLANK
                write_json(path, metadata)

    def status(self) -> UInt8[np.ndarray, " rows"]:
        """The status of every row of the catalog: 0 absent, 1 ok, 2 failed."""
        status = np.zeros(len(self.catalog), np.uint8)
        room = min(len(self), len(status))
        for shard, known in self._statuses():
            part = status[shard * self.rows_per_shard : room][: self.rows_per_shard]
            part[:] = known[: len(part)]
        return status

    def shard_status(self, shard: int) -> UInt8[np.ndarray, " slots"]:
        """The status of every slot of a shard, as it is now."""
        return self._chunk(shard, self.paths.status(shard).identity())

    def _statuses(self) -> Iterator[tuple[int, UInt8[np.ndarray, " slots"]]]:
        """Shards that have a status, and it. An object store is asked for all that are new to us at once."""
        folder = self.paths.status(0).parent
        if folder.remote:
            now = folder.identities()
            shards = [shard for name in now if (shard := shard_number(name)) is not None]
            yield from zip(shards, folder.map(lambda n: self._chunk(n, now[str(n)]), shards), strict=True)
            return
        for name in os.listdir(str(folder)) if folder.is_dir() else ():  # none of millions is kept
            if (shard := shard_number(name)) is not None and (chunk := self._read_chunk(shard)) is not None:
                yield shard, chunk

    def _chunk(self, shard: int, now: Identity | None) -> UInt8[np.ndarray, " slots"]:
        """The status chunk of a shard, known to be `now`."""
        known = self._chunks.get(shard)
        if known is None or known[0] != now:
            chunk = None if now is None else self._read_chunk(shard)
            if chunk is None:
                chunk = np.zeros(self.rows_per_shard, np.uint8)
            self._chunks[shard] = known = (now, chunk)
        return known[1]

    def _read_chunk(self, shard: int) -> UInt8[np.ndarray, " slots"] | None:
        return read_chunk(self.paths.status(shard), (self.rows_per_shard,), "uint8")

    def read(
        self,
        feature: str,
        rows: Int[np.ndarray, " B"],
        out: Shaped[np.ndarray, "B ..."] | None = None,
        direct: bool = False,
        check: Check | None = None,
    ) -> Shaped[np.ndarray, "B ..."]:
        """Rows of a feature in its stored dtype, in the order of `rows`, into `out` if given.

        With `direct` large rows that are not in memory come past the page cache: faster, and no faster the next time.
        `check` takes the place of the view's own: whether rows are compared with their stored checksums "always", at
        their "first" read, or "never".

        Raises StepDiffError on a feature there is not, an `out` that does not fit, or a row that is
        absent or failed, naming its key; DamageError on a row that differs from its checksum, naming its key.
        """
        self._known(feature)
        self._check_ok(rows)
        return self._read(rows, {feature: out}, direct, check)[0]

    def in_place(
        self, feature: str, rows: Int[np.ndarray, " B"], check: Check | None = None
    ) -> Shaped[np.ndarray, "B ..."] | None:
        """What `read` would give, where it lies: a part of a mapped file, read only, that costs no copy.

        None where rows do not follow one another in one shard, are not in memory, lie in an object store, or one of
        them differs from its checksum (`read` then says which). Raises as `read` does.
        """
        self._known(feature)
        self._check_ok(rows)
        reader, stored = self._readers[feature], self.stored[feature]
        lying = reader.in_place(rows, self._check(check)) if isinstance(reader, RowReader) else None
        self._check_not_dropped()
        dtype = np.dtype(stored.dtype).newbyteorder("<")
        return None if lying is None else lying.view(dtype).reshape(len(rows), *stored.shape)

    def read_quantised(
        self,
        feature: str,
        rows: Int[np.ndarray, " B"],
        out: Quantised | None = None,
        direct: bool = False,
        check: Check | None = None,
    ) -> Quantised:
        """Rows of an int8 feature as they are stored, int8 with float16 scales, into `out` if given.

        For whoever dequantises where the values are used. Raises as `read` does, and StepDiffError
        on a feature that is not int8.
        """
        self._known(feature)
        if self.features[feature].dtype != "int8":
            raise StepDiffError(f"{feature} of view {self.name} is {self.features[feature].dtype}, not int8: use read")
        self._check_ok(rows)
        levels, scale = out or (None, None)
        scale, levels = self._read(rows, {"scale": scale, feature: levels}, direct, check)  # what is small first
        return Quantised(levels, scale)

    def read_float(
        self, feature: str, rows: Int[np.ndarray, " B"], direct: bool = False, check: Check | None = None
    ) -> Float32[np.ndarray, "B ..."]:
        """Rows of a feature as float32, int8 dequantised; raises as `read` does."""
        self._known(feature)
        if self.features[feature].dtype == "int8":
            return dequantise(*self.read_quantised(feature, rows, direct=direct, check=check))
        return self.read(feature, rows, direct=direct, check=check).astype(np.float32, copy=False)

    def checksums(self, rows: Int[np.ndarray, " R"]) -> UInt32[np.ndarray, "R arrays"]:
        """The stored crc32c of finished rows as they are now, one for each array of `checksummed`.

        Raises DamageError where they are damaged or missing.
        """
        self._checksums.forget(np.unique(rows // self.rows_per_shard).tolist())
        return self._checksums.of_rows(rows)

    def arrays_of(self, features: Sequence[str]) -> dict[str, Feature]:
        """The stored arrays that hold these features, by name: beside an int8 feature its scales."""
        scaled = any(self.features[feature].dtype == "int8" for feature in features)
        return {name: self.stored[name] for name in (*features, *(["scale"] if scaled else []))}

    def fill_memory(self, features: Sequence[str], count: int) -> bool:
        """Whether so many rows are more than the page cache can keep until they are read again: read them `direct`."""
        return fill_memory(count * sum(array.row_bytes for array in self.arrays_of(features).values()))

    def write_shard(
        self,
        shard: int,
        rows: Int[np.ndarray, " K"],
        features: Mapping[str, Float[np.ndarray, "K ..."]],
        failures: Mapping[int, str],
        info: dict[str, Any] | None = None,
    ) -> None:
        """Write rows of one shard and commit it. One writer a shard.

        Parameters
        - rows, features: row numbers, and for every feature their values, float32 or float16; the
          view casts or quantises them. A row with NaN, infinity or (stored as float16 or int8) a
          magnitude past float16 becomes failed, with that reason.
        - failures: row number -> why the row could not be computed
        - info: what computed them (library versions, device), recorded beside the shard

        A row that is ok already keeps its bytes. Raises StepDiffError where rows or shapes do not
        fit, or the disk is full; what was committed then still stands.
        """
        ShardWriter(self, shard).write(rows, features, failures, info)

    def withdraw(self, rows: Int[np.ndarray, " K"]) -> int:
        """Make K rows absent, because the catalog is about to name another video or interval for them.

        Their features and the reasons of failed rows can no longer be read. The next run computes the rows again.

        Returns:
            How many of the rows were ok.

        Raises:
            StepDiffError: the caller does not hold the store's lock, or the disk is full.
        """
        if not holds(self.paths.store / LOCK):
            raise StepDiffError(
                f"rows of view {self.name} of {self.entity} are withdrawn under the store's lock only: "
                "do it inside `with store.lock()`"
            )
        rows = np.unique(rows[(rows >= 0) & (rows < len(self))])
        shards = rows // self.rows_per_shard
        parts = np.split(rows, np.flatnonzero(np.diff(shards)) + 1) if len(rows) else []
        count = sum(ShardWriter(self, int(part[0]) // self.rows_per_shard).withdraw(part) for part in parts)
        self._chunks.clear()
        return count

    def failures(self) -> pl.DataFrame:
        """The rows that failed: key, reason, in the order of the catalog."""
        table.check_threads("read failures")
        rows = np.flatnonzero(self.status() == FAILED)
        frame = pl.DataFrame({"key": self.catalog.keys(rows)}, schema={"key": pl.String})
        reasons = failures.of_shards(self.paths, np.unique(rows // self.rows_per_shard).tolist())
        lost = pl.col("reason").fill_null("the reason is lost: its file is missing")
        return frame.join(reasons, on="key", how="left", maintain_order="left").with_columns(lost)

    def _known(self, feature: str) -> None:
        if feature not in self.features:
            raise StepDiffError(
                f"no feature {feature!r} in view {self.name} of {self.entity}: it has {', '.join(self.features)}"
            )

    def _check_ok(self, rows: Int[np.ndarray, " B"]) -> None:
        shards = rows // self.rows_per_shard
        wanted = np.unique(shards).tolist()
        new = [shard for shard in wanted if shard >= 0 and shard not in self._chunks]
        list(self.paths.store.map(self.shard_status, new))  # of an object store: all at the same time
        for shard in wanted:
            here = rows[shards == shard]
            slots = here % self.rows_per_shard
            if shard in self._chunks and (self._chunks[shard][1][slots] == OK).all():
                continue  # ok once is ok for good, but for rows that are withdrawn: their checksums then tell
            status = self.shard_status(shard)[slots] if shard >= 0 else np.zeros(len(here), np.uint8)
            if (status != OK).any():
                row = int(here[status != OK][0])
                state = "failed" if status[status != OK][0] == FAILED else "absent"
                raise StepDiffError(
                    f"{self.catalog.name(row)} is {state} in view {self.name} of "
                    f"{self.entity} (shard {shard}): leave it out, or run featurize for it"
                )

    def _read(
        self,
        rows: Int[np.ndarray, " B"],
        wanted: Mapping[str, Shaped[np.ndarray, "B ..."] | None],
        direct: bool = False,
        check: Check | None = None,
    ) -> list[Shaped[np.ndarray, "B ..."]]:
        """Rows of stored arrays, into those that are given."""
        check = self._check(check)
        filled = {name: self._room(name, len(rows), out) for name, out in wanted.items()}
        wrong = self._fill(rows, filled, direct, check)
        if wrong:  # the shard may have been computed again since its status was read: its checksums differ then
            shards = np.unique(rows[wrong[1]] // self.rows_per_shard).tolist()
            for shard in shards:
                self._chunks.pop(shard, None)
            self._checksums.forget(shards)
            self._check_ok(rows)
            wrong = self._fill(rows, filled, direct, check)
            if wrong:
                raise self.damage(wrong[0], rows[wrong[1]])
        return list(filled.values())

    def _fill(
        self, rows: Int[np.ndarray, " B"], filled: Mapping[str, Shaped[np.ndarray, "B ..."]], direct: bool, check: Check
    ) -> tuple[list[str], list[int]] | None:
        """Fill arrays with rows; the names of the arrays and the places of rows that differ from their checksums."""
        found: dict[str, list[int]] = {}
        given = {name: self._readers[name] for name in filled}
        local = {name: reader for name, reader in given.items() if isinstance(reader, RowReader)}
        try:
            together = [(reader, filled[name]) for name, reader in local.items()]
            found |= zip(local, read_together(rows, together, direct, check), strict=True)
            for name, reader in given.items():
                if isinstance(reader, RemoteReader):
                    found[name] = reader.read(rows, filled[name], check)
        finally:
            self._check_not_dropped()  # files that are gone are no damage then
        names = [name for name, places in found.items() if places]
        return (names, sorted({place for name in names for place in found[name]})) if names else None

    def damage(self, arrays: Sequence[str], rows: Int[np.ndarray, " R"]) -> DamageError:
        """The error for rows that differ from their checksums in these arrays."""
        rows = np.unique(rows)
        shard = int(rows[0]) // self.rows_per_shard
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return DamageError(
            f"{self.catalog.name(int(rows[0]))}{more}: stored {' and '.join(sorted(arrays))} of view {self.name} of "
            f"{self.entity} (shard {shard}) is not as it was written: {remedy(self.paths, shard)}"
        )

    def _check(self, check: Check | None) -> Check:
        return self.check if check is None else known_check(check)

    def _room(self, name: str, count: int, out: Shaped[np.ndarray, "B ..."] | None) -> Shaped[np.ndarray, "B ..."]:
        """`out`, or new memory, for so many rows of a stored array."""
        stored = self.stored[name]
        shape, dtype = (count, *stored.shape), np.dtype(stored.dtype).newbyteorder("<")
        if out is None:
            return aligned_empty(shape, dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise StepDiffError(f"out is {out.dtype} {out.shape}: {name} needs C-contiguous {dtype} {shape}")
        return out

    def _check_not_dropped(self) -> None:
        """Files that are gone read as the fill value: that must not stand for a view that was dropped."""
        if not self.paths.group.remote:  # an object that is gone raises there
            self.check_stands()

    def check_stands(self) -> None:
        """StepDiffError where the view was dropped since it was opened, or another has its name now."""
        if (self.paths.group / "zarr.json").identity() != self._made:
            raise StepDiffError(f"view {self.name} of {self.entity} in {self.paths.store} was dropped: open it again")

    def _reader(self, name: str) -> RowReader | RemoteReader:
        feature = self.stored[name]
        paths, axes = self.paths, 1 + len(feature.shape)
        path: Callable[[int], Any] = lambda shard: paths.shard(name, shard, axes)  # noqa: E731
        reader = RemoteReader if paths.store.remote else RowReader
        column = self.checksummed.index(name)
        checks = RowChecks(self._checksums, column, self.rows_per_shard, feature.row_bytes)
        return reader(path, self.rows_per_shard, feature.row_bytes, checks)
