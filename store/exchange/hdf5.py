"""Features in an HDF5 file: its rows for an import, and the file that an export writes.

Three layouts are read:

`array`: every dataset has a row for each clip, and one dataset of texts has the keys. `store
export` writes it: `keys`, `metadata` (one JSON object a row), `crc32c` and a dataset for each
feature. `datasets`: every dataset is a clip, and its path is the key. The feature is `tokens`, with
one axis `embedding`. `groups`: every group with datasets is a clip, and its path is the key. The
datasets in it are its features.

Guarantees
- no other file is opened: soft and external links, virtual datasets and external storage are
  refused
- memory holds the names of the datasets, one chunk of a dataset, and a batch
- objects, references, compound and opaque values are refused, and so are filters that HDF5 loads as
  plug-ins
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int, Shaped

import stepdiff_core
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular
from store.exchange.arrow import (
    BATCH_BYTES,
    CHECKSUM,
    KEY,
    feature_fields,
    one_line,
    readable,
    row_texts,
    row_values,
)
from store.exchange.card import ExportCard, read_card
from store.exchange.parquet_sizes import BYTES_PER_BYTE, FREE_BYTES
from store.provenance import RowValues
from store.verbs.options import Layout

KEYS, METADATA, CARD, SCHEMA = "keys", "metadata", "stepdiff", "arrow_schema"
"""datasets and attributes of an exported file"""
NOTED = ("encoder", "weights", "layer", "frames", "crop")
"""attributes of a file that say how its features were computed"""
_MOST_CHUNK = 2**30  # bytes that are decompressed at once
_MOST_TEXT = 2**30  # bytes of texts that are read at once, if each is as long as the file
_MOST_DEPTH = 32
_MOST_GROUP = 100  # datasets of one group, at most, where a group is a clip


class _Dataset(NamedTuple):
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    """None: texts"""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 1)


class Hdf5:
    """An HDF5 file, read with the methods of `store.exchange.readers._Parquet`."""

    null = "is missing, or has another shape or dtype than most"

    def __init__(self, path: Path, layout: Layout | None) -> None:
        stepdiff_core.require("the format hdf5", "export", ("h5py",))
        import h5py

        self.versions = {"h5py": h5py.__version__}
        open_regular(path, "an HDF5 file").close()
        self.nbytes = path.stat().st_size
        self.left_out: list[str] = []
        self._path = path
        with readable(path), _reading(path):
            self._file = h5py.File(path, "r", rdcc_nbytes=2 * BATCH_BYTES)
            self._texts = {
                name: text
                for name in (*NOTED, CARD, SCHEMA)
                if (text := _attribute(self._file, name))
            }
            datasets = _datasets(path, self._file)
        self.noted = {name: self._texts[name] for name in NOTED if name in self._texts}
        total = sum(dataset.nbytes for dataset in datasets)
        if total > max(FREE_BYTES, BYTES_PER_BYTE * self.nbytes):
            raise StepDiffError(
                f"{path} declares {total:,} bytes in {self.nbytes:,} bytes: damaged?"
            )
        self.layout = layout or _layout(path, datasets)
        self._places: dict[str, list[str | None]] = {}
        """column -> the dataset of each clip"""
        if self.layout == "array":
            self._arrange_arrays(datasets)
        else:
            self._arrange_clips(datasets)

    def _arrange_arrays(self, datasets: Sequence[_Dataset]) -> None:
        rows = [dataset for dataset in datasets if dataset.shape]
        self.left_out = [dataset.path for dataset in datasets if not dataset.shape]
        lengths = Counter(dataset.shape[0] for dataset in rows)
        if len(lengths) > 1:
            other = next(dataset for dataset in rows if dataset.shape[0] != rows[0].shape[0])
            raise StepDiffError(
                f"{self._path} has {rows[0].shape[0]:,} rows of {rows[0].path} and "
                f"{other.shape[0]:,} of {other.path}: give a file whose datasets have one length, "
                "or --layout"
            )
        self.count = rows[0].shape[0] if rows else 0
        metadata, fields, exported = {}, [], {}
        if CARD in self._texts:
            metadata = {CARD: self._texts[CARD]}
            card = read_card(self._texts[CARD].encode())
            with readable(self._path):
                schema = pa.ipc.read_schema(
                    pa.py_buffer(base64.b64decode(self._texts.get(SCHEMA, "")))
                )
                exported = {
                    name: schema.field(name) for name in card.columns if name in schema.names
                }
        for dataset in rows:
            if dataset.path != METADATA or not exported:
                name = KEY if dataset.path == KEYS and metadata else dataset.path
                fields.append(_field(name, dataset.dtype, dataset.shape[1:]))
                self._places[name] = [dataset.path]
        self.schema = pa.schema([*fields, *exported.values()], metadata)
        self._exported = list(exported)

    def _arrange_clips(self, datasets: Sequence[_Dataset]) -> None:
        self._exported = []
        keys: dict[str, int] = {}
        kinds: dict[str, Counter[tuple[np.dtype | None, tuple[int, ...]]]] = {}
        places: dict[str, dict[int, str]] = {}
        for dataset in datasets:
            group, _, leaf = dataset.path.rpartition("/")
            key, name = (group, leaf) if self.layout == "groups" else (dataset.path, "")
            if dataset.dtype is None and dataset.shape or not key:
                self.left_out.append(dataset.path)
                continue
            row = keys.setdefault(key, len(keys))
            kinds.setdefault(name, Counter())[dataset.dtype, dataset.shape] += 1
            places.setdefault(name, {})[row] = dataset.path
        fields = [pa.field(KEY, pa.string())]
        self.count, self._keys = len(keys), list(keys)
        for name, counts in kinds.items():
            dtype, shape = counts.most_common(1)[0][0]
            column = name or ("tokens" if len(shape) > 1 else "embedding")
            fields.append(_field(column, dtype, shape))
            self._places[column] = [places[name].get(row) for row in range(self.count)]
        self.schema = pa.schema(fields)

    def each(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, self.count, rows):
            yield self._batch(np.arange(start, min(start + rows, self.count)), columns)

    def end(self, places: Int[np.ndarray, " P"], start: int, size: int) -> int:
        return min(start + size, len(places)) if self.layout == "array" else start + 1

    def batches(
        self, places: Int[np.ndarray, " K"], columns: list[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        yield self._batch(places, columns)

    def _batch(self, places: Int[np.ndarray, " K"], columns: Sequence[str]) -> pa.RecordBatch:
        taken = pa.schema([self.schema.field(name) for name in columns])
        exported = [name for name in columns if name in self._exported]
        with _reading(self._path):
            parsed = [json.loads(text) for text in self._text(METADATA, places)] if exported else []
            arrays = [
                pa.array([row[field.name] for row in parsed], field.type)
                if field.name in exported
                else self._array(field, places)
                for field in taken
            ]
        return pa.RecordBatch.from_arrays(arrays, schema=taken)

    def _array(self, field: pa.Field, places: Int[np.ndarray, " K"]) -> pa.Array:
        """Return some rows of a column; null if a clip has no dataset of the column's shape and
        dtype."""
        if self.layout == "array":
            path = str(self._places[field.name][0])
            if pa.types.is_string(field.type):
                return pa.array(self._text(path, places), pa.binary()).cast(pa.string())
            return _array(field.type, self._rows(path, places))
        if field.name == KEY:
            return pa.array([self._keys[place] for place in places])
        paths = [self._places[field.name][place] for place in places]
        dtype, shape = _kind(field)
        values, missing = np.zeros((len(paths), *shape), dtype), np.ones(len(paths), bool)
        for place, path in enumerate(paths):
            dataset = None if path is None else self._file[path]
            if dataset is not None and (_native(dataset.dtype), dataset.shape) == (dtype, shape):
                values[place] = dataset[()]
                missing[place] = False
        if dtype.kind == "O":
            texts = [
                None if miss else _bytes(text) for text, miss in zip(values, missing, strict=True)
            ]
            return pa.array(texts, pa.binary()).cast(pa.string())
        return _array(field.type, values, missing)

    def _rows(self, path: str, places: Int[np.ndarray, " R"]) -> RowValues:
        """Return rows of an array at ascending places; neighbours are read together."""
        dataset = self._file[path]
        values = np.empty((len(places), *dataset.shape[1:]), _native(dataset.dtype))
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            if len(run):
                rows = slice(int(places[run[0]]), int(places[run[-1]]) + 1)
                dataset.read_direct(values, rows, slice(int(run[0]), int(run[-1]) + 1))
        return values

    def _text(self, path: str, places: Int[np.ndarray, " K"]) -> list[bytes]:
        """Return texts of an array at ascending places; few at a time, since all may be one long
        text."""
        count = max(_MOST_TEXT // self.nbytes, 16)
        parts = (places[at : at + count] for at in range(0, len(places), count))
        dataset, texts, total = self._file[path], [], 0
        for part in parts:
            first = int(part[0])
            block = (
                dataset[first : int(part[-1]) + 1]
                if len(part) == part[-1] - first + 1
                else dataset[part]
            )
            texts += [_bytes(text) for text in block]
            total += sum(map(len, texts[-len(part) :]))
            if total > max(_MOST_TEXT, BYTES_PER_BYTE * self.nbytes):
                raise StepDiffError(
                    f"{self._path} repeats text beyond {total:,} bytes: give a file without that"
                )
        return texts


def _datasets(path: Path, file: Any) -> list[_Dataset]:
    """Return the datasets of a file, by path. StepDiffError if one, or a link, leads elsewhere or
    is unusable."""
    from h5py import h5d, h5g, h5l, h5o

    datasets, groups, entered = [], [b"/"], {h5o.get_info(file["/"].id).addr}
    while groups:  # HDF5's own visit calls itself for each group in a group, until the stack ends
        prefix = groups.pop()
        links: list[tuple[bytes, int]] = []
        group = h5o.open(file.id, prefix)
        group.links.iterate(lambda name, info, to=links: to.append((name, info.type)), info=True)
        for name, kind in ((prefix + name, kind) for name, kind in links):
            text = name[1:].decode(errors="backslashreplace")
            if kind != h5l.TYPE_HARD:
                link = "a soft link" if kind == h5l.TYPE_SOFT else "an external link"
                raise StepDiffError(
                    f"{path}: {text} is {link}, which is not followed: copy the data into one file"
                )
            entry = h5o.open(file.id, name)
            if isinstance(entry, h5d.DatasetID):
                datasets.append(_dataset(path, text, entry))
            elif (
                isinstance(entry, h5g.GroupID)
                and (address := h5o.get_info(entry).addr) not in entered
            ):
                if name.count(b"/") > _MOST_DEPTH:
                    raise StepDiffError(
                        f"{path} has more than {_MOST_DEPTH} groups inside one another: damaged?"
                    )
                entered.add(address)
                groups.append(name + b"/")
    return sorted(datasets, key=lambda dataset: dataset.path)


def _dataset(path: Path, name: str, dataset: Any) -> _Dataset:
    from h5py import h5d, h5t, h5z

    where, plan, kind = f"{path}: dataset {name}", dataset.get_create_plist(), dataset.get_type()
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise StepDiffError(
            f"{where} is in other files, which are not read: copy the data into one file first"
        )
    usual = (
        h5z.FILTER_DEFLATE,
        h5z.FILTER_SHUFFLE,
        h5z.FILTER_FLETCHER32,
        h5z.FILTER_SZIP,
        h5z.FILTER_LZF,
    )
    for number in range(plan.get_nfilters()):
        code, _, _, title = plan.get_filter(number)
        if code not in usual or not h5z.filter_avail(code):
            title = title.decode(errors="backslashreplace") or str(code)
            raise StepDiffError(
                f"{where} has the filter {title!r}, which is not read: write it with gzip, lzf, "
                "szip or none"
            )
    names = {
        h5t.COMPOUND: "compound",
        h5t.OPAQUE: "opaque",
        h5t.REFERENCE: "reference",
        h5t.VLEN: "sequence",
    }
    text = kind.get_class() == h5t.STRING
    dtype = None if text or kind.get_class() in names else _native(dataset.dtype)
    if not text and (dtype is None or dtype.kind not in "fiub" or dtype.itemsize > 8):
        raise StepDiffError(
            f"{where} has values of type {names.get(kind.get_class(), dtype)}, which are not read: "
            "copy the texts and numbers that you need into a new file"
        )
    shape, size = dataset.shape or (), kind.get_size()  # None: without data
    if plan.get_layout() == h5d.CHUNKED and math.prod(plan.get_chunk()) * size > _MOST_CHUNK:
        raise StepDiffError(
            f"{where} has chunks of more than {_MOST_CHUNK:,} bytes, which are read whole: write "
            "it in smaller ones"
        )
    if text and len(shape) > 1:
        raise StepDiffError(f"{where} has texts in {len(shape)} axes: give one text a row")
    return _Dataset(name, shape, dtype)


def _layout(path: Path, datasets: Sequence[_Dataset]) -> Layout:
    """Return the layout of a file; StepDiffError if it cannot be seen."""
    if not datasets:
        raise StepDiffError(f"{path} has no datasets")
    rows = [dataset for dataset in datasets if dataset.shape]
    keys = [dataset for dataset in rows if dataset.dtype is None]
    if keys and len({dataset.shape[0] for dataset in rows}) == 1 and len(rows) > len(keys):
        return "array"
    groups = Counter(dataset.path.rpartition("/")[0] for dataset in datasets)
    leaves = Counter(dataset.path.rpartition("/")[2] for dataset in datasets)
    alike = (
        len({(dataset.dtype, len(dataset.shape)) for dataset in datasets}) == 1
        and datasets[0].dtype is not None
    )
    if "" not in groups and len(groups) > len(leaves):
        return "groups"
    if alike and len(leaves) == len(datasets) > (1 if list(groups) == [""] else _MOST_GROUP):
        return "datasets"
    raise StepDiffError(
        f"{path}: its names do not show what a clip is: give --layout array (each dataset has a "
        "row for every clip, one has the keys), datasets (a dataset is a clip) or groups (a group "
        "is a clip)"
    )


def _field(name: str, dtype: np.dtype | None, shape: tuple[int, ...]) -> pa.Field:
    """Return the Arrow field of a column whose rows have a shape."""
    if dtype is None:
        return pa.field(name, pa.string())
    leaf = pa.from_numpy_dtype(dtype)
    if not shape:
        return pa.field(name, leaf)
    return pa.field(
        name, pa.list_(leaf, math.prod(shape)), metadata={"shape": json.dumps(list(shape))}
    )


def _kind(field: pa.Field) -> tuple[np.dtype, tuple[int, ...]]:
    """Return dtype and shape of a row of a column that `_field` returned."""
    shape = tuple(json.loads(field.metadata[b"shape"])) if field.metadata else ()
    leaf = field.type.value_type if field.metadata else field.type
    return np.dtype(leaf.to_pandas_dtype()), shape


def _array(
    kind: pa.DataType, values: RowValues, missing: Shaped[np.ndarray, " R"] | None = None
) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind, mask=missing)
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), kind.list_size, mask=mask
    )


def _native(dtype: np.dtype) -> np.dtype:
    """Return the dtype in the byte order of this machine; texts are objects."""
    return np.dtype(object) if dtype.kind == "S" else dtype.newbyteorder("=")


def _bytes(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _attribute(file: Any, name: str) -> str | None:
    """Return an attribute that is one text; None if it does not exist or is something else."""
    from h5py import h5a, h5t

    if (
        name not in file.attrs
        or h5a.open(file.id, name.encode()).get_type().get_class() != h5t.STRING
    ):
        return None
    value = file.attrs[name]
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn exceptions of h5py on damaged files into an OSError."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError) as error:
        raise OSError(one_line(error)) from error


def exported_card(path: Path) -> ExportCard:
    """Return the card in a file of an export; FileNotFoundError without a file, StepDiffError
    without a card."""
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        return read_card((Hdf5(path, "array").schema.metadata or {}).get(CARD.encode(), b""))
    except StepDiffError as error:
        raise StepDiffError(
            f"{path} holds no export ({error}): give the name of a new file"
        ) from None


def write_hdf5(path: Path, batches: pa.RecordBatchReader, rows: int) -> None:
    """Write an export of `rows` rows. A disk that refuses raises OSError."""
    import h5py

    fields, features = batches.schema, feature_fields(batches.schema)
    card = read_card(fields.metadata[CARD.encode()])
    # Readers since HDF5 1.8; without it no attribute has more than 64 KiB.
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        file.attrs.update({name: str(card.provenance[name]) for name in NOTED})
        file.attrs[CARD] = fields.metadata[CARD.encode()].decode()
        file.attrs[SCHEMA] = base64.b64encode(fields.serialize()).decode()
        for name, feature in features.items():
            file.create_dataset(name, (rows, *feature.shape), feature.dtype)
        for name in (KEYS, METADATA) if card.columns else (KEYS,):
            file.create_dataset(name, (rows,), h5py.string_dtype())
        file.create_dataset(CHECKSUM, (rows, fields.field(CHECKSUM).type.list_size), "uint32")
        start = 0
        for batch in batches:
            part = slice(start, start + batch.num_rows)
            for name, feature in features.items():
                file[name][part] = row_values(batch, name, feature.shape)
            file[KEYS][part] = batch[KEY].to_pylist()
            if card.columns:
                file[METADATA][part] = row_texts(
                    pl.DataFrame(pl.from_arrow(batch.select([KEY, *card.columns])))
                )
            file[CHECKSUM][part] = row_values(batch, CHECKSUM, file[CHECKSUM].shape[1:])
            start = part.stop
