"""Rows of a view as Arrow record batches, without a copy of features that are in memory.

    from store.exchange.arrow import record_batches
    for batch in record_batches(view, "embedding", columns=["video"]):  # key, video, embedding
        ...

A feature is a fixed-size list of its flattened row; its shape is in the metadata of the field
(`shape`, JSON). float16 and float32 keep their dtype. int8 is as stored, with its float16 scales in
the column `NAME_scale`, unless a dtype is given. The columns of the catalog's metadata are the
columns of all parts, null if a row has none.

The memory of a zero-copy batch is a read-only part of the mapped shard file: it remains valid after
the view is closed, and when a writer replaces the shard.

Guarantees
- float16 and float32 features that are in memory are not copied
- only finished rows are returned, in the order that is asked for
- a damaged row is refused with its key
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, UInt32

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.sealed import crc32c
from store.catalog.catalog import Catalog
from store.provenance import Feature, RowNumbers, RowValues
from store.view import OK, Rows, View, row_numbers

KEY = "key"
CHECKSUM = "crc32c"
"""column of the checksums of a row in files of an export"""
SCALE = "_scale"
"""suffix of the name of an int8 feature in the column of its scales"""
BATCH_BYTES = 32 * 2**20
"""bytes of the features of a batch, about, by default"""
# rows whose metadata is read at a time: a part of a catalog is read whole each time
_WINDOW = 2**17
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
_PRIMITIVE = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}


def record_batches(
    view: View,
    features: str | Sequence[str] | None = None,
    rows: Rows | None = None,
    batch_rows: int | None = None,
    columns: Sequence[str] | None = None,
    dtype: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield rows of a view as Arrow record batches of the schema that `schema` returns for the same
    arguments.

    Args:
        view: open view; its `check` says when rows are compared with their checksums.
        features: names. By default all.
        rows: R row numbers, in any order. Rows that are absent or failed are left out. By default
            all finished rows, in the order of the catalog.
        batch_rows: rows of a batch, at most: consecutive rows of different shards never share a
            batch. By default as many as have 32 MiB of features.
        columns: metadata columns of the catalog. By default all; () for none. `key` is always the
            first column.
        dtype: "float16" or "float32", which int8 is dequantised to, and floats are cast to. By
            default as stored.

    Raises:
        StepDiffError: unknown feature, column or dtype, unsuitable `rows`, or a value past float16.
        DamageError: a row that differs from its checksum.
    """
    fields, like, names = _plan(view, features, columns, dtype)
    numbers = None if rows is None else row_numbers(rows)
    status = view.status(numbers)
    finished = np.flatnonzero(status == OK) if numbers is None else numbers[status == OK]
    row_bytes = sum(view.stored[name].row_bytes for name in view.arrays_of(names))
    count = max(BATCH_BYTES // row_bytes, 1) if batch_rows is None else batch_rows
    if count < 1:
        raise StepDiffError(f"batch_rows {count} is refused: give 1 or more")
    for start in range(0, len(finished), _WINDOW):
        window = finished[start : start + _WINDOW]
        metadata = _metadata(view.catalog, window, like, fields)
        for part in _parts(window, view.rows_per_shard, count):
            arrays = metadata.slice(part.start, part.stop - part.start).columns
            for name in names:
                arrays += _arrays(view, name, window[part], dtype)
            yield pa.RecordBatch.from_arrays(arrays, schema=fields)


def schema(
    view: View,
    features: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    dtype: str | None = None,
) -> pa.Schema:
    """Return the schema of `record_batches`: key, metadata columns, features. Arguments and errors
    are the same."""
    return _plan(view, features, columns, dtype)[0]


def catalog_digest(catalog: Catalog, columns: Sequence[str], ok: Bool[np.ndarray, " rows"]) -> str:
    """Return the sha256, in hex, of key and metadata columns of the rows where `ok` is true.

    It is the same when parts of the catalog are merged, and when it has more rows or columns.
    """
    like = _frame_like(catalog, columns)
    digest = hashlib.sha256()
    for block in catalog.blocks(like):
        rows = block["row"].to_numpy()
        block = block.filter(pl.Series((rows < len(ok)) & ok[np.minimum(rows, len(ok) - 1)]))
        digest.update(
            block.select(_as_json(name, kind) for name, kind in like.schema.items())
            .write_ndjson()
            .encode()
        )
    return digest.hexdigest()


def feature_fields(fields: pa.Schema) -> dict[str, Feature]:
    """Return the features of a schema of `record_batches`, by name."""
    types = {kind: dtype for dtype, kind in _PRIMITIVE.items()}
    return {
        field.name: Feature(
            tuple(json.loads(field.metadata[b"shape"])), types[field.type.value_type]
        )
        for field in fields
        if field.metadata
    }


def list_array(values: RowValues) -> pa.FixedSizeListArray:
    """Return rows as an array of fixed-size lists that shares their memory."""
    flat = np.ascontiguousarray(values).reshape(-1)
    primitive = pa.Array.from_buffers(
        _PRIMITIVE[flat.dtype.name], len(flat), [None, pa.py_buffer(flat)]
    )
    return pa.FixedSizeListArray.from_arrays(primitive, math.prod(values.shape[1:]))


def row_values(batch: pa.RecordBatch, name: str, shape: Sequence[int]) -> RowValues:
    """Return a feature column as an array [R, *shape of a row] that shares its memory."""
    return (
        batch.column(name).flatten().to_numpy(zero_copy_only=True).reshape(batch.num_rows, *shape)
    )


def unnested(kind: pa.DataType) -> tuple[list[int | None], pa.DataType]:
    """Return the lengths of nested lists, None if the type does not say it, and the type of the
    values in them."""
    lengths: list[int | None] = []
    while True:
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        if pa.types.is_fixed_size_list(kind):
            lengths.append(kind.list_size)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths.append(None)
        else:
            return lengths, kind
        kind = kind.value_type


def is_text(kind: pa.DataType) -> bool:
    """Return whether values are texts, of any kind."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a catalog can have such values as metadata: no structs, and no lists of
    texts."""
    lengths, leaf = unnested(kind)
    numbers = pa.types.is_boolean(leaf) or pa.types.is_integer(leaf) or pa.types.is_floating(leaf)
    return (
        numbers
        or pa.types.is_temporal(leaf)
        or pa.types.is_null(leaf)
        or (is_text(leaf) and not lengths)
    )


def covered(fields: pa.Schema, columns: Iterable[str]) -> list[str]:
    """Return the key and the `columns` that an import can take: the first checksum of a row is of
    their values."""
    return [KEY, *(name for name in columns if is_plain(fields.field(name).type))]


def row_texts(frame: pl.DataFrame) -> list[str]:
    """Return each row of metadata as a JSON object that keeps every value; dates are the integers
    that Arrow stores."""
    rows = frame.with_columns(pl.all().to_physical()).iter_rows(named=True)
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def text_checksums(frame: pl.DataFrame) -> UInt32[np.ndarray, " B"]:
    """Return the crc32c of each row of metadata, as `row_texts` has it."""
    return np.array([crc32c(text.encode()) for text in row_texts(frame)], np.uint32)


def checksums(values: RowValues) -> UInt32[np.ndarray, " R"]:
    """Return the crc32c of each row."""
    return np.array([crc32c(row) for row in values], np.uint32)


def with_checksums(batch: pa.RecordBatch, fields: pa.Schema) -> pa.RecordBatch:
    """Return a batch of `record_batches` with the column of checksums, which `fields` has too.

    A row has one for key and metadata, then one for each feature, in their order.
    """
    features = feature_fields(fields)
    metadata = covered(
        fields, [name for name in batch.schema.names if name not in (KEY, *features)]
    )
    sums = [text_checksums(pl.DataFrame(pl.from_arrow(batch.select(metadata))))]
    sums += [
        checksums(row_values(batch, name, feature.shape)) for name, feature in features.items()
    ]
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.stack(sums, 1).reshape(-1)), len(sums))
    return pa.RecordBatch.from_arrays([*batch.columns, column], schema=fields)


def is_damage(error: BaseException) -> bool:
    """Return whether Arrow or Lance raised it because of a damaged file; a panic of Lance is no
    Exception."""
    return isinstance(error, _DAMAGE) or type(error).__name__ == "PanicException"


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn exceptions of Arrow and Lance on damaged files into one line."""
    try:
        yield
    except BaseException as error:
        if not is_damage(error):
            raise
        raise StepDiffError(f"cannot read {path}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return a message on one line."""
    return " ".join(str(error).split())[:200]


def _plan(
    view: View,
    features: str | Sequence[str] | None,
    columns: Sequence[str] | None,
    dtype: str | None,
) -> tuple[pa.Schema, pl.DataFrame, list[str]]:
    """Return the schema, an empty frame of the catalog's columns, and the names of the features."""
    names = (
        [features] if isinstance(features, str) else list(dict.fromkeys(features or view.features))
    )
    for name in names:
        view.check_feature(name)
    if dtype not in (None, "float16", "float32"):
        raise StepDiffError(
            f"dtype {dtype!r} is refused: give float16 or float32, or none for values as stored"
        )
    like = _frame_like(view.catalog, columns)
    stored = _features(view, names, dtype)
    if KEY in stored:
        raise StepDiffError(
            f"feature {KEY} of view {view.name} has the name of the column of keys: leave it out "
            "with --features (features=)"
        )
    if clash := [name for name in stored if name in like.columns]:
        raise StepDiffError(
            f"{clash[0]} is a feature of view {view.name} and a column of the catalog: name the "
            "columns to take with --columns (columns=), without it"
        )
    metadata = [pa.field(field.name, _plain(field.type)) for field in like.to_arrow().schema]
    lists = [
        pa.field(
            name,
            pa.list_(_PRIMITIVE[feature.dtype], math.prod(feature.shape)),
            metadata={"shape": json.dumps(list(feature.shape))},
        )
        for name, feature in stored.items()
    ]
    return pa.schema([*metadata, *lists]), like, names


def _features(view: View, names: Sequence[str], dtype: str | None) -> dict[str, Feature]:
    """Return the feature columns of the batches, by name, with shape and dtype; int8 brings its
    scales."""
    columns: dict[str, Feature] = {}
    for name in names:
        feature = view.features[name]
        columns[name] = Feature(feature.shape, dtype or feature.dtype)
        if columns[name].dtype == "int8":
            if name + SCALE in names:
                raise StepDiffError(
                    f"feature {name + SCALE} of view {view.name} has the name of the scales of "
                    f"{name}: leave it out with --features (features=), or give a dtype"
                )
            columns[name + SCALE] = view.stored["scale"]
    return columns


def _frame_like(catalog: Catalog, columns: Sequence[str] | None) -> pl.DataFrame:
    """Return an empty frame of key and metadata columns."""
    texts = (pl.Null, pl.Categorical, pl.Enum)  # Arrow readers differ in these
    dtypes = {name: dtype for name, dtype in catalog.schema().items() if name not in (KEY, "row")}
    schema = {
        name: pl.String() if isinstance(dtype, texts) else dtype for name, dtype in dtypes.items()
    }
    if unknown := [name for name in columns or () if name not in schema]:
        raise StepDiffError(
            f"no column {unknown[0]!r} in the catalog of {catalog.entity}: it has "
            f"{', '.join(schema) or 'only keys'}"
        )
    chosen = schema if columns is None else columns
    return pl.DataFrame(
        schema={KEY: pl.String(), **{name: schema[name] for name in chosen if name != KEY}}
    )


def _as_json(name: str, dtype: Any) -> pl.Expr:
    """Return a column as JSON can have it without loss; texts, numbers and dates are the same in
    every version."""
    column = pl.col(name)
    if dtype.is_float():
        return column.cast(pl.String)  # JSON has no NaN
    if dtype == pl.Binary:
        return column.bin.encode("hex")
    return column.hash() if dtype.is_nested() and "Binary" in repr(dtype) else column


def _metadata(
    catalog: Catalog, rows: RowNumbers, like: pl.DataFrame, fields: pa.Schema
) -> pa.RecordBatch:
    """Return key and metadata of rows, in their order."""
    frame = catalog.select(rows, like)
    order = np.searchsorted(frame["row"].to_numpy(), rows)
    taken = frame.drop("row")[order].to_arrow()
    kinds = pa.schema([fields.field(name) for name in like.columns])
    (batch,) = taken.cast(kinds).combine_chunks().to_batches()
    return batch


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without 64-bit offsets, which some readers lack; batches are far below their
    limit."""
    if kind in (pa.large_string(), pa.string_view()):
        return pa.string()
    if kind in (pa.large_binary(), pa.binary_view()):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind


def _parts(rows: RowNumbers, shard_rows: int, count: int) -> Iterator[slice]:
    """Yield parts of at most `count` rows; parts of ascending rows end with their shard."""
    ascending = bool((np.diff(rows) > 0).all())
    ends = (np.flatnonzero(np.diff(rows // shard_rows)) + 1).tolist() if ascending else []
    start = 0
    for end in [*ends, len(rows)]:
        for first in range(start, end, count):
            yield slice(first, min(first + count, end))
        start = end


def _arrays(view: View, name: str, rows: RowNumbers, dtype: str | None) -> list[pa.Array]:
    """Return the columns of a feature."""
    stored = view.features[name].dtype
    if dtype is None and stored == "int8":
        return [list_array(values) for values in view.read_quantised(name, rows)]
    if dtype is None or dtype == stored:
        mapped = view.in_place(name, rows)
        return [list_array(view.read(name, rows) if mapped is None else mapped)]
    values = view.read(name, rows, dtype=dtype if stored == "int8" else None)
    with np.errstate(over="ignore"):
        cast = values.astype(dtype, copy=False)
    if dtype == "float16" and not np.isfinite(cast).all():
        place = int(np.flatnonzero(~np.isfinite(cast.reshape(len(rows), -1)).all(axis=1))[0])
        key = view.catalog.name(int(rows[place]))
        raise StepDiffError(f"{name} of {key} holds a magnitude past float16: give float32")
    return [list_array(cast)]
