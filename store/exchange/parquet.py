"""Parquet files: the parts of an export, for any reader of Parquet and for `datasets.load_dataset`; and imports.

`parquet`: a feature is a fixed-size list of its flattened row. The canonical Arrow type `fixed_shape_tensor` would also
have the shape, but `datasets` refuses it; so the shape is in the field's metadata.
`huggingface`: features of two to five axes are nested lists, which `datasets` opens as Array2D to Array5D.

Guarantees
- a Parquet file that declares more than its size can hold is refused before it is decoded
- a row group that cannot be decoded makes its rows fail, and no others
"""

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _stepdiff

_stepdiff.require("store.exchange", "export", ("pyarrow",))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int64

from common.errors import StepDiffError
from common.io.files import open_regular
from common.io.parquet_sizes import ImplausibleSizes, check_sizes
from store.exchange import card as cards
from store.exchange.columns import (
    KEY_ROWS,
    ColumnRows,
    Read,
    check_same,
    fill,
    is_damage,
    layout,
    one_line,
    ragged_columns,
    readable,
    texts_of,
)
from store.provenance import Feature

_AXES = range(2, 6)
"""of Array2D to Array5D"""
_BLOCK = 2**18  # rows of a block of metadata
_SAMPLE = 64  # rows that say the length of lists


def write_part(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], features: Mapping[str, Any]) -> None:
    """Write one part. Each batch is a row group; features are neither compressed nor given statistics."""
    about = [name for name in schema.names if name not in features]
    packing = {name: "zstd" for name in about}
    for name in features:
        kind, leaf = schema.field(name).type, name
        while pa.types.is_fixed_size_list(kind):
            kind, leaf = kind.value_type, f"{leaf}.list.element"
        packing[leaf] = "none"
    with pq.ParquetWriter(
        path,
        schema,
        compression=packing,
        use_dictionary=about,
        write_statistics=about,
        write_page_checksum=True,
        version="2.6",
    ) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=batch.num_rows)


def nested(batch: pa.RecordBatch, schema: pa.Schema, features: Mapping[str, Feature]) -> pa.RecordBatch:
    """Return the batch with its features as the nested lists of `datasets_schema`, which share their memory."""
    arrays = []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if name in features and len(features[name].shape) in _AXES:
            array = array.flatten()
            for length in reversed(features[name].shape):
                array = pa.FixedSizeListArray.from_arrays(array, length)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def datasets_schema(schema: pa.Schema, features: Mapping[str, Feature]) -> tuple[pa.Schema, dict[str, Any]]:
    """Return the schema of a Hugging Face dataset, and the YAML of its card that says the same.

    Raises StepDiffError where `datasets` has no type for a column.
    """
    fields: list[pa.Field] = []
    in_file: dict[str, Any] = {}
    in_card: list[dict[str, Any]] = []
    for field in schema:
        if field.name in features:
            feature = features[field.name]
            shape, axes = list(feature.shape), len(feature.shape)
            if axes in _AXES:
                kind = field.type.value_type
                for length in reversed(shape):
                    kind = pa.list_(kind, length)
                field = pa.field(field.name, kind, metadata=field.metadata)
                tensor: dict[str, Any] = {"shape": shape, "dtype": feature.dtype}
                in_file[field.name] = {**tensor, "_type": f"Array{axes}D"}
                in_card.append({"name": field.name, "dtype": {f"array{axes}_d": tensor}})
            else:
                size = field.type.list_size
                of: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
                in_file[field.name] = {"feature": of, "length": size, "_type": "List"}
                in_card.append({"name": field.name, "list": feature.dtype, "length": size})
        else:
            in_file[field.name], more = _column(field.name, field.type)
            in_card.append({"name": field.name, **more})
        fields.append(field)
    noted = json.dumps({"info": {"features": in_file}})
    return pa.schema(fields, {**(schema.metadata or {}), b"huggingface": noted.encode()}), {"features": in_card}


def _column(name: str, kind: pa.DataType) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the type of a metadata column, as in a file and as in a card."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inside, _ = _column(name, kind.value_type)
        if "dtype" in inside:
            size = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
            return {"feature": inside, **size, "_type": "List"}, {"list": inside["dtype"], **size}
    plain = {pa.bool_(): "bool", pa.float64(): "float64", pa.float32(): "float32", pa.float16(): "float16"}
    text = plain.get(kind, str(kind).removesuffix("[day]"))
    if not isinstance(kind, pa.ListType | pa.FixedSizeListType | pa.StructType | pa.DictionaryType | pa.Decimal128Type):
        return {"dtype": text, "_type": "Value"}, {"dtype": text}
    raise StepDiffError(f"column {name} is {kind}, which a Hugging Face dataset lacks: leave it out with --columns")


@dataclass
class Groups:
    """Rows of several Parquet files, in row groups."""

    paths: list[Path]
    starts: Int64[np.ndarray, " starts"]
    """first row of each row group, and the end of the last"""
    owners: list[tuple[int, int]]
    """file and number of each row group"""
    _open: "tuple[int, int, pa.RecordBatch, Iterator[pa.RecordBatch]] | None" = None
    """the group that is being read, its last batch with its first row, and those that follow"""
    _file: tuple[int, pq.ParquetFile] | None = None

    def file(self, number: int) -> pq.ParquetFile:
        """Return an open file; the one before it is closed, because folders may have more files than can be open."""
        if self._file is None or self._file[0] != number:
            self.close()
            self._file = number, _parquet_file(self.paths[number])
        return self._file[1]

    def close(self) -> None:
        """Close the open file."""
        self._open = None
        if self._file is not None:
            self._file[1].close()
            self._file = None

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all files, in order, in batches of at most `rows` rows."""
        for number in range(len(self.paths)):
            yield from self.file(number).iter_batches(rows, columns=list(columns))

    def batches(
        self, group: int, first: int, columns: Sequence[str], size: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the batches of a row group from its row `first` on, each with its first row.

        A later call goes on where an earlier one ended, so that rows in ascending order are decoded once.
        """
        if self._open and self._open[0] == group and self._open[1] <= first:
            _, row, batch, rest = self._open
        else:
            file, number = self.owners[group]
            rest = self.file(file).iter_batches(size, row_groups=[number], columns=list(columns))
            row, batch = 0, next(rest, None)
        while batch is not None:
            self._open = group, row, batch, rest
            if row + batch.num_rows > first:
                yield row, batch
            row += batch.num_rows
            batch = next(rest, None)

    def forget(self) -> None:
        """Read from the beginning of a row group next."""
        self._open = None


@dataclass
class ParquetRows(ColumnRows):
    """Rows of Parquet files."""

    groups: Groups

    def _about(self) -> Iterator[pa.RecordBatch]:
        return self.groups.each(self.layout.about, _BLOCK)

    def read(self, places: Int[np.ndarray, " P"]) -> Read:
        """Return the features of the rows at `places`."""
        features = self._empty(len(places))
        reasons: dict[int, str] = {}
        order = np.argsort(places, kind="stable")
        sorted_places = places[order]
        columns = self._columns()
        size = self._at_once()
        for group in np.unique(np.searchsorted(self.groups.starts, sorted_places, "right") - 1).tolist():
            start, end = self.groups.starts[group], self.groups.starts[group + 1]
            low, high = np.searchsorted(sorted_places, (start, end))
            try:
                while low < high:
                    first = int(sorted_places[low] - start)
                    for row, batch in self.groups.batches(group, first, columns, size):
                        stop = int(np.searchsorted(sorted_places, start + row + batch.num_rows))
                        some = sorted_places[low:stop] - start - row
                        fill(features, reasons, self.layout, _taken(batch, some), order[low:stop])
                        low = stop
                        if low >= high:
                            break
                    else:
                        raise OSError("its rows end too early")
            except BaseException as error:
                if not is_damage(error):
                    raise
                self.groups.forget()
                reasons.update((int(at), f"cannot be read ({one_line(error)})") for at in order[low:high])
        return features, reasons


@contextmanager
def parquet_rows(
    path: Path, keys: str | None, features: Sequence[str], columns: Sequence[str]
) -> Iterator[ParquetRows]:
    """Yield the rows of a Parquet file, or of all below a folder, by name.

    Other arguments as of `columns.layout`. Raises StepDiffError where they cannot be used.
    """
    groups = _groups(_parquet_files(path))
    count = int(groups.starts[-1])
    try:
        if not count:
            raise StepDiffError(f"{path} has no rows")
        first = groups.file(0).schema_arrow
        with readable(path):
            ragged = ragged_columns(first)
            sample = next(groups.each(ragged, _SAMPLE)) if ragged else None
        taken = layout(str(path), first, sample, keys, features, columns)
        used = [taken.keys, *taken.about, *(column.name for column in taken.features.values())]
        for number, file in enumerate(groups.paths):
            check_same(str(file), groups.file(number).schema_arrow, first, used)
        if taken.card and (path / cards.NAME).exists() and taken.card.rows != count:
            raise StepDiffError(f"{path} has {count:,} rows and its card says {taken.card.rows:,}: a part is missing")
        nbytes = sum(file.stat().st_size for file in groups.paths)
        with readable(path):
            found = (batch.column(0) for batch in groups.each([taken.keys], KEY_ROWS))
            texts = texts_of(str(path), found, nbytes)
        yield ParquetRows(str(path), taken, nbytes, texts, {"pyarrow": pa.__version__}, groups)
    finally:
        groups.close()


def _parquet_file(path: Path) -> pq.ParquetFile:
    """Open a file; its texts are read as dictionaries, which take no more memory than in the file."""
    with readable(path):
        schema = pq.read_schema(path)
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        return pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)


def _groups(paths: list[Path]) -> Groups:
    """Return the row groups of the files that have rows."""
    filled: list[Path] = []
    owners: list[tuple[int, int]] = []
    sizes: list[int] = []
    for path in paths:
        _check_size(path)
        with _parquet_file(path) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        if sum(counts):
            owners += [(len(filled), group) for group in range(len(counts))]
            sizes += counts
            filled.append(path)
    return Groups(filled, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), owners)


def _taken(batch: pa.RecordBatch, rows: Int[np.ndarray, " K"]) -> pa.RecordBatch:
    """Return ascending rows of a batch; without a copy where they are neighbours."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return batch.slice(int(rows[0]), len(rows))
    return batch.take(pa.array(rows))


def _parquet_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / cards.ROWS).exists():
        raise StepDiffError(f"{path} is an export that is not complete: repeat its command first")
    found = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))
    if not found:
        raise StepDiffError(f"{path} has no Parquet files: give a file or a folder with some")
    return found


def _check_size(path: Path) -> None:
    try:
        with open_regular(path, "a Parquet file") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            check_sizes(data)
    except (OSError, ValueError, IndexError, ImplausibleSizes) as error:
        raise StepDiffError(f"cannot read {path}: {one_line(error)}") from None
