"""The writers of an export: each writes one part, the batches of one `RecordBatchReader`, as one file.

`parquet`: a feature is a fixed-size list of its flattened row. The canonical Arrow type `fixed_shape_tensor` would also
have the shape, but `datasets` refuses it; so the shape is in the field's metadata.
`huggingface`: Parquet in which features of two to five axes are nested lists, which `datasets` opens as Array2D to
Array5D.
`webdataset`: a tar file with KEY.FEATURE.npy for each feature, and KEY.json. Readers split the name of a file at its
first dot, and take the rest as the field. A key is therefore percent-encoded: ASCII letters, digits, `_`, `-` and `~`
stay, every other byte of its UTF-8, dots and slashes too, is %XX. The JSON has the key as it is, and the metadata.
`lance`: the data files of a part, and a JSON record of them; one commit at the end makes all parts version 1 of the
dataset. Until then the folder is no Lance dataset.
"""

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stepdiff
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.local import LocalPath, sync_file, sync_folder
from store.exchange.arrow import feature_fields, one_line, row_values

UNFINISHED = ".unfinished"
"""folder of the parts of an export that is not complete; no reader looks into it"""
_AXES = range(2, 6)
"""of Array2D to Array5D"""

Write = Callable[[Path, pa.RecordBatchReader], None]


def check_schema(format: str, fields: pa.Schema) -> None:
    """Raise StepDiffError where a format cannot hold these columns."""
    if format == "lance":
        stepdiff.require("the format lance", "export", ("lance",))
    if format == "huggingface":
        stepdiff.require("the format huggingface", "export", ("datasets",))
        datasets_schema(fields)
    if format == "webdataset":
        for name in feature_fields(fields):
            if name != name.lower():
                raise StepDiffError(
                    f"feature {name} has upper case letters, which readers of WebDataset make lower case: leave it out "
                    "with --features, or choose another format"
                )


def write_parquet(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write a part. Each batch is a row group; features are neither compressed nor given statistics."""
    features = [field.name for field in batches.schema if field.metadata]
    metadata = [name for name in batches.schema.names if name not in features]
    packing = {name: "zstd" for name in metadata}
    for name in features:
        kind, leaf = batches.schema.field(name).type, name
        while pa.types.is_fixed_size_list(kind):
            kind, leaf = kind.value_type, f"{leaf}.list.element"
        packing[leaf] = "none"
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
    """Return the schema of a Hugging Face dataset, and its types; StepDiffError where a column has none there."""
    import datasets

    features, columns, types = feature_fields(fields), [], {}
    for field in fields:
        shape = features[field.name].shape if field.name in features else ()
        if len(shape) in _AXES:
            types[field.name] = getattr(datasets, f"Array{len(shape)}D")(shape, features[field.name].dtype)
            kind = field.type.value_type
            for length in reversed(shape):
                kind = pa.list_(kind, length)
            field = pa.field(field.name, kind, metadata=field.metadata)
        else:
            try:
                types[field.name] = datasets.Features.from_arrow_schema(pa.schema([field]))[field.name]
            except ValueError:
                lacks = f"column {field.name} is {field.type}, which a Hugging Face dataset lacks"
                raise StepDiffError(f"{lacks}: leave it out with --columns") from None
        columns.append(field)
    named = datasets.Features(types)
    return pa.schema(columns, {**(fields.metadata or {}), **named.arrow_schema.metadata}), named


def dataset_info(fields: pa.Schema) -> dict[str, Any]:
    """Return the header of a README that tells `datasets` the types: it does not take them from the files."""
    import datasets
    from huggingface_hub import DatasetCardData

    header = DatasetCardData()
    _, types = datasets_schema(fields)
    datasets.info.DatasetInfosDict(default=datasets.DatasetInfo(features=types)).to_dataset_card_data(header)
    return {"dataset_info": header.to_dict()["dataset_info"]}


def write_webdataset(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write a part."""
    features = feature_fields(batches.schema)
    metadata = [name for name in batches.schema.names if name not in features]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for batch in batches:
            arrays = {name: row_values(batch, name, feature.shape) for name, feature in features.items()}
            for row, fields in enumerate(batch.select(metadata).to_pylist()):
                name = quote(fields["key"], safe="").replace(".", "%2E")
                for feature, array in arrays.items():
                    data = io.BytesIO()
                    np.lib.format.write_array(data, array[row], allow_pickle=False)
                    add(f"{name}.{feature}.npy", data.getvalue())
                add(f"{name}.json", json.dumps(_as_json(fields), ensure_ascii=False, allow_nan=False).encode())


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite become null, dates ISO 8601 texts."""
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_lance(path: Path, batches: pa.RecordBatchReader) -> None:
    """Write the data files of a part into the dataset two folders above `path`, and the record of them to `path`."""
    from lance.fragment import write_fragments

    root = path.parent.parent
    try:
        fragments = write_fragments(batches, str(root), schema=batches.schema, mode="create")
    except (OSError, ValueError) as error:
        raise StepDiffError(f"cannot write {root}: {one_line(error)}") from error
    record = [fragment.to_json() for fragment in fragments]
    for file in (file for fragment in record for file in fragment["files"]):
        sync_file(root / "data" / file["path"])
    sync_folder(root / "data")
    path.write_text(json.dumps(record))


WRITERS: Mapping[str, tuple[str, Write]] = {
    "parquet": ("part-{:06d}.parquet", write_parquet),
    "huggingface": ("part-{:06d}.parquet", write_huggingface),
    "webdataset": ("features-{:06d}.tar", write_webdataset),
    "lance": ("part-{:06d}.json", write_lance),
}
"""name of the file of a part, with its number, and what writes it"""


def is_whole(path: Path, format: str) -> bool:
    """Return whether the parts of an export are readable as one."""
    # Lance writes NAME.manifest#1 and links it to NAME.manifest: only with the link a version exists.
    return any((path / "_versions").glob("*.manifest")) if format == "lance" else (path / "data").is_dir()


def prepare(path: LocalPath, format: str) -> None:
    """Make the folder of unfinished parts, and remove what a killed export left without finishing it."""
    unfinished = path / UNFINISHED
    unfinished.make_folder()
    unfinished.remove_dead(deep=False)
    if format == "lance":
        known = {file for record in _records(unfinished) for file in _files(record)}
        left = [file for name in ("_versions", "_transactions") for file in (path / name).glob("*")]
        for file in [*left, *(file for file in (path / "data").glob("*") if file.name not in known)]:
            file.remove()


def finish(path: LocalPath, format: str, fields: pa.Schema, rows: int) -> None:
    """Make the parts readable as one, if they are not; StepDiffError where files or rows are missing."""
    unfinished = path / UNFINISHED
    if format != "lance":
        if not is_whole(path, format):
            unfinished.rename(path / "data")
        return
    import lance

    if not is_whole(path, format):
        texts = [json.dumps(fragment) for record in _records(unfinished) for fragment in record]
        fragments = [lance.FragmentMetadata.from_json(text) for text in texts]
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

    fragments = [fragment.metadata.to_json() for fragment in lance.dataset(str(path)).get_fragments()]
    return [path / "data" / name for name in _files(fragments)]


def _records(unfinished: LocalPath) -> list[list[dict[str, Any]]]:
    """Return the fragments of each part of a Lance dataset, in their order."""
    return [json.loads(record.read_bytes()) for record in sorted(unfinished.glob("*.json"))]


def _files(fragments: list[dict[str, Any]]) -> list[str]:
    """Return the names of the data files of fragments."""
    return [file["path"] for fragment in fragments for file in fragment["files"]]
