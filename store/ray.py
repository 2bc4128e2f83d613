"""A view as a dataset of Ray Data.

    import polars as pl
    from store.ray import read_view

    train = pl.col("split") == "train"
    clips = read_view("/data/features", "clips", "clip", "embedding", filter=train)
    for batch in clips.iter_batches(batch_format="numpy"):
        ...  # {"key": [B], "embedding": [B, D], "split": [B], ...}

Each task reads whole shards, if they are not larger than a block. The plan needs only the list of
the view's shards: neither the catalog nor the status of rows is read before the tasks run. The
dataset may contain rows that are finished while it is read.

Guarantees
- View.read returns the same rows, order and values
- each finished row is read once, also when a worker is killed in the middle
- the plan depends on the number of shards, not of rows
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import stepdiff_core

stepdiff_core.require("store.ray", "ray", ("ray", "pandas", "pyarrow"))

import numpy as np
import polars as pl
import pyarrow as pa
import ray.data
from jaxtyping import Int, Int64
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.extensions import ArrowTensorArray

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place
from stepdiff_core.io.remote import RemotePath
from store.catalog.catalog import BLOCK
from store.exchange.arrow import KEY, feature_fields, record_batches, row_values, schema
from store.feature_store import Store
from store.format.layout import shard_numbers
from store.io.reader import Check
from store.provenance import Feature, RowNumbers
from store.view import Rows, View, row_numbers

_COLUMN_BYTES = 32
"""of a metadata column in one row, about"""
Spans = Int64[np.ndarray, "_ 2"]
"""first row and end of each of some parts of a view"""


def read_view(
    store: Store | str | os.PathLike[str] | RemotePath,
    entity: str,
    view: str,
    features: str | Sequence[str] | None = None,
    *,
    filter: pl.Expr | None = None,
    columns: Sequence[str] | None = None,
    rows: Rows | None = None,
    dtype: str | None = None,
    check: Check = "first",
    **options: Any,
) -> ray.data.Dataset:
    """Return the finished rows of a view as a Ray dataset: `key`, metadata columns and features.

    A feature is a tensor column, in numpy batches an array [B, *shape of a row]. int8 is as stored,
    with its float16 scales in the column `NAME_scale`, unless a dtype is given. Rows are in the
    order of the catalog if `preserve_order` of Ray's execution options is set.

    Args:
        store: open store, maybe at a snapshot, or its folder or URL. All nodes must reach it at the
            same path.
        entity: "clips" or "texts".
        view: name of the view.
        features: names. By default all.
        filter: condition on the catalog's columns, evaluated row by row, such as `pl.col("split")
            == "train"`.
        columns: metadata columns of the catalog. By default all; () for none. `key` is always the
            first column.
        rows: R row numbers; each is read once. Rows that are absent or failed are left out.
        dtype: "float16" or "float32", which int8 is dequantised to, and floats are cast to. By
            default as stored.
        check: when rows are compared with their stored checksums (`View.read`). "first" compares
            each row.
        options: of `ray.data.read_datasource`, such as `concurrency`, `num_cpus` or
            `override_num_blocks`.

    Raises:
        StepDiffError: unknown store, view, feature, column or row, or a filter that does not fit
            the catalog. Faults that only a task can find, such as a damaged row, are raised when
            the dataset is read.
    """
    names = [features] if isinstance(features, str) else features
    source = ViewDatasource(
        _shared(store).view(entity, view, check), names, filter, columns, rows, dtype
    )
    return ray.data.read_datasource(source, **options)


class ViewDatasource(Datasource):
    """The read tasks of a view; see `read_view`."""

    def __init__(
        self,
        view: View,
        features: Sequence[str] | None,
        filter: pl.Expr | None = None,
        columns: Sequence[str] | None = None,
        rows: Rows | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        fields = schema(view, features, columns, dtype)
        tensors = feature_fields(fields)
        about = [name for name in fields.names if name not in tensors]
        names = list(dict.fromkeys(features or view.features))
        like = None if filter is None else _checked_filter(filter, view)
        place = view.paths.store, view.entity, view.name, view.check, _made(view)
        task = partial(_ShardReader, *place, names, about[1:], dtype, filter, like, tensors)
        self._read_task: Callable[[np.ndarray], _ShardReader] = task
        arrays = {
            f: ArrowTensorArray.from_numpy(np.empty((0, *t.shape), t.dtype))
            for f, t in tensors.items()
        }
        self._schema = pa.schema(
            [pa.field(f.name, arrays[f.name].type) if f.name in arrays else f for f in fields]
        )
        self._row_bytes = sum(
            tensor.row_bytes for tensor in tensors.values()
        ) + _COLUMN_BYTES * len(about)
        self._rows = None if rows is None else np.unique(row_numbers(rows))
        self._spans = _shards(view) if self._rows is None else _parts_of(self._rows, view)

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return "View"

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all rows of the shards, in memory. A filter is not known before the
        rows are read."""
        return int(np.diff(self._spans).sum()) * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[Any]:  # of ReadTask, whose bases beartype refuses
        """Return about `parallelism` tasks in the order of their rows; fewer, if blocks would be
        very small."""
        context = data_context or ray.data.DataContext.get_current()
        size = max(
            self.estimate_inmemory_data_size() / max(parallelism, 1), context.target_min_block_size
        )
        # one task has the schema
        tasks = divide(self._spans, max(int(size / self._row_bytes), 1)) or [self._spans]
        return [self._task(spans, per_task_row_limit) for spans in tasks]

    def _task(self, spans: Spans, limit: int | None) -> Any:
        size = int(np.diff(spans).sum()) * self._row_bytes
        rows = (
            spans
            if self._rows is None or not len(spans)
            else self._rows[spans[0, 0] : spans[-1, 1]]
        )
        about = BlockMetadata(num_rows=None, size_bytes=size, input_files=None, exec_stats=None)
        return ReadTask(self._read_task(rows), about, self._schema, limit)


def divide(shards: Spans, rows: int) -> list[Spans]:
    """Divide shards (rows from first to end, ascending) among tasks of about `rows` rows each, in
    their order.

    A shard of more than `rows` rows is cut into equal parts; others are never cut.
    """
    if not len(shards):
        return []
    first, count = shards[:, 0], shards[:, 1] - shards[:, 0]
    parts = -(-count // rows)
    shard = np.repeat(np.arange(len(shards)), parts)
    part = np.arange(len(shard)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = first[shard] + count[shard] * part // parts[shard]
    ends = first[shard] + count[shard] * (part + 1) // parts[shard]
    before = np.cumsum(ends - starts) - (ends - starts)
    task = (2 * before + ends - starts) // (2 * rows)  # by the middle of each part
    cuts = np.flatnonzero(np.diff(task)) + 1
    return [_joined(spans) for spans in np.split(np.stack([starts, ends], axis=1), cuts)]


def _joined(spans: Spans) -> Spans:
    """Return spans, those that follow one another as one."""
    gaps = np.flatnonzero(spans[1:, 0] != spans[:-1, 1])
    return np.stack([spans[[0, *(gaps + 1)], 0], spans[[*gaps, -1], 1]], axis=1)


@dataclass(frozen=True)
class _ShardReader:
    """A read task."""

    __name__ = "read_view"  # in Ray's messages
    store: Place
    """folder of the store, or of a snapshot"""
    entity: str
    view: str
    check: Check
    made: tuple[Any, ...]
    features: list[str]
    columns: list[str]
    dtype: str | None
    filter: pl.Expr | None
    like: pl.DataFrame | None
    """empty frame with the columns of the filter"""
    tensors: dict[str, Feature]
    chosen: Int[np.ndarray, "..."]
    """spans of rows, or rows"""

    def __call__(self) -> Iterator[pa.Table]:
        """Yield the blocks of the task."""
        spans = self.chosen.tolist() if self.chosen.ndim == 2 else [(0, len(self.chosen))]
        for first, end in spans:
            for start in range(first, end, BLOCK):
                stop = min(start + BLOCK, end)
                yield from self._read(
                    self.chosen[start:stop] if self.chosen.ndim == 1 else np.arange(start, stop)
                )

    def _read(self, rows: RowNumbers) -> Iterator[pa.Table]:
        """Yield blocks of the finished ones of R ascending rows that fulfil the filter."""
        view = self._open()
        if self.filter is not None:
            rows = view.catalog.select(rows, self.like).filter(self.filter)["row"].to_numpy()
        batches = record_batches(view, self.features, rows, columns=self.columns, dtype=self.dtype)
        while True:
            try:
                batch = next(batches, None)
            finally:
                # errors may be a consequence; files that are gone would be read as zeros, or rows
                # as absent
                view.check_not_dropped()
            if batch is None:
                return
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name, tensor in self.tensors.items():
                columns[name] = ArrowTensorArray.from_numpy(row_values(batch, name, tensor.shape))
            yield pa.table(list(columns.values()), list(columns))

    def _open(self) -> View:
        """Return the view in a worker; StepDiffError if the node does not see it, or if it is
        another one now."""
        try:
            view = Store.open(self.store).view(self.entity, self.view, self.check)
        except StepDiffError as error:
            raise StepDiffError(
                f"node {socket.gethostname()} does not see the view: {error}; a view must exist "
                "until the dataset is read, at the same path on all nodes"
            ) from None
        if _made(view) != self.made:
            raise StepDiffError(
                f"view {self.view} of {self.entity} in {self.store} was dropped and made "
                "differently: call read_view again"
            )
        return view


def _shared(store: Store | str | os.PathLike[str] | RemotePath) -> Store:
    """Return the store at an absolute path: workers have other working folders."""
    opened = store if isinstance(store, Store) else Store.open(store)
    path = opened.path.absolute() if isinstance(opened.path, Path) else opened.path
    return Store.open(path, at=opened.at)


def _made(view: View) -> tuple[Any, ...]:
    """Return the state that must not change between the plan and its tasks."""
    return view.provenance, view.features, view.rows_per_shard


def _shards(view: View) -> Spans:
    """Return first row and end of each shard that has a status. No file is opened."""
    length, folder = len(view), view.paths.status(0).parent
    names = (
        folder.identities()
        if isinstance(folder, RemotePath)
        else os.listdir(folder)
        if folder.is_dir()
        else ()
    )
    first = np.array(shard_numbers(names), np.int64) * view.rows_per_shard
    first = first[first < length]
    return np.stack([first, np.minimum(first + view.rows_per_shard, length)], axis=1)


def _parts_of(rows: RowNumbers, view: View) -> Spans:
    """Return where the rows of each shard begin and end among ascending `rows`; StepDiffError for
    an unknown row."""
    length = len(view.catalog)
    if len(rows) and rows[-1] >= length:
        raise StepDiffError(
            f"no row {rows[-1]} in the catalog of {view.entity}: it has rows 0 to {length - 1}"
        )
    _, first = np.unique(rows // view.rows_per_shard, return_index=True)
    return np.stack([first, np.append(first, len(rows))[1:]], axis=1)


def _checked_filter(filter: pl.Expr, view: View) -> pl.DataFrame:
    """Return an empty frame with the columns of a filter; StepDiffError if it fits no part of the
    catalog."""
    every = filter.meta.has_multiple_outputs()  # columns by pattern
    named = sorted(set(filter.meta.root_names()) - {KEY, "row"})
    fields = schema(view, columns=None if every else named)
    empty = pl.DataFrame(
        fields.empty_table().select(named if not every else [n for n in fields.names if n != KEY])
    )
    like = pl.DataFrame(schema={KEY: pl.String(), **empty.schema})
    whole = like.with_columns(pl.lit(0, pl.Int64).alias("row")).lazy()
    try:
        plan = pl.concat([whole, whole]).filter(filter)
        plan.collect()
        order = plan.explain()
    except pl.exceptions.PolarsError as error:
        why = str(error).split("\n")[0]
        raise StepDiffError(
            f"the filter does not fit the catalog of {view.entity}: {why}"
        ) from error
    # Polars moves only conditions on single rows into the parts of a union
    if order.lstrip().startswith("FILTER"):
        raise StepDiffError(
            "the filter compares rows with one another (as a mean, a rank or is_unique does), but "
            "rows are read in parts: find the rows in the whole catalog and pass rows="
        )
    return like
