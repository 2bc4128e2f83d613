"""The plan of a run: the rows to compute, shard by shard, the task of a worker for each, and its outcome.

Tasks and outcomes hold names and numbers only.

Guarantees
- a task contains only its own rows, so a manifest of any size travels shard by shard
- a row that is ok is never computed again, a failed one only with `retry_failed`
- a forgotten row is never computed
- every row is in the one shard that contains it, and a shard has one task however many windows name its rows
- the rows that wait for others of their shard are on disk, except those of one shard
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt8

from featurize.encoders import unusable
from featurize.manifest import Manifest
from featurize.scratch import Buckets
from featurize.video.decode import Source
from store import Store, View
from store.catalog.forgotten import are_forgotten
from store.view import ABSENT, FAILED

FORGOTTEN = 3
"""takes the place of the status of a row that was forgotten, which is absent in the store"""
_NEVER = 255  # status of a row that no window has named
_SPAN = 2**22  # rows whose waiting ones are read together
_TEXTS = 2**17  # rows whose texts are read together
_PENDING = {"row": pl.Int64, "place": pl.String, "start": pl.Float64, "end": pl.Float64, "reason": pl.String}
"""a row to compute: its clip's file and interval, or why it cannot be computed"""


class Tally:
    """The rows that a run is asked for, with their status before it: a byte for each row of the catalog."""

    def __init__(self) -> None:
        self._status = np.empty(0, np.uint8)

    def add(self, rows: Int64[np.ndarray, " asked"], status: UInt8[np.ndarray, " asked"]) -> None:
        """Add rows of the catalog."""
        if len(rows) and rows.max() >= len(self._status):
            more = np.full(max(int(rows.max()) + 1 - len(self._status), len(self._status)), _NEVER, np.uint8)
            self._status = np.concatenate([self._status, more])
        self._status[rows] = status

    def before(self, rows: int) -> tuple[Bool[np.ndarray, " rows"], UInt8[np.ndarray, " rows"]]:
        """Return which of the first `rows` rows were asked for, and their status before the run."""
        status = np.full(rows, _NEVER, np.uint8)
        status[: len(self._status)] = self._status[:rows]
        return status != _NEVER, status


def known_status(view: View, rows: Int64[np.ndarray, " asked"]) -> UInt8[np.ndarray, " asked"]:
    """Return the status of rows, FORGOTTEN for those that were forgotten; rows of -1 are absent."""
    status = np.where(rows < 0, np.uint8(ABSENT), view.status(np.maximum(rows, 0)))
    return np.where(are_forgotten(view.paths.store, view.entity, rows), np.uint8(FORGOTTEN), status)


def todo(status: UInt8[np.ndarray, " rows"], retry_failed: bool = False) -> Bool[np.ndarray, " rows"]:
    """Return which rows of those status are computed; `retry_failed`: also those that failed."""
    return (status == ABSENT) | (status == FAILED) if retry_failed else status == ABSENT


def pending(asked: Manifest, rows: Int64[np.ndarray, " asked"], wanted: Bool[np.ndarray, " asked"]) -> pl.DataFrame:
    """Return the `wanted` rows of a manifest as they are planned; `rows` are their places in the catalog."""
    frame = asked.rows.with_columns(row=pl.Series(rows, dtype=pl.Int64)).filter(pl.Series(wanted))
    if asked.entity == "clips":
        names = pl.Series(list(asked.paths), dtype=pl.String)
        places = pl.Series(list(map(str, asked.paths.values())), dtype=pl.String)
        frame = frame.with_columns(place=pl.col("video").replace_strict(names, places, return_dtype=pl.String))
    keys, reasons = (pl.Series(list(part), dtype=pl.String) for part in (asked.failures, asked.failures.values()))
    frame = frame.with_columns(reason=pl.col("key").replace_strict(keys, reasons, default=None, return_dtype=pl.String))
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in _PENDING.items() if name not in frame.columns]
    return frame.with_columns(absent).select(pl.col(name).cast(dtype) for name, dtype in _PENDING.items())


class Planner:
    """Rows to compute, window by window. A shard is planned once all its rows were named, the others at the end."""

    def __init__(self, rows_per_shard: int) -> None:
        """Plan for a view of `rows_per_shard` rows per shard."""
        self._size = rows_per_shard
        self._named = np.zeros(0, np.int32)  # rows of each shard that were named so far
        self._carried = pl.DataFrame(schema=_PENDING)  # rows of the last shard, which the next window may complete
        self._waiting = Buckets()
        self._put_off = np.zeros(0, np.int64)  # shards that have waiting rows

    def add(self, rows: Int64[np.ndarray, " asked"], wanted: pl.DataFrame, last: bool) -> pl.DataFrame:
        """Add a window; return rows of complete shards, ascending.

        Args:
            rows: of the catalog, that the window names.
            wanted: those to compute, as `pending` returns them.
            last: whether no window follows. Then the rows are all that do not wait on disk.
        """
        named, counts = np.unique(rows // self._size, return_counts=True)
        if len(named) and named[-1] >= len(self._named):
            more = max(int(named[-1]) + 1 - len(self._named), len(self._named))
            self._named = np.concatenate([self._named, np.zeros(more, np.int32)])
        self._named[named] += counts.astype(np.int32)
        wanted = pl.concat([self._carried, wanted]).sort("row")
        shards = wanted["row"].to_numpy() // self._size
        waiting = np.isin(shards, self._put_off)
        complete = ~waiting & (last | (self._named[shards] == self._size))
        carried = ~complete & ~waiting & (shards == shards.max(initial=0)) & (not last)
        left = ~complete & ~carried
        self._carried = wanted.filter(pl.Series(carried, dtype=pl.Boolean))
        if left.any():
            self._put_off = np.union1d(self._put_off, shards[left])
            self._waiting.add(wanted.filter(pl.Series(left)), shards[left] // max(_SPAN // self._size, 1))
        return wanted.filter(pl.Series(complete, dtype=pl.Boolean))

    def rest(self) -> Iterator[pl.DataFrame]:
        """Yield the rows that are left, ascending, some whole shards at a time."""
        carried, self._carried = self._carried, self._carried.clear()
        if carried.height:  # the last window was refused
            yield carried
        for bucket in self._waiting:
            yield self._waiting.read(bucket).sort("row")


def shards_of(rows: pl.DataFrame, size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield each shard of planned rows, ascending, with its rows; `size`: rows of a shard."""
    numbers = rows["row"].to_numpy() // size
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(numbers)]):
        yield int(numbers[start]), rows[start:end]


def blocks(rows: Iterable[int], first: int, size: int) -> dict[int, tuple[int, ...]]:
    """Return the rows of each batch that has any: batches are fixed runs of `size` rows from `first` on.

    So the rows of a batch depend on the shard only, not on what else is to be computed.
    """
    found: dict[int, list[int]] = {}
    for row in sorted(rows):
        found.setdefault((row - first) // size, []).append(row)
    return {block: tuple(members) for block, members in found.items()}


FILLER = "."
"""takes the place of a text that cannot be encoded in a batch"""


@dataclass(frozen=True)
class Task:
    """A shard's rows to compute. A row is in `rows` or in `failures`, not in both."""

    store: str
    """folder"""
    entity: str
    view: str
    shard: int
    rows: tuple[int, ...]
    """ascending"""
    failures: dict[int, str]
    """row known to be unusable -> why"""
    batch_size: int
    clips: dict[int, Source] = field(default_factory=dict)
    """every one of `rows` -> its clip, where the entity is clips"""
    texts: dict[int, str] = field(default_factory=dict)
    """every row of the batches that hold `rows` -> its text, FILLER where it is unusable, where the
    entity is texts"""
    threads: int = 1
    """threads that decode"""
    repair: bool = False
    """whether the rows were damaged"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a shard."""

    shard: int
    repeated: int = 0
    """clips that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of more tokens than the encoder sees"""
    error: str | None = None
    """why nothing of it was written"""


def tasks(store: Store, view: View, planned: pl.DataFrame, batch_size: int, threads: int) -> Iterator[Task]:
    """Yield the task of every shard of planned rows, which are ascending."""
    texts = _Texts(store, view, batch_size) if view.entity == "texts" else None
    for shard, rows in shards_of(planned, view.rows_per_shard):
        first = shard * view.rows_per_shard
        failed = pl.col("reason").is_not_null()
        failures = dict(rows.filter(failed).select("row", "reason").iter_rows())
        good = rows.filter(~failed)
        usable = tuple(good["row"])
        clips, near = {}, {}
        if texts is None:
            clips = {row: Source(*source) for row, *source in good.select("row", "place", "start", "end").iter_rows()}
        else:
            near = texts.near(usable, first)
        yield Task(str(store.path), view.entity, view.name, shard, usable, failures, batch_size, clips, near, threads)


class _Texts:
    """Texts of the catalog by row, read some shards at a time."""

    def __init__(self, store: Store, view: View, batch_size: int) -> None:
        self._catalog, self._batch, self._rows = store.catalog("texts"), batch_size, view.rows_per_shard
        self._first, self._read = 0, pl.Series(dtype=pl.String)

    def near(self, rows: tuple[int, ...], first: int) -> dict[int, str]:
        """Return the texts of the batches that contain `rows`, of the shard whose first row is `first`."""
        if not self._first <= first < self._first + len(self._read):
            end = min(first + max(_TEXTS, self._rows), len(self._catalog))
            like = pl.DataFrame(schema={"text": pl.String})
            self._first = first
            self._read = self._catalog.select(np.arange(first, end), like).sort("row")["text"]
        end = min(first + self._rows, self._first + len(self._read))
        return {
            row: FILLER if unusable(text) else text
            for block in blocks(rows, first, self._batch)
            for row in range(first + block * self._batch, min(first + (block + 1) * self._batch, end))
            for text in [self._read[row - self._first]]
        }
