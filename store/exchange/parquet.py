"""Parts of an export as Parquet files, for any reader of Parquet and for `datasets.load_dataset`.

`parquet`: a feature is a fixed-size list of its flattened row. The canonical Arrow type `fixed_shape_tensor` would also
have the shape, but `datasets` refuses it; so the shape is in the field's metadata.
`huggingface`: features of two to five axes are nested lists, which `datasets` opens as Array2D to Array5D.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import _stepdiff

_stepdiff.require("store export", "export", ("pyarrow",))

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import StepDiffError
from store.provenance import Feature

_AXES = range(2, 6)
"""of Array2D to Array5D"""


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
        path, schema, compression=packing, use_dictionary=about, write_statistics=about, version="2.6"
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
    if pa.types.is_list(kind):
        inside, _ = _column(name, kind.value_type)
        if "dtype" in inside:
            return {"feature": inside, "_type": "List"}, {"list": inside["dtype"]}
    plain = {pa.bool_(): "bool", pa.float64(): "float64", pa.float32(): "float32", pa.float16(): "float16"}
    text = plain.get(kind, str(kind).removesuffix("[day]"))
    if not isinstance(kind, pa.ListType | pa.StructType | pa.DictionaryType | pa.Decimal128Type):
        return {"dtype": text, "_type": "Value"}, {"dtype": text}
    raise StepDiffError(f"column {name} is {kind}, which a Hugging Face dataset lacks: leave it out with --columns")
