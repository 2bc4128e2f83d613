"""The rows of Parquet files, Lance datasets and HDF5 files, for an import.

A reader opens the file that was given, or files in the folder that was given, and nothing else: a
Lance dataset with base paths, which lead elsewhere, is refused before anything is read through
them. Files that declare more than their size can hold are refused before they are decoded. A row
group that cannot be decoded makes its rows fail, and no others.

A feature is a column of lists: fixed-size or not, nested or flat, or an Arrow tensor. All rows of a
feature have one shape; a row with another shape, a null or another number of values fails alone.

Files of `store export` have checksums (`store.exchange.arrow.with_checksums`): a row whose features
differ from them fails; if the key or the metadata of a row differ, the file is refused.
"""

import json
import math
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute  # noqa: F401, pa.compute
import pyarrow.parquet as pq
from jaxtyping import Int, Int64, UInt32

import stepdiff_core
from stepdiff_core.errors import StepDiffError, some
from store.exchange import card as cards
from store.exchange.arrow import (
    BATCH_BYTES,
    CHECKSUM,
    KEY,
    SCALE,
    checksums,
    covered,
    is_damage,
    is_plain,
    is_text,
    one_line,
    readable,
    text_checksums,
    unnested,
)
from store.exchange.card import ExportCard, read_card
from store.exchange.export import UNFINISHED
from store.exchange.hdf5 import Hdf5
from store.exchange.parquet_sizes import (
    BYTES_PER_BYTE,
    FREE_ROWS,
    ROWS_PER_BYTE,
    ImplausibleSizes,
    check_sizes,
)
from store.provenance import Feature, RowValues, check_name
from store.verbs.options import Layout

_RESERVED = (KEY, "row")  # columns that a store gives its catalog
MOST_COLUMNS = 1000
"""of metadata"""
_FREE_TEXT = 2**30  # bytes of text that files of any size may hold
_DTYPES = {
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float32",
    pa.int8(): "int8",
}


@dataclass(frozen=True)
class FeatureColumn:
    """A column of features."""

    name: str
    """of the column"""
    sizes: tuple[int, ...]
    """length of the lists, level by level"""
    feature: Feature
    """shape of a row, and the dtype that holds its values"""


def _key_column(where: str, schema: pa.Schema, keys: str | None) -> str:
    texts = [field.name for field in schema if is_text(field.type)]
    usual = [name for name in (KEY, "keys") if name in texts] or (
        texts if len(texts) == 1 else [KEY]
    )
    key = keys or usual[0]
    if key in texts:
        return key
    if key not in schema.names:
        raise StepDiffError(
            f"{where} has no column {key!r} of texts: name that of the keys with --keys "
            f"({some(texts)})"
        )
    raise StepDiffError(
        f"column {key!r} of {where} is {schema.field(key).type}; keys are texts: cast it to text, "
        f"or name another column with --keys ({some(texts)})"
    )


def _feature_columns(
    where: str, schema: pa.Schema, features: Sequence[str], card: ExportCard | None
) -> dict[str, str]:
    """Return feature -> column, with the scales of int8 features."""
    lists = feature_columns(schema)
    floats = [name for name in lists if pa.types.is_floating(unnested(schema.field(name).type)[1])]
    levels = [name for name in lists if name not in floats]
    names = {name: column or name for name, _, column in (text.partition("=") for text in features)}
    if not names:
        scales = [name + SCALE for name in levels]
        chosen = [c for c in floats if c not in scales] + [c for c in levels if c + SCALE in lists]
        if card:
            if gone := [c for c in card.features if c not in lists]:
                raise StepDiffError(
                    f"{where} has no column {gone[0]!r}, which its card names: export it again, or "
                    "name the features to take with --features"
                )
            chosen = [c for c in card.features if c in chosen]
        names = {check_name("feature", c): c for c in chosen}
    if not names:
        raise StepDiffError(
            f"{where} has no column of lists of floats: it has {some(schema.names)}"
        )
    for name, column in list(names.items()):
        if column not in lists:
            kind = f"is {schema.field(column).type}" if column in schema.names else "does not exist"
            raise StepDiffError(
                f"column {column!r} of {where} {kind}: features are lists of floats ({some(lists)})"
            )
        if column in levels:
            if column + SCALE not in lists:
                raise StepDiffError(
                    f"column {column!r} of {where} is int8 without a column {column + SCALE!r} of "
                    "scales"
                )
            names[name + SCALE] = column + SCALE
    return names


def _metadata_columns(
    where: str, schema: pa.Schema, key: str, columns: Sequence[str], card: ExportCard | None
) -> list[str]:
    taken = {key, *_RESERVED, *feature_columns(schema)}
    others = [name for name in schema.names if name not in taken]
    names = list(columns or (card.columns if card else others))
    if len(names) > MOST_COLUMNS:
        raise StepDiffError(
            f"{where} has {len(names):,} columns of metadata: name at most {MOST_COLUMNS:,} with "
            "--columns"
        )
    for name in names:
        if name in _RESERVED:
            raise StepDiffError(
                f"column {name!r} cannot be metadata, the store has its own: leave it out of "
                "--columns"
            )
        if name not in schema.names:
            raise StepDiffError(f"{where} has no column {name!r}: it has {some(schema.names)}")
        if not is_plain(schema.field(name).type):
            raise StepDiffError(
                f"column {name!r} of {where} is {schema.field(name).type}, which is not taken as "
                "metadata: name the columns to take with --columns"
            )
    return names


def feature_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of lists of floats or int8."""
    types = {field.name: unnested(field.type) for field in schema}
    return [name for name, (lengths, leaf) in types.items() if lengths and leaf in _DTYPES]


def rows_of(
    array: pa.Array, column: FeatureColumn, null: str = "is null"
) -> tuple[RowValues, dict[int, str]]:
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
    keep(_not_null(array), 1, null)
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
    """Return a column of texts, as it is read. StepDiffError if it repeats text out of proportion
    to `nbytes`."""
    most = max(_FREE_TEXT, BYTES_PER_BYTE * nbytes)
    texts, total = [pl.Series([], dtype=pl.String)], 0
    for array in arrays:
        array.validate(full=True)
        total += _text_bytes(array)
        if total > most:
            raise StepDiffError(
                f"{where} repeats text beyond {most:,} bytes: give a file without that"
            )
        array = array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
        texts.append(pl.Series(pl.from_arrow(array)).cast(pl.String))
    return pl.concat(texts)


def frame_of(where: str, batch: pa.RecordBatch, nbytes: int) -> pl.DataFrame:
    """Return metadata columns as a frame. StepDiffError as `texts_of`."""
    batch.validate(full=True)
    return pl.DataFrame(
        {
            name: texts_of(where, [array], nbytes) if is_text(array.type) else pl.from_arrow(array)
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        }
    )


def _card(where: str, schema: pa.Schema) -> ExportCard | None:
    data = (schema.metadata or {}).get(b"stepdiff")
    try:
        return None if data is None else read_card(data)
    except StepDiffError as error:
        raise StepDiffError(f"{where}: {error}") from None


def _column(where: str, field: pa.Field, sample: pa.RecordBatch | None) -> FeatureColumn:
    kind = field.type
    noted: list[int] | None = None
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, list(range(len(kind.shape)))):
            raise StepDiffError(
                f"column {field.name!r} of {where} is a tensor with permuted axes: write it in "
                "order"
            )
        noted = list(kind.shape)
    elif field.metadata and b"shape" in field.metadata:
        try:
            noted = [int(length) for length in json.loads(field.metadata[b"shape"])]
        except (ValueError, TypeError, RecursionError):
            raise StepDiffError(
                f"column {field.name!r} of {where} has a damaged shape in its metadata"
            ) from None
    declared, leaf = unnested(kind)
    array = sample.column(field.name) if sample and None in declared else None
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    sizes = []
    for length in declared:
        if array is not None:
            lengths = Counter(_lengths(array)[_not_null(array)].tolist())
            # the commonest of the sample
            length = length or (lengths.most_common(1)[0][0] if lengths else 0)
            array = array.flatten()
        sizes.append(length or 0)
    if min(sizes) < 1:
        raise StepDiffError(
            f"column {field.name!r} of {where} has no values in its first rows: its shape is not "
            "known"
        )
    if noted is None or math.prod(noted) != math.prod(sizes) or min(noted, default=0) < 1:
        noted = sizes
    return FeatureColumn(field.name, tuple(sizes), Feature(tuple(noted), _DTYPES[leaf]))


def _lengths(array: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    return array.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)


def _not_null(array: pa.Array) -> np.ndarray:
    return array.is_valid().to_numpy(zero_copy_only=False)


def _text_bytes(array: pa.Array) -> int:
    """Return the bytes of the texts once each row has its own."""
    if pa.types.is_dictionary(array.type):
        lengths = np.array(pa.compute.binary_length(array.dictionary).fill_null(0), np.int64)
        indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths[indices].sum()) if len(indices) else 0
    return int(pa.compute.sum(pa.compute.binary_length(array)).as_py() or 0)


_REMEDY = f"export it again, or remove the column {CHECKSUM} if you changed it"
_DIFFERS = f"{{}} is not as it was exported: {_REMEDY}"
_KEY_ROWS = 2**14  # keys that are decoded at a time
_one_at_a_time = threading.Lock()  # for the standard error of the process
_BLOCK = 2**18  # rows of a block of metadata
_SAMPLE = 64  # rows that say the length of lists


@dataclass(frozen=True)
class FileRows:
    """The rows of a file or folder, with the columns that an import takes."""

    where: str
    features: dict[str, FeatureColumn]
    """by the name of the feature"""
    columns: list[str]
    """of metadata"""
    left_out: list[str]
    """other columns"""
    card: ExportCard | None
    """of store export; None in files of others"""
    keys: pl.Series
    source: "_Parquet | _Lance | Hdf5"
    sums: dict[str, int]
    """column of a feature -> place of its checksum among the checksums of a row; empty in files of
    others"""

    @property
    def kinds(self) -> dict[str, Feature]:
        """Shape and dtype of each array: features, and the scales of an int8 feature."""
        return {name: column.feature for name, column in self.features.items()}

    def metadata(self) -> Iterator[pl.DataFrame]:
        """Yield the metadata of all rows, in order; nothing if the files have none."""
        with readable(self.where):
            for batch in self.source.each(self.columns, _BLOCK) if self.columns else ():
                yield frame_of(self.where, batch, self.source.nbytes)

    def read(self, places: Int[np.ndarray, " P"]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return features [P, ...] of the rows at `places`, and why some of the P could not be
        read."""
        features = {
            name: np.zeros((len(places), *kind.shape), kind.dtype)
            for name, kind in self.kinds.items()
        }
        reasons: dict[int, str] = {}
        columns = sorted({column.name for column in self.features.values()}) + [CHECKSUM] * bool(
            self.sums
        )
        size = max(BATCH_BYTES // sum(kind.row_bytes for kind in self.kinds.values()), 1)
        order = np.argsort(places, kind="stable")
        ascending, done = places[order], 0
        while done < len(order):
            end = self.source.end(ascending, done, size)
            try:
                for batch in self.source.batches(ascending[done:end], columns, size):
                    batch.validate(full=True)
                    at = order[done : done + batch.num_rows]
                    for name, column in self.features.items():
                        values, misfits = rows_of(
                            batch.column(column.name), column, self.source.null
                        )
                        if column.name in self.sums:
                            differ = checksums(values) != _sums(batch)[:, self.sums[column.name]]
                            misfits = (
                                dict.fromkeys(
                                    np.flatnonzero(differ).tolist(), _DIFFERS.format(column.name)
                                )
                                | misfits
                            )
                        features[name][at] = values
                        for place, reason in misfits.items():
                            reasons.setdefault(int(at[place]), reason)
                    done += batch.num_rows
                if done < end:
                    raise OSError("its rows end too early")
            except BaseException as error:
                if not is_damage(error):
                    raise
                reasons.update(
                    (int(at), f"cannot be read ({one_line(error)})") for at in order[done:end]
                )
                done = end
        return features, reasons


def opened(
    path: Path,
    format: str,
    layout: Layout | None,
    keys: str | None,
    features: Sequence[str],
    columns: Sequence[str],
) -> FileRows:
    """Return the rows of a Parquet or HDF5 file, of all Parquet files below a folder, by name, or
    of the newest version of a Lance dataset.

    The other arguments are the options of the import. StepDiffError if they do not fit.
    """
    if layout and format != "hdf5":
        raise StepDiffError(f"--layout is of HDF5 files, {path} is {format}: leave it out")
    where = str(path)
    source: _Parquet | _Lance | Hdf5
    source = (
        Hdf5(path, layout)
        if format == "hdf5"
        else _Lance(path)
        if format == "lance"
        else _Parquet(path)
    )
    schema = source.schema
    if not source.count:
        raise StepDiffError(f"{path} has no rows")
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise StepDiffError(
            f"{where} has several columns {twice[0]!r}: give each a name of its own"
        )
    with readable(path):  # some rows say how long lists are
        ragged = [
            name for name in feature_columns(schema) if None in unnested(schema.field(name).type)[0]
        ]
        sample = next(source.each(ragged, _SAMPLE), None) if ragged else None
    card = _card(where, schema)
    key = _key_column(where, schema, keys)
    names = _feature_columns(where, schema, features, card)
    arrays = {name: _column(where, schema.field(column), sample) for name, column in names.items()}
    metadata = _metadata_columns(where, schema, key, columns, card)
    taken = [key, *metadata, *names.values()]
    if isinstance(source, _Parquet):  # a Lance dataset has one schema
        source.check(taken, card)
    with readable(path):
        blocks = (batch.column(0) for batch in source.each([key], _KEY_ROWS))
        texts = texts_of(where, blocks, source.nbytes)
    sums = {}
    if card and CHECKSUM in schema.names:
        sums = {name: 1 + place for place, name in enumerate(card.features)}
        _check_sums(where, source, card, arrays)
    left_out = [
        name for name in schema.names if name not in taken and not (sums and name == CHECKSUM)
    ]
    return FileRows(
        where, arrays, metadata, left_out + source.left_out, card, texts.rename(KEY), source, sums
    )


def _check_sums(
    where: str,
    source: "_Parquet | _Lance | Hdf5",
    card: ExportCard,
    arrays: Mapping[str, FeatureColumn],
) -> None:
    """Raise StepDiffError if a file of an export has other shapes, keys or metadata than were
    exported."""
    for column in arrays.values():
        form, there = card.features.get(column.name), column.feature
        if form and (form["shape"], form["dtype"]) != (list(there.shape), there.dtype):
            raise StepDiffError(
                f"column {column.name!r} of {where} is {there.dtype} {list(there.shape)}, and its "
                f"card says {form['dtype']} {form['shape']}: {_REMEDY}"
            )
    if gone := [name for name in (KEY, *card.columns) if name not in source.schema.names]:
        raise StepDiffError(
            f"{where} has no column {gone[0]!r}, which its checksums cover: {_REMEDY}"
        )
    names = covered(source.schema, card.columns)
    with readable(where):
        for batch in source.each([*names, CHECKSUM], _BLOCK):
            frame = frame_of(where, batch.select(names), source.nbytes)
            differ = text_checksums(frame) != _sums(batch)[:, 0]
            if differ.any():
                key = frame[KEY][int(differ.argmax())]
                raise StepDiffError(
                    f"{where}: key or metadata of {key!r} are not as they were exported: {_REMEDY}"
                )


def _sums(batch: pa.RecordBatch) -> UInt32[np.ndarray, "B sums"]:
    """Return the checksums of each row; a ValueError if a row lacks some."""
    values = batch.column(CHECKSUM).flatten().to_numpy(zero_copy_only=False)
    return values.astype(np.uint32, copy=False).reshape(batch.num_rows, -1)


class _Parquet:
    """Parquet files as one sequence of row groups; one is open at a time, because folders may have
    many."""

    versions = {"pyarrow": pa.__version__}
    noted: dict[str, str] = {}
    """provenance that the files name outside a card"""
    left_out: list[str] = []
    """datasets that are no columns"""
    null = "is null"

    def __init__(self, path: Path) -> None:
        """Read the beginnings of the row groups; files without rows are left out."""
        self._path = path
        self._paths: list[Path] = []
        self._groups: list[tuple[int, int]] = []  # file and number of each
        sizes: list[int] = []
        for file in _parquet_files(path):
            try:
                check_sizes(file)
            except (OSError, ValueError, IndexError, ImplausibleSizes) as error:
                raise StepDiffError(f"cannot read {file}: {one_line(error)}") from None
            with _open(file) as opened:
                counts = [
                    opened.metadata.row_group(group).num_rows
                    for group in range(opened.num_row_groups)
                ]
                if not self._paths:
                    self.schema = opened.schema_arrow
            if sum(counts):
                self._groups += [(len(self._paths), group) for group in range(len(counts))]
                sizes += counts
                self._paths.append(file)
        self.nbytes = sum(file.stat().st_size for file in self._paths)
        self._starts: Int64[np.ndarray, " starts"] = np.cumsum([0, *sizes], dtype=np.int64)
        """first row of each row group, and the end of the last"""
        self.count = int(self._starts[-1])
        self._file: tuple[int, pq.ParquetFile] | None = None
        # the group that is being read, its last batch with its first row, and the batches that
        # follow
        self._cursor: tuple[int, int, pa.RecordBatch, Iterator[pa.RecordBatch]] | None = None

    def check(self, used: Iterable[str], card: ExportCard | None) -> None:
        """Raise StepDiffError if a column is not the same in all files, or the folder lacks a
        part."""
        for number, path in enumerate(self._paths):
            schema = self._opened(number).schema_arrow
            for name in used:
                count, kind = schema.names.count(name), self.schema.field(name).type
                if count != 1 or schema.field(name).type != kind:
                    other = (
                        schema.field(name).type
                        if count == 1
                        else "there several times"
                        if count
                        else "not there"
                    )
                    raise StepDiffError(
                        f"column {name!r} is {other} in {path} and {kind} in the first file"
                    )
        if card and (self._path / cards.NAME).exists() and card.rows != self.count:
            raise StepDiffError(
                f"{self._path} has {self.count:,} rows and its card says {card.rows:,}: a part is "
                "missing"
            )

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all rows, in order, in batches of at most `rows` rows."""
        for number in range(len(self._paths)):
            yield from self._opened(number).iter_batches(rows, columns=list(columns))

    def end(self, places: Int[np.ndarray, " P"], start: int, size: int) -> int:
        """Return the end of the places (P, ascending) that are read with place number `start`:
        damage fails all."""
        group = np.searchsorted(self._starts, places[start], "right")
        return int(np.searchsorted(places, self._starts[group]))

    def batches(
        self, places: Int[np.ndarray, " K"], columns: list[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows at K ascending places of one row group.

        A later call goes on where an earlier one ended, so that rows in ascending order are decoded
        once.
        """
        group = int(np.searchsorted(self._starts, places[0], "right")) - 1
        rows = places - self._starts[group]
        cursor, self._cursor = self._cursor, None  # set again with each batch that can be decoded
        if cursor and cursor[0] == group and cursor[1] <= rows[0]:
            _, row, batch, rest = cursor
        else:
            file, number = self._groups[group]
            rest = self._opened(file).iter_batches(size, row_groups=[number], columns=columns)
            row, batch = 0, next(rest, None)
        while batch is not None:
            self._cursor = group, row, batch, rest
            here = rows[rows < row + batch.num_rows] - row
            rows = rows[len(here) :]
            if len(here) and here[-1] - here[0] == len(here) - 1:
                yield batch.slice(int(here[0]), len(here))  # neighbours, without a copy
            elif len(here):
                yield batch.take(pa.array(here))
            if not len(rows):
                return
            row += batch.num_rows
            self._cursor = None
            batch = next(rest, None)

    def _opened(self, number: int) -> pq.ParquetFile:
        """Return an open file, instead of the one before it."""
        if self._file is None or self._file[0] != number:
            self._file = number, _open(self._paths[number])
        return self._file[1]


def _open(path: Path) -> pq.ParquetFile:
    """Open a file; its texts are read as dictionaries, which take no more memory than in the
    file."""
    with readable(path):
        schema = pq.read_schema(path)
        texts = [
            f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
        ]
        return pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / UNFINISHED).exists():
        raise StepDiffError(f"{path} is an export that is not complete: repeat its command first")
    paths = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))
    if not paths:
        raise StepDiffError(f"{path} has no Parquet files: give a file or a folder with some")
    return paths


class _Lance:
    """A Lance dataset, read with the methods of `_Parquet`."""

    noted: dict[str, str] = {}
    left_out: list[str] = []
    null = "is null"

    def __init__(self, path: Path) -> None:
        stepdiff_core.require("the format lance", "export", ("lance",))
        import lance

        self.versions = {"pylance": lance.__version__}
        with readable(path), _without_panics():
            self._dataset = lance.dataset(str(path.absolute()))  # which reads the manifest only
            for fragment in self._dataset.get_fragments():
                if _has_base(fragment.metadata.to_json()):
                    raise StepDiffError(
                        f"{path} has base paths, which lead to files elsewhere: copy all into one "
                        "folder first (lance.write_dataset(lance.dataset(PATH), NEW))"
                    )
            self.count = self._dataset.count_rows()
            self.schema = self._dataset.schema
        self.nbytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if self.count > max(FREE_ROWS, ROWS_PER_BYTE * self.nbytes):
            raise StepDiffError(
                f"{path} declares {self.count:,} rows in {self.nbytes:,} bytes: damaged?"
            )

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        with _without_panics():
            batches = iter(
                self._dataset.to_batches(columns=list(columns), batch_size=min(rows, _KEY_ROWS))
            )
        while True:
            with _without_panics():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def end(self, places: Int[np.ndarray, " P"], start: int, size: int) -> int:
        return min(start + size, len(places))

    def batches(
        self, places: Int[np.ndarray, " K"], columns: list[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        with _without_panics():
            rows = self._dataset.take(places.tolist(), columns=columns)
        yield from rows.combine_chunks().to_batches()


@contextmanager
def _without_panics() -> Iterator[None]:
    """Keep Lance from printing panics to the standard error of the process: the exception has their
    text."""
    with _one_at_a_time:
        yield from _held_back()


def _held_back() -> Iterator[None]:
    sys.stderr.flush()
    try:
        shown = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with tempfile.TemporaryFile() as kept:
            os.dup2(kept.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(shown, 2)
                kept.seek(0)
                # what other threads have printed meanwhile
                if b" panicked at " not in (printed := kept.read()):
                    os.write(2, printed)
    finally:
        os.close(shown)


def _has_base(metadata: object) -> bool:
    """Return whether data, deletions or anything else of a fragment is at a base path instead of in
    the folder."""
    if isinstance(metadata, list):
        return any(map(_has_base, metadata))
    if not isinstance(metadata, dict):
        return False
    return metadata.get("base_id") is not None or any(map(_has_base, metadata.values()))
