"""The plan of a run: the rows to compute, shard by shard, the task of a worker for each, and its
outcome.

Guarantees
- a row that is ok or forgotten is not computed again, a failed one only with `retry_failed`
- a shard has one task for each batch size, however many windows name its rows
- in memory are a byte for each row of the catalog, and the rows of two windows or one shard; others
  wait on disk
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt8

from featurize.changes import Changes
from featurize.encoders import unusable
from featurize.manifest import WINDOW, Manifest
from featurize.scratch import Buckets
from featurize.video.decode import Source
from stepdiff_core.errors import StepDiffError
from store import Store, View
from store.catalog.catalog import are_forgotten
from store.io.records import writes_of_shard
from store.view import ABSENT, FAILED

# takes the place of the status of a row that was forgotten, which is absent in the store
FORGOTTEN = 3
UNASKED = 255  # status of a row that no window has named
_SPAN = 2**22  # rows whose waiting ones are read together
# takes the place of the named rows of a shard that waits on disk
_ON_DISK = np.iinfo(np.int64).min // 2
_PENDING = {
    "row": pl.Int64,
    "place": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    "reason": pl.String,
}
"""a row to compute: its clip's file and interval, or why it cannot be computed"""


def known_status(view: View, rows: Int64[np.ndarray, " asked"]) -> UInt8[np.ndarray, " asked"]:
    """Return the status of rows, FORGOTTEN for those that were forgotten; rows of -1 are absent."""
    status = np.where(rows < 0, np.uint8(ABSENT), view.status(np.maximum(rows, 0)))
    return np.where(are_forgotten(view.paths.store, view.entity, rows), np.uint8(FORGOTTEN), status)


def todo(
    status: UInt8[np.ndarray, " rows"], retry_failed: bool = False
) -> Bool[np.ndarray, " rows"]:
    """Return which rows of those status are computed; `retry_failed`: also those that failed."""
    return (status == ABSENT) | (status == FAILED) if retry_failed else status == ABSENT


def pending(
    manifest: Manifest, rows: Int64[np.ndarray, " asked"], computed_rows: Bool[np.ndarray, " asked"]
) -> pl.DataFrame:
    """Return the rows to compute of a manifest as they are planned; `rows` are their places in the
    catalog."""
    frame = manifest.rows.with_columns(row=pl.Series(rows, dtype=pl.Int64)).filter(
        pl.Series(computed_rows)
    )
    if manifest.entity == "clips":
        names = pl.Series(list(manifest.paths), dtype=pl.String)
        places = pl.Series(list(map(str, manifest.paths.values())), dtype=pl.String)
        frame = frame.with_columns(
            place=pl.col("video").replace_strict(names, places, return_dtype=pl.String)
        )
    keys, reasons = (
        pl.Series(list(part), dtype=pl.String)
        for part in (manifest.failures, manifest.failures.values())
    )
    frame = frame.with_columns(
        reason=pl.col("key").replace_strict(keys, reasons, default=None, return_dtype=pl.String)
    )
    absent = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in _PENDING.items()
        if name not in frame.columns
    ]
    return frame.with_columns(absent).select(
        pl.col(name).cast(dtype) for name, dtype in _PENDING.items()
    )


class Plan:
    """The requested rows of a run, window by window: their status before it, and the rows to
    compute."""

    def __init__(self, view: View, most: int, retry_failed: bool = False) -> None:
        """Plan no row yet. most: new rows that windows may append to the catalog."""
        self.view = view
        self.refused: StepDiffError | None = None  # why a window of `rows` was refused
        self._size, self._retry_failed = view.rows_per_shard, retry_failed
        most += len(view.catalog)
        # status of each row of the catalog before the run
        self.before = np.full(most, UNASKED, np.uint8)
        # rows of each shard that were named so far
        self._named = np.zeros(most // self._size + 1, np.int64)
        # rows of shards that the next windows may complete
        self._held = pl.DataFrame(schema=_PENDING)
        self._waiting = Buckets()  # of shards of which many were held

    def is_finished(self, window: Manifest) -> bool:
        """Return whether all rows of a window are in the catalog, and none of them is to
        compute."""
        rows = self.view.catalog.rows(window.rows["key"])
        return (
            not (rows < 0).any()
            and not todo(known_status(self.view, rows), self._retry_failed).any()
        )

    def rows(
        self, accepted: Changes, later: Iterator[Changes], store: Store, replace: bool
    ) -> Iterator[pl.DataFrame]:
        """Write windows to the catalog; yield the rows to compute, shards whole: of each window,
        and last the remaining ones.

        A later window that is refused ends them early.
        """
        changes: Changes | None = accepted
        while changes is not None:
            changes.write(store)
            yield self.add(changes.window)
            try:
                changes = next(later, None)
                if changes is not None:
                    changes.refuse(replace)
            except StepDiffError as error:
                changes, self.refused = None, error
        yield from self.rest()

    def rest(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of shards that no window completed, some whole shards at a time."""
        if self._held.height:  # the last window was refused
            yield self._held
        for bucket in self._waiting:
            yield self._waiting.read(bucket).sort("row")

    def add(self, window: Manifest) -> pl.DataFrame:
        """Add a window whose rows are in the catalog; return the rows to compute of shards that it
        completes, ascending. After the last window these are all rows that do not wait on disk.
        """
        self.view.resize()
        rows = self.view.catalog.rows(window.rows["key"])
        status = known_status(self.view, rows)
        new = self.before[rows] == UNASKED  # `cut` may give one key in two windows
        self.before[rows[new]] = status[new]
        np.add.at(self._named, rows[new] // self._size, 1)
        rows_to_do = pending(window, rows, new & todo(status, self._retry_failed))
        held = pl.concat([self._held, rows_to_do]).sort("row")
        shards = held["row"].to_numpy() // self._size
        complete = (self._named[shards] == self._size) | (window.last & (self._named[shards] > 0))
        if np.count_nonzero(~complete) > max(WINDOW, self._size):
            self._named[shards[~complete]] = _ON_DISK
        on_disk = self._named[shards] < 0
        self._waiting.add(
            held.filter(pl.Series(on_disk)), shards[on_disk] // max(_SPAN // self._size, 1)
        )
        self._held = held.filter(pl.Series(~complete & ~on_disk))
        return held.filter(pl.Series(complete))


def shards_of(rows: pl.DataFrame, size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield each shard of planned rows, ascending, with its rows; `size`: rows of a shard."""
    numbers = rows["row"].to_numpy() // size
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(numbers)]):
        yield int(numbers[start]), rows[start:end]


def blocks(rows: Iterable[int], first: int, size: int) -> dict[int, tuple[int, ...]]:
    """Return the rows of each batch that has any: fixed runs of `size` rows from `first` on,
    whatever is computed."""
    runs = groupby(sorted(rows), lambda row: (row - first) // size)
    return {block: tuple(members) for block, members in runs}


BATCH = {"clips": 4, "texts": 128}
"""rows of a batch, if neither the user nor a GPU's memory decides"""
FILLER = "."  # takes the place of a text that cannot be encoded in a batch


@dataclass(frozen=True)
class Task:
    """A shard's rows to compute. A row is in `rows` or in `failures`, not in both."""

    store: str
    entity: str
    view: str
    shard: int
    rows: tuple[int, ...]  # ascending
    failures: dict[int, str]  # row known to be unusable -> why
    batch_size: int
    clips: dict[int, Source] = field(default_factory=dict)  # every one of `rows` -> its clip
    texts: dict[int, str] = field(default_factory=dict)
    """every row of the batches that hold `rows` -> its text, FILLER if it is unusable"""
    threads: int = 1  # that decode


@dataclass(frozen=True)
class Shards:
    """Tasks that one worker does one after another: on a GPU the next begins while one is
    written."""

    tasks: tuple[Task, ...]

    @property
    def shard(self) -> int:
        """The number of the first shard."""
        return self.tasks[0].shard

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows to compute."""
        return tuple(row for task in self.tasks for row in task.rows)

    @property
    def failures(self) -> dict[int, str]:
        """The rows known to be unusable -> why."""
        return {row: why for task in self.tasks for row, why in task.failures.items()}


def together(tasks: Iterable[Task], count: int) -> Iterator[Shards]:
    """Yield tasks, `count` at a time."""
    remaining = iter(tasks)
    while some := tuple(islice(remaining, count)):
        yield Shards(some)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task."""

    shard: int
    repeated: int = 0  # clips that show fewer frames than the encoder sees
    truncated: int = 0  # texts of more tokens than the encoder sees
    # rows of a forward pass, once a GPU had no memory for those of a batch
    forward_rows: int | None = None
    error: str | None = None  # why nothing of it was written


def tasks(
    view: View, planned: pl.DataFrame, batch_size: int, threads: int, as_before: bool = False
) -> Iterator[Task]:
    """Yield the tasks of planned rows, which are ascending, shard by shard.

    `as_before`: a row that was computed before, and is absent now, has the bits of then. It is
    computed in batches of the size that the record of its shard names.
    """
    for shard, rows in shards_of(planned, view.rows_per_shard):
        sizes = _sizes_before(view, shard) if as_before else {}
        of_rows = np.array(
            [sizes.get(row, batch_size) for row in rows["row"]]
            if sizes
            else [batch_size] * rows.height
        )
        for size in np.unique(of_rows).tolist():
            yield _task(view, shard, rows.filter(pl.Series(of_rows == size)), size, threads)


def _sizes_before(view: View, shard: int) -> dict[int, int]:
    """Return the size of the batches in which the rows of a shard were computed, of those that have
    a record."""
    sizes: dict[int, int] = {}
    with suppress(StepDiffError):  # the worker refuses a shard whose record is damaged
        for write in writes_of_shard(view.paths, shard, view.rows_per_shard):
            size = write.info.get("forward_rows") or write.info.get("batch_size")
            if isinstance(size, int) and size > 0:
                sizes |= dict.fromkeys(write.rows, size)
    return sizes


def _task(view: View, shard: int, rows: pl.DataFrame, batch_size: int, threads: int) -> Task:
    failures = dict(rows.select("row", "reason").drop_nulls().iter_rows())
    good = rows.filter(pl.col("reason").is_null())
    usable = tuple(good["row"])
    clips, texts = {}, {}
    if view.entity == "clips":
        clips = {
            row: Source(*source)
            for row, *source in good.select("row", "place", "start", "end").iter_rows()
        }
    else:
        first = shard * view.rows_per_shard
        span = np.arange(first, first + view.rows_per_shard)
        span_texts = view.catalog.select(span, pl.DataFrame(schema={"text": pl.String})).sort(
            "row"
        )["text"]
        texts = {
            first + place: FILLER if unusable(text) else text
            for block in blocks(usable, first, batch_size)
            for place, text in enumerate(
                span_texts[block * batch_size : (block + 1) * batch_size], block * batch_size
            )
        }
    return Task(
        str(view.paths.store),
        view.entity,
        view.name,
        shard,
        usable,
        failures,
        batch_size,
        clips,
        texts,
        threads,
    )
