"""Parts of an export as tar files of the WebDataset convention: KEY.FEATURE.npy for each feature, and KEY.json.

Readers split the name of a file at its first dot, and take the rest as the field. A key is therefore percent-encoded:
ASCII letters, digits, `_`, `-` and `~` stay, every other byte of its UTF-8, dots and slashes too, is %XX. The JSON has
the key as it is, and the catalog's metadata.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from common.errors import StepDiffError
from store.provenance import Feature

if TYPE_CHECKING:
    import pyarrow as pa


def check_names(features: Iterable[str]) -> None:
    """Raise StepDiffError where readers would not find a feature by its name: they make fields lower case."""
    for name in features:
        if name != name.lower():
            raise StepDiffError(
                f"feature {name} has upper case letters, which readers of WebDataset make lower case: leave it out "
                "with --features, or choose another format"
            )


def write_part(path: Path, batches: "Iterator[pa.RecordBatch]", features: Mapping[str, Feature]) -> None:
    """Write one part."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for batch in batches:
            arrays = {name: values(batch, name, feature) for name, feature in features.items()}
            about = batch.select([name for name in batch.schema.names if name not in features]).to_pylist()
            for row, fields in enumerate(about):
                name = file_name(fields["key"])
                for feature, array in arrays.items():
                    data = io.BytesIO()
                    np.lib.format.write_array(data, array[row], allow_pickle=False)
                    _add(tar, f"{name}.{feature}.npy", data.getvalue())
                _add(tar, f"{name}.json", json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False).encode())


def values(batch: "pa.RecordBatch", name: str, feature: Feature) -> np.ndarray:
    """Return a feature column as an array [B, *shape of a row] that shares its memory."""
    flat = batch.column(name).flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(batch.num_rows, *feature.shape)


def file_name(key: str) -> str:
    """Return the name of a key's files, without what follows the first dot; `urllib.parse.unquote` is the inverse."""
    return quote(key, safe="").replace(".", "%2E")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite become null, dates ISO 8601 texts."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
