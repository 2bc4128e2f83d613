"""Columns of Arrow tables as features, keys and metadata: what an import takes from files of strangers.

A feature is a column of lists: fixed-size or not, nested or flat, or an Arrow tensor. All rows of a feature have one
shape; a row with another shape, a null or another number of values fails alone.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import _stepdiff

_stepdiff.require("store.exchange", "export", ("pyarrow",))

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute  # noqa: F401, pa.compute
from jaxtyping import Shaped

from common.errors import StepDiffError, some
from common.io.parquet_sizes import BYTES_PER_BYTE
from store.exchange.arrow import KEY, SCALE, depth, is_list, is_plain, is_text, leaf_type, storage_type
from store.exchange.card import Card, read_card
from store.provenance import Feature, check_name

_RESERVED = (KEY, "row")  # columns that a store gives its catalog
BATCH_BYTES = 32 * 2**20
"""bytes of features that are decoded at a time, about"""
MOST_COLUMNS = 1000
"""of metadata"""
KEY_ROWS = 2**14
"""keys that are decoded at a time"""
_DAMAGE = (pa.ArrowException, OSError, ValueError, IndexError)
Read = tuple[dict[str, np.ndarray], dict[int, str]]
"""features of P places of a file [P, ...], and why some of the P could not be read"""
_FREE_TEXT = 2**30  # bytes of text that files of any size may hold
_DTYPES = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float32", pa.int8(): "int8"}


@dataclass(frozen=True)
class Column:
    """A column of features."""

    name: str
    """of the column"""
    sizes: tuple[int, ...]
    """length of the lists, level by level"""
    feature: Feature
    """shape of a row, and the dtype that holds its values"""


@dataclass(frozen=True)
class Layout:
    """Which columns of a table an import takes."""

    keys: str
    features: dict[str, Column]
    """by the name of the feature"""
    about: list[str]
    """metadata"""
    left_out: list[str]
    """other columns"""
    card: Card | None
    """of store export; None in files of others"""


def layout(
    where: str,
    schema: pa.Schema,
    sample: pa.RecordBatch | None,
    keys: str | None,
    features: Sequence[str],
    columns: Sequence[str],
) -> Layout:
    """Return which columns to take.

    Args:
        where: the file, for messages.
        schema: its schema.
        sample: some rows of `ragged_columns`, which say how long lists are.
        keys: the column of keys, None to find it.
        features: each NAME or NAME=COLUMN; () for all.
        columns: of metadata; () for all.

    Raises StepDiffError where columns do not exist or do not fit.
    """
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise StepDiffError(f"{where} has several columns {twice[0]!r}: give each a name of its own")
    card = _card(where, schema)
    texts = [field.name for field in schema if is_text(field.type)]
    key = keys or (KEY if KEY in texts or len(texts) != 1 else texts[0])
    if key not in texts:
        if key in schema.names:
            raise StepDiffError(
                f"column {key!r} of {where} is {schema.field(key).type}; keys are texts: cast it to text, or name "
                f"another column with --keys ({some(texts)})"
            )
        raise StepDiffError(
            f"{where} has no column {key!r} of texts: name that of the keys with --keys ({some(texts)})"
        )
    lists = feature_columns(schema)
    named = {name: column or name for name, _, column in (text.partition("=") for text in features)}
    if not named:
        chosen = [c for c in lists if _is_float(schema, c) and not _is_scale(c, lists, schema)]
        chosen += [c for c in lists if not _is_float(schema, c) and c + SCALE in lists]
        if card:
            chosen = [c for c in card.features if c in chosen]
        named = {check_name("feature", c): c for c in chosen}
    if not named:
        raise StepDiffError(f"{where} has no column of lists of floats: it has {some(schema.names)}")
    for name, column in list(named.items()):
        if column not in lists:
            kind = f"is {schema.field(column).type}" if column in schema.names else "does not exist"
            raise StepDiffError(f"column {column!r} of {where} {kind}: features are lists of floats ({some(lists)})")
        if not _is_float(schema, column):
            if column + SCALE not in lists:
                raise StepDiffError(
                    f"column {column!r} of {where} is int8 without a column {column + SCALE!r} of scales"
                )
            named[name + SCALE] = column + SCALE
    found = {name: _column(where, schema.field(column), sample) for name, column in named.items()}
    about = list(columns) or (
        list(card.columns) if card else [n for n in schema.names if n not in (key, *_RESERVED, *lists)]
    )
    if len(about) > MOST_COLUMNS:
        raise StepDiffError(
            f"{where} has {len(about):,} columns of metadata: name at most {MOST_COLUMNS:,} with --columns"
        )
    for name in about:
        if name in _RESERVED:
            raise StepDiffError(f"column {name!r} cannot be metadata, the store has its own: leave it out of --columns")
        if name not in schema.names:
            raise StepDiffError(f"{where} has no column {name!r}: it has {some(schema.names)}")
        if not is_plain(schema.field(name).type):
            raise StepDiffError(
                f"column {name!r} of {where} is {schema.field(name).type}, which is not taken as metadata: "
                "name the columns to take with --columns"
            )
    taken = {key, *about, *named.values()}
    return Layout(key, found, about, [name for name in schema.names if name not in taken], card)


def feature_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of lists of floats or int8."""
    return [field.name for field in schema if leaf_type(field.type) in _DTYPES and depth(field.type)]


def ragged_columns(schema: pa.Schema) -> list[str]:
    """Return those of `feature_columns` whose type does not say how long the lists are."""
    return [field.name for field in schema if leaf_type(field.type) in _DTYPES and None in _declared(field.type)]


def rows_of(array: pa.Array, column: Column) -> tuple[Shaped[np.ndarray, "B ..."], dict[int, str]]:
    """Return a feature column as an array, and why some of its rows do not fit: place -> reason."""
    count = len(array)
    out = np.zeros((count, math.prod(column.sizes)), column.feature.dtype)
    reasons: dict[int, str] = {}
    good = np.arange(count)

    def keep(fits: np.ndarray, per: int, reason: str) -> None:
        nonlocal array, good
        if not fits.all():
            reasons.update((place, f"{column.name} {reason}") for place in good[~fits].tolist())
            array, good = array.filter(pa.array(np.repeat(fits, per))), good[fits]

    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    keep(_not_null(array), 1, "is null")
    per = 1
    for size in column.sizes:
        lengths = np.where(_not_null(array), _lengths(array), -1)
        keep(
            np.asarray((lengths == size).reshape(len(good), per).all(axis=1)),
            per,
            f"is not {list(column.feature.shape)}",
        )
        array, per = array.flatten(), per * size
    keep(np.asarray(_not_null(array).reshape(len(good), per).all(axis=1)), per, "holds null")
    with np.errstate(over="ignore"):  # a float64 that overflows becomes infinity, and its row fails
        out[good] = array.to_numpy(zero_copy_only=False).reshape(len(good), per)
    return out.reshape(count, *column.feature.shape), reasons


def texts_of(where: str, arrays: Iterable[pa.Array], nbytes: int) -> pl.Series:
    """Return a column of texts, as it is read. StepDiffError where it repeats text out of proportion to `nbytes`."""
    most = max(_FREE_TEXT, BYTES_PER_BYTE * nbytes)
    found, total = [pl.Series([], dtype=pl.String)], 0
    for array in arrays:
        array.validate(full=True)
        total += _text_bytes(array)
        if total > most:
            raise StepDiffError(f"{where} repeats text beyond {most:,} bytes: give a file without that")
        found.append(pl.Series(pl.from_arrow(_plain(array))).cast(pl.String))
    return pl.concat(found)


def frame_of(where: str, batch: pa.RecordBatch, nbytes: int) -> pl.DataFrame:
    """Return metadata columns as a frame. StepDiffError as `texts_of`."""
    batch.validate(full=True)
    return pl.DataFrame(
        {
            name: texts_of(where, [array], nbytes) if is_text(array.type) else pl.from_arrow(array)
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        }
    )


def fill(
    features: dict[str, np.ndarray], reasons: dict[int, str], taken: Layout, batch: pa.RecordBatch, places: np.ndarray
) -> None:
    """Fill `places` of the features with the rows of a batch; note why some do not fit."""
    batch.validate(full=True)
    for name, column in taken.features.items():
        features[name][places], bad = rows_of(batch.column(column.name), column)
        for at, reason in bad.items():
            reasons.setdefault(int(places[at]), reason)


def is_damage(error: BaseException) -> bool:
    """Return whether Arrow or Lance raised it because of a damaged file; a panic of Lance is no Exception."""
    return isinstance(error, _DAMAGE) or type(error).__name__ == "PanicException"


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn what Arrow and Lance raise on damaged files into one line."""
    try:
        yield
    except BaseException as error:
        if not is_damage(error):
            raise
        raise StepDiffError(f"cannot read {path}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return a message on one line."""
    return " ".join(str(error).split())[:200]


def check_same(where: str, schema: pa.Schema, first: pa.Schema, names: Iterable[str]) -> None:
    """Raise StepDiffError where the columns `names` are not the same in two files."""
    for name in names:
        count = schema.names.count(name)
        if count != 1 or schema.field(name).type != first.field(name).type:
            found = schema.field(name).type if count == 1 else "there several times" if count else "not there"
            raise StepDiffError(f"column {name!r} is {found} in {where} and {first.field(name).type} in the first file")


def _card(where: str, schema: pa.Schema) -> Card | None:
    data = (schema.metadata or {}).get(b"stepdiff")
    try:
        return None if data is None else read_card(data)
    except StepDiffError as error:
        raise StepDiffError(f"{where}: {error}") from None


def _column(where: str, field: pa.Field, sample: pa.RecordBatch | None) -> Column:
    kind = field.type
    noted: list[int] | None = None
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            raise StepDiffError(f"column {field.name!r} of {where} is a tensor with permuted axes: write it in order")
        noted = list(kind.shape)
    elif field.metadata and b"shape" in field.metadata:
        try:
            noted = [int(length) for length in json.loads(field.metadata[b"shape"])]
        except (ValueError, TypeError, RecursionError):
            raise StepDiffError(f"column {field.name!r} of {where} has a damaged shape in its metadata") from None
    declared = _declared(kind)
    sizes = (
        _sizes(sample.column(field.name), declared) if sample and None in declared else tuple(n for n in declared if n)
    )
    if not sizes or min(sizes) < 1:
        raise StepDiffError(f"column {field.name!r} of {where} has no values in its first rows: its shape is not known")
    if noted is None or math.prod(noted) != math.prod(sizes) or min(noted, default=0) < 1:
        noted = list(sizes)
    return Column(field.name, sizes, Feature(tuple(noted), _DTYPES[leaf_type(kind)]))


def _declared(kind: pa.DataType) -> list[int | None]:
    """Return the lengths of nested lists, None where the type does not say it."""
    kind = storage_type(kind)
    if not is_list(kind):
        return []
    return [kind.list_size if pa.types.is_fixed_size_list(kind) else None, *_declared(kind.value_type)]


def _sizes(sample: pa.Array, declared: Sequence[int | None]) -> tuple[int, ...]:
    """Return the lengths of nested lists: where the type does not say it, the commonest of the sample."""
    sizes = []
    sample = sample.storage if isinstance(sample, pa.ExtensionArray) else sample
    for length in declared:
        if length is None:
            found = Counter(_lengths(sample)[_not_null(sample)].tolist())
            length = found.most_common(1)[0][0] if found else 0
        sizes.append(length)
        sample = sample.flatten()
    return tuple(sizes)


def _lengths(array: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    return array.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)


def _not_null(array: pa.Array) -> np.ndarray:
    return array.is_valid().to_numpy(zero_copy_only=False)


def _is_float(schema: pa.Schema, name: str) -> bool:
    return pa.types.is_floating(leaf_type(schema.field(name).type))


def _is_scale(name: str, lists: Sequence[str], schema: pa.Schema) -> bool:
    of = name.removesuffix(SCALE)
    return of != name and of in lists and not _is_float(schema, of)


def _text_bytes(array: pa.Array) -> int:
    """Return the bytes of the texts once each row has its own."""
    if pa.types.is_dictionary(array.type):
        lengths = np.array(pa.compute.binary_length(array.dictionary).fill_null(0), np.int64)
        indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths[indices].sum()) if len(indices) else 0
    return int(pa.compute.sum(pa.compute.binary_length(array)).as_py() or 0)


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


@dataclass
class ColumnRows:
    """Rows of a file of Arrow columns, of which each library reads its own."""

    where: str
    layout: Layout
    nbytes: int
    keys: pl.Series
    versions: dict[str, str]

    @property
    def kinds(self) -> dict[str, Feature]:
        """Shape and dtype of each array."""
        return {name: column.feature for name, column in self.layout.features.items()}

    def metadata(self) -> Iterator[pl.DataFrame]:
        """Yield the metadata of all rows, in order."""
        with readable(self.where):
            for batch in self._about():
                yield frame_of(self.where, batch, self.nbytes)

    def _about(self) -> Iterator[pa.RecordBatch]:
        """Yield the metadata columns of all rows, in order."""
        raise NotImplementedError

    def _columns(self) -> list[str]:
        """Return the columns that hold the features."""
        return sorted({column.name for column in self.layout.features.values()})

    def _at_once(self) -> int:
        """Return how many rows are decoded at a time."""
        return max(BATCH_BYTES // sum(kind.row_bytes for kind in self.kinds.values()), 1)

    def _empty(self, count: int) -> dict[str, np.ndarray]:
        """Return features of `count` rows, to be filled."""
        return {name: np.zeros((count, *kind.shape), kind.dtype) for name, kind in self.kinds.items()}
