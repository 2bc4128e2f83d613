"""Export of the finished rows of a view to Parquet, Lance, HDF5, Hugging Face datasets or
WebDataset.

The rows of whole shards of the view are one part, which is written whole to `.unfinished/`. When
all parts exist, that folder becomes `data/` (Lance: one commit), and the card for readers is
written. A run that finds the card of an equal export in the folder, with the same options and the
same rows, skips the parts that exist.

`parquet`: a feature is a fixed-size list of its flattened row. The canonical Arrow type
`fixed_shape_tensor` would also have the shape, but `datasets` refuses it; so the shape is in the
field's metadata. `huggingface`: Parquet in which features of two to five axes are nested lists,
which `datasets` opens as Array2D to Array5D.
`webdataset`: a tar file with KEY.FEATURE.npy for each feature, and KEY.json. Readers split the name
of a file at its first dot, and take the rest as the field. A key is therefore percent-encoded:
ASCII letters, digits, `_`, `-` and `~` stay, every other byte of its UTF-8, dots and slashes too,
is %XX. The JSON has the key as it is, and the metadata. `lance`: the data files of a part, and a
JSON record of them; one commit at the end makes all parts version 1 of the dataset. Until then the
folder is no Lance dataset. `hdf5`: one file, which is written under a temporary name: a killed
export begins again.

All have the checksums of `store.exchange.arrow.with_checksums`, which an import compares.

Guarantees
- a killed export continues or begins again, and ends with the same content; until then no reader
  finds rows
- an export with other options, or of a store that changed, is refused, and so is a second run at
  the same time
- memory holds a batch, and two bytes a row of the view; a damaged row is never exported
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

import stepdiff_core
from stepdiff_core.errors import StepDiffError, some
from stepdiff_core.io.files import place, write_text
from stepdiff_core.io.local import LocalPath, sync_file, sync_folder
from stepdiff_core.io.locks import locked
from stepdiff_core.progress import progress
from store.exchange import card as cards
from store.exchange.arrow import (
    CHECKSUM,
    feature_fields,
    is_plain,
    one_line,
    readable,
    record_batches,
    row_values,
    schema,
    with_checksums,
)
from store.exchange.card import ExportCard
from store.exchange.hdf5 import KEYS, METADATA, exported_card, write_hdf5
from store.feature_store import Store
from store.verbs.options import SUFFIXES, Format, StoreExportOptions
from store.view import OK, View

UNFINISHED = ".unfinished"
"""folder of the parts of an export that is not complete; no reader looks into it"""
_AXES = range(2, 6)
"""of Array2D to Array5D"""

Write = Callable[[Path, pa.RecordBatchReader], None]


def check_schema(format: str, fields: pa.Schema) -> None:
    """Raise StepDiffError if a format cannot hold these columns."""
    if CHECKSUM in fields.names:
        raise StepDiffError(
            f"{CHECKSUM} is the column of checksums in an export: leave out the feature or column "
            "of that name with --features or --columns"
        )
    if format != "parquet":
        module = {"hdf5": "h5py", "huggingface": "datasets"}.get(format, format)
        stepdiff_core.require(f"the format {format}", "export", (module,))
    if format == "hdf5":
        features = feature_fields(fields)
        if clash := {KEYS, METADATA} & features.keys():
            raise StepDiffError(
                f"feature {min(clash)} has the name of another dataset: leave it out with "
                "--features"
            )
        for field in fields:
            if field.name not in features and not is_plain(field.type):
                lacks = f"column {field.name} is {field.type}, which an HDF5 export lacks"
                raise StepDiffError(f"{lacks}: leave it out with --columns")
    if format == "huggingface":
        datasets_schema(fields)
    if format == "webdataset":
        for name in feature_fields(fields):
            if name != name.lower():
                raise StepDiffError(
                    f"feature {name} has upper case letters, which readers of WebDataset make "
                    "lower case: leave it out with --features, or choose another format"
                )


def write_parquet(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write a part. Each batch is a row group; features are neither compressed nor given
    statistics."""
    metadata = [field.name for field in batches.schema if not field.metadata]
    packing = dict.fromkeys(metadata, "zstd")
    for field in batches.schema:
        kind, leaf = field.type, field.name
        while field.metadata and pa.types.is_fixed_size_list(kind):
            kind, leaf = kind.value_type, f"{leaf}.list.element"
        packing.setdefault(leaf, "none")
    with pq.ParquetWriter(
        path,
        batches.schema,
        compression=packing,
        use_dictionary=metadata,
        write_statistics=metadata,
        write_page_checksum=True,
        version="2.6",
    ) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=batch.num_rows)


def write_huggingface(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write a part, with the features as nested lists, which share the memory of the batches."""
    features, (fields, _) = feature_fields(batches.schema), datasets_schema(batches.schema)

    def nested() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            arrays = []
            for name, array in zip(batch.schema.names, batch.columns, strict=True):
                if name in features and len(features[name].shape) in _AXES:
                    array = array.flatten()
                    for length in reversed(features[name].shape):
                        array = pa.FixedSizeListArray.from_arrays(array, length)
                arrays.append(array)
            yield pa.RecordBatch.from_arrays(arrays, schema=fields)

    write_parquet(path, pa.RecordBatchReader.from_batches(fields, nested()))


def datasets_schema(fields: pa.Schema) -> tuple[pa.Schema, Any]:
    """Return the schema of a Hugging Face dataset, and its types; StepDiffError if a column has
    none there."""
    import datasets

    features, columns, types = feature_fields(fields), [], {}
    for field in fields:
        shape = features[field.name].shape if field.name in features else ()
        if len(shape) in _AXES:
            types[field.name] = getattr(datasets, f"Array{len(shape)}D")(
                shape, features[field.name].dtype
            )
            kind = field.type.value_type
            for length in reversed(shape):
                kind = pa.list_(kind, length)
            field = pa.field(field.name, kind, metadata=field.metadata)
        else:
            try:
                types[field.name] = datasets.Features.from_arrow_schema(pa.schema([field]))[
                    field.name
                ]
            except ValueError:
                lacks = f"column {field.name} is {field.type}, which a Hugging Face dataset lacks"
                raise StepDiffError(f"{lacks}: leave it out with --columns") from None
        columns.append(field)
    named = datasets.Features(types)
    return pa.schema(columns, {**(fields.metadata or {}), **named.arrow_schema.metadata}), named


def dataset_info(fields: pa.Schema) -> dict[str, Any]:
    """Return the header of a README that tells `datasets` the types: it does not take them from the
    files."""
    import datasets
    from huggingface_hub import DatasetCardData

    header = DatasetCardData()
    _, types = datasets_schema(fields)
    datasets.info.DatasetInfosDict(
        default=datasets.DatasetInfo(features=types)
    ).to_dataset_card_data(header)
    return {"dataset_info": header.to_dict()["dataset_info"]}


def write_webdataset(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write a part."""
    import webdataset

    features = feature_fields(batches.schema)
    metadata = [name for name in batches.schema.names if name not in features]
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0) as tar:
        for batch in batches:
            arrays = {
                f"{name}.npy": row_values(batch, name, feature.shape)
                for name, feature in features.items()
            }
            for row, fields in enumerate(batch.select(metadata).to_pylist()):
                key = quote(fields["key"], safe="").replace(".", "%2E")
                values = {name: array[row] for name, array in arrays.items()}
                tar.write({"__key__": key, **values, "json": _as_json(fields)})


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite become null, dates ISO 8601
    texts."""
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_lance(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write the data files of a part into the dataset two folders above `path`, and the record of
    them to `path`."""
    from lance.fragment import write_fragments

    root = path.parent.parent
    try:
        fragments = write_fragments(batches, str(root), schema=batches.schema, mode="create")
    except (OSError, ValueError) as error:
        raise StepDiffError(f"cannot write {root}: {one_line(error)}") from error
    record = [fragment.to_json() for fragment in fragments]
    for name in _files(record):
        sync_file(root / "data" / name)
    sync_folder(root / "data")
    path.write_text(json.dumps(record))


WRITERS: Mapping[str, tuple[str, Write]] = {
    "parquet": ("part-{:06d}.parquet", write_parquet),
    "huggingface": ("part-{:06d}.parquet", write_huggingface),
    "webdataset": ("features-{:06d}.tar", write_webdataset),
    "lance": ("part-{:06d}.json", write_lance),
}
"""name of the file of a part, with its number, and the function that writes it"""


def is_whole(path: Path, format: str) -> bool:
    """Return whether the parts of an export are readable as one."""
    if format == "hdf5":
        return path.is_file()
    # Lance writes NAME.manifest#1 and links it to NAME.manifest: only with the link a version
    # exists.
    return (
        any((path / "_versions").glob("*.manifest"))
        if format == "lance"
        else (path / "data").is_dir()
    )


def prepare(path: LocalPath, format: str) -> None:
    """Make the folder of unfinished parts, and remove parts that a killed export left
    unfinished."""
    unfinished = path / UNFINISHED
    unfinished.make_folder()
    unfinished.remove_dead(deep=False)
    if format == "lance":
        recorded = _files(_fragments(unfinished))
        for file in (
            file
            for name in ("_versions", "_transactions", "data")
            for file in (path / name).glob("*")
        ):
            if file.parent.name != "data" or file.name not in recorded:
                file.remove()


def finish(path: LocalPath, format: str, fields: pa.Schema, rows: int) -> None:
    """Make the parts readable as one, if they are not; StepDiffError if files or rows are
    missing."""
    unfinished = path / UNFINISHED
    if format != "lance":
        if not is_whole(path, format):
            unfinished.rename(path / "data")
        return
    import lance

    if not is_whole(path, format):
        fragments = [
            lance.FragmentMetadata.from_json(json.dumps(one)) for one in _fragments(unfinished)
        ]
        lance.LanceDataset.commit(str(path), lance.LanceOperation.Overwrite(fields, fragments))
        for file in (path / "_versions").iterdir():
            sync_file(file)
        sync_folder(path / "_versions")
    if (count := lance.dataset(str(path)).count_rows()) != rows:
        raise StepDiffError(f"{path} has {count:,} of {rows:,} rows: remove it and export again")
    unfinished.remove()


def data_files(path: LocalPath, format: str, parts: int) -> list[Path]:
    """Return the data files that a whole export has, missing ones too."""
    if format != "lance":
        return [path / "data" / WRITERS[format][0].format(number) for number in range(parts)]
    import lance

    fragments = [
        fragment.metadata.to_json() for fragment in lance.dataset(str(path)).get_fragments()
    ]
    return [path / "data" / name for name in _files(fragments)]


def _fragments(unfinished: LocalPath) -> list[dict[str, Any]]:
    """Return the fragments of all parts of a Lance dataset, in their order."""
    records = (json.loads(record.read_bytes()) for record in sorted(unfinished.glob("*.json")))
    return [fragment for record in records for fragment in record]


def _files(fragments: list[dict[str, Any]]) -> list[str]:
    """Return the names of the data files of fragments."""
    return [file["path"] for fragment in fragments for file in fragment["files"]]


PART_BYTES = 256 * 2**20
"""bytes of features in a part, at most about, if a shard has fewer"""
_LOCK = "_export.lock"
_MOST_CARD = 64 * 2**20


def export(options: StoreExportOptions) -> dict[str, Any]:
    """Export the missing files. StepDiffError if the view lacks a feature, or the files cannot be
    written.

    Returns the content of the export: counts of its card, `parts`, those that an earlier run wrote
    (`already`), `bytes` of all files.
    """
    begin = time.monotonic()
    format = options.format or SUFFIXES.get(Path(options.path).suffix.lower())
    if format is None:
        raise StepDiffError(
            f"the name {options.path} has no known suffix: give --format "
            f"{'|'.join(get_args(Format))}"
        )
    if place(options.path).remote:
        raise StepDiffError(f"{options.path} is not a local path: export to a folder, then copy it")
    path, store = LocalPath(options.path), Store.open(options.store)
    view = store.view(options.entity, options.view, check="always")
    fields = schema(view, options.features or None, options.columns or None, options.dtype)
    check_schema(format, fields)
    features = feature_fields(fields)
    shard_bytes = view.rows_per_shard * sum(feature.row_bytes for feature in features.values())
    ok = view.status() == OK
    shards = (
        len(ok) // view.rows_per_shard + 1
        if format == "hdf5"
        else max(PART_BYTES // shard_bytes, 1)
    )
    make_card = partial(cards.make_card, store, view, ok, shards, format, fields, options.license)
    with _only_run(path, format):
        card = _begin(path, make_card())
        fields = fields.append(pa.field(CHECKSUM, pa.list_(pa.uint32(), 1 + len(features))))
        fields = fields.with_metadata({"stepdiff": replace(card, parts=[], store="").as_json()})

        def check_unchanged() -> None:
            if differs := card.difference(make_card()):
                raise StepDiffError(
                    f"the store changed while {path} was written ({differs}): remove it, export "
                    "again"
                )

        already = len(card.parts)
        if not is_whole(path, format):
            size = shards * view.rows_per_shard
            already = _write_parts(path, card, view, ok, size, fields, options, check_unchanged)
            if format != "hdf5":  # which is compared before it has its name
                check_unchanged()
        if format != "hdf5":
            _finish_folder(path, card, fields)
    same = ("format", "entity", "view", "rows", "failed", "absent", "forgotten")
    return {
        "path": options.path,
        "store": store.location,
        **{name: getattr(card, name) for name in same},
        "parts": len(card.parts),
        "already": already,
        "bytes": sum(path.files().values()),
        "seconds": round(time.monotonic() - begin, 3),
        "how_to_open": card.how_to_open(options.path),
    }


def _finish_folder(path: LocalPath, card: ExportCard, fields: pa.Schema) -> None:
    """Make the parts readable as one and write the card for readers; StepDiffError if a file is
    missing."""
    with readable(path):
        finish(path, card.format, fields, card.rows)
        gone = [
            str(file)
            for file in data_files(path, card.format, len(card.parts))
            if not file.exists()
        ]
    if gone:
        raise StepDiffError(
            f"{some(gone, 1)} of a complete export is missing: restore it, or remove {path} and "
            "repeat"
        )
    header = dataset_info(fields) if card.format == "huggingface" else {}
    write_text(
        path / ("_README.md" if card.format == "parquet" else "README.md"),
        card.readme(path.name, header),
    )


@contextmanager
def _only_run(path: LocalPath, format: str) -> Iterator[None]:
    """Make the folder, and hold its lock: another run would remove the files of this one. HeldError
    names it."""
    kind = "folder" if format == "hdf5" else "file"
    if path.is_dir() if format == "hdf5" else path.is_file():
        raise StepDiffError(
            f"{path} is a {kind}: give the name of a new {'file' if format == 'hdf5' else 'folder'}"
        )
    folder, lock = (path.parent, f".{path.name}.lock") if format == "hdf5" else (path, _LOCK)
    folder.make_folder()
    with locked(folder / lock, wait=False):
        folder.remove_dead(deep=False)
        try:
            yield
        finally:
            (folder / lock).remove()
            if format != "hdf5":
                with suppress(OSError):  # it is empty if nothing could be exported
                    path.rmdir()


def _begin(path: LocalPath, card: ExportCard) -> ExportCard:
    """Return the card of the export in `path`, which begins with `card` or continues.

    Raises StepDiffError if `path` holds an export of another content, or no export.
    """
    try:
        if card.format == "hdf5":
            recorded = replace(exported_card(path), parts=card.parts, store=card.store)
        else:
            recorded = _recorded(path)
    except FileNotFoundError:
        if card.format != "hdf5" and any(file.name != _LOCK for file in path.iterdir()):
            raise StepDiffError(
                f"{path} holds other files: give the name of a new folder"
            ) from None
        if not card.rows:
            raise StepDiffError(
                f"view {card.view} of {card.entity} has no finished rows: run featurize first"
            ) from None
        if card.format != "hdf5":
            write_text(path / cards.NAME, card.as_json())
        return card
    if differs := recorded.difference(card):
        raise StepDiffError(
            f"{path} holds an export that differs: {differs}; give another name, or remove it"
        )
    return recorded


def _recorded(path: LocalPath) -> ExportCard:
    """Return the card in the folder of an export; FileNotFoundError if there is none."""
    try:
        return cards.read_card((path / cards.NAME).read_whole(_MOST_CARD))
    except StepDiffError as error:
        raise StepDiffError(
            f"{path} holds a damaged export ({error}): remove it and export again"
        ) from None


def _write_parts(
    path: LocalPath,
    card: ExportCard,
    view: View,
    ok: Bool[np.ndarray, " rows"],
    size: int,
    fields: pa.Schema,
    options: StoreExportOptions,
    check_unchanged: Callable[[], None],
) -> int:
    """Write the parts that do not exist, each of the rows in `size` slots of the view; return how
    many existed.

    `check_unchanged` is called before an HDF5 file gets its name.
    """
    name: str
    write: Write
    if card.format == "hdf5":
        name, write = "", partial(_write_file, path, card.rows, check_unchanged)
    else:
        name, write = WRITERS[card.format]
        prepare(path, card.format)
    already = 0
    with progress(f"export of {view.name}", card.rows) as advance:
        for number, (shard, count) in enumerate(card.parts):
            target = path / UNFINISHED / name.format(number) if name else path
            if target.exists():
                already += 1
                advance(count)
                continue
            start = shard * view.rows_per_shard
            rows = start + np.flatnonzero(ok[start : start + size])
            batches = record_batches(
                view, options.features or None, rows, None, list(card.columns), options.dtype
            )
            errors: list[StepDiffError] = []
            stream = pa.RecordBatchReader.from_batches(
                fields, _all_of(batches, fields, count, path, errors, advance)
            )
            try:
                with target.whole() as temp:
                    write(temp, stream)
            except Exception:
                if errors:  # which a library has wrapped
                    raise errors[0] from None
                raise
    return already


def _write_file(
    path: Path,
    rows: int,
    check_unchanged: Callable[[], None],
    temp: Path,
    batches: pa.RecordBatchReader,
) -> None:
    try:
        write_hdf5(temp, batches, rows)
    except (OSError, RuntimeError) as error:
        raise StepDiffError(f"cannot write {path}: {one_line(error)}") from error
    check_unchanged()


def _all_of(
    batches: Iterator[pa.RecordBatch],
    fields: pa.Schema,
    count: int,
    path: LocalPath,
    errors: list[StepDiffError],
    advance: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """Yield the batches with checksums.

    StepDiffError, also put into `errors`, if a row is damaged or they have not `count`.
    """
    try:
        for batch in batches:
            yield with_checksums(batch, fields)
            count -= batch.num_rows
            advance(batch.num_rows)
        if count:
            raise StepDiffError(
                f"{count} rows were withdrawn since the export began: remove {path} and export "
                "again"
            )
    except StepDiffError as error:
        errors.append(error)
        raise
