"""The folder layout of a store, and the metadata that any Zarr v3 reader needs.

store.json                            format name and version
arrays.zarr/ENTITY/VIEW/ARRAY/        a plain Zarr v3 hierarchy
catalog/ENTITY/FIRST_ROW.parquet      key -> row; FIRST_ROW-END.parquet replaces several such parts
catalog/ENTITY/FIRST_ROW-END.keys     hash of a key -> row, built from the parts and rebuilt where
                                      lost
forgotten/ENTITY.parquet              row, key, reason of forgotten rows
failures/ENTITY/VIEW/SHARD.parquet    key, reason; merged-GROUP.parquet: of many shards
shards/ENTITY/VIEW/SHARD.json         the record of the shard's writer: library versions, device;
                                      merged-GROUP.json: of many shards
snapshots/NAME/                       arrays.zarr, catalog, failures, forgotten, shards as they
                                      were; about.json

A store may come from a stranger: metadata are checked when they are read, before they size an
allocation.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, place
from stepdiff_core.io.locks import holds
from stepdiff_core.io.remote import RemotePath, clear_errors, objects, split_url
from stepdiff_core.io.sealed import BLANK, is_sealed, seal
from store.format.quantise import scale_shape
from store.provenance import INTERNAL, Feature, Provenance, check_name, main_feature

FORMAT = "stepdiff-store"
VERSION = 1
ARRAYS = "arrays.zarr"
LOCK = "lock.json"
SNAPSHOTS = "snapshots"
ABOUT = "about.json"
"""the file that makes a folder a snapshot, written last"""
MERGED_SHARDS = 1024
"""shards whose failures, and records of writers, are merged into one file"""
_MOST_JSON = 64 * 2**20
"""bytes of a JSON file: the record of a shard's writer is the largest, 60 bytes per range of
rows"""
_SHARD = re.compile("0|[1-9][0-9]{0,11}")  # rows have at most 12 digits, see store.catalog.parts
MOST_SHARD_ROWS = 2**24
"""rows of a shard: its index, 16 bytes a row, is read whole"""
_MOST_ROWS = 10**12
"""rows of a catalog, whose parts are named by rows of 12 digits"""


def write_json(path: Path | Place, value: dict[str, Any]) -> None:
    """Write `value`, which contains `BLANK`, as a sealed JSON file."""
    data = encode_json(value)
    place(path).put([data], len(data))


def encode_json(value: dict[str, Any]) -> bytes:
    """Return `value`, which contains `BLANK`, as the bytes of a sealed JSON file."""
    return seal(json.dumps(value, indent=2).encode())


def read_json(path: Path | Place, sealed: bool = True) -> dict[str, Any]:
    """Return the object in `path`; StepDiffError if it is damaged, FileNotFoundError if absent.

    Without `sealed` the file may have no seal: another version may have written it.
    """
    try:
        data = place(path).read_whole(_MOST_JSON)
        value = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise StepDiffError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path} is damaged ({error}): run python -m store verify") from error
    if not isinstance(value, dict) or (sealed and not is_sealed(data)):
        raise StepDiffError(f"{path} is not as it was written: run python -m store verify")
    return value


def shard_number(name: str) -> int | None:
    """Return the shard whose files are called `name`, None if no shard is."""
    return int(name) if _SHARD.fullmatch(name) else None


def shard_numbers(names: Iterable[str]) -> list[int]:
    """Return the shards whose files have one of these names, ascending."""
    return sorted({shard for name in names if (shard := shard_number(name)) is not None})


def half_made(group: Place) -> bool:
    """Return whether a view's creation or removal in an object store was cut short: neither a view
    nor damage."""
    return (
        group.remote
        and not (group / "zarr.json").exists()
        and not (group / "status" / "c").is_dir()
    )


def snapshot_of(store: Place) -> str | None:
    """Return the name of the snapshot whose files are in the folder `store`, None for a store
    itself."""
    is_snapshot = store.parent.name == SNAPSHOTS and (store / ABOUT).exists()
    return store.name if is_snapshot else None


def refuse_snapshot(store: Place) -> None:
    """Raise StepDiffError if `store` is the folder of a snapshot."""
    if (name := snapshot_of(store)) is not None:
        raise StepDiffError(
            f"snapshot {name} of {store.parent.parent} cannot be changed: give the store without it"
        )


def check_locked(store: Place, what: str) -> None:
    """Raise StepDiffError if this process does not hold the store's lock, which `what` needs."""
    if not holds(store / LOCK):
        raise StepDiffError(
            f"{what} only under the store's lock: use `store.writer`, or `with store.lock()`"
        )


def group_metadata(attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the zarr.json of a group."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**(attributes or {}), "seal": BLANK},
    }


def open_zarr(store: Place, below: str = "") -> Any:
    """Return the hierarchy of a store or snapshot, or a group or array `below` it, opened read-only
    by zarr-python.

    StepDiffError if its metadata are damaged.
    """
    import zarr  # here: it takes a third of a second
    from zarr.storage import LocalStore, ObjectStore

    root = store / ARRAYS
    read_json(root / f"{below}/zarr.json".lstrip("/"))
    if not isinstance(root, RemotePath):
        return zarr.open(LocalStore(str(root), read_only=True), path=below, mode="r")
    base, key = split_url(root.url)
    with clear_errors("read", root.url):
        return zarr.open(
            ObjectStore(objects(base), read_only=True), path=f"{key}/{below}", mode="r"
        )


def axis_names(entity: str, stored: Mapping[str, Feature]) -> dict[str, list[str]]:
    """Return the names of the axes of each array of a view, with which xarray opens it: `clip`,
    `token`, `channel`.

    A name has one length in a view. The main feature has the plain names; where another array's
    axis has another length, the name begins with that array: `embedding_channel`.
    """
    row, lengths = entity.removesuffix("s"), dict[str, int]()
    names = {"checksum": [row, "feature"], "status": [row]}
    for array in dict.fromkeys([main_feature(stored), *stored]):
        shape = stored[array].shape
        outer = [f"axis_{number}" for number in range(1, len(shape) - 1)]
        inner = [
            "frame" if array.startswith("frame_") else "token",
            "block" if array == "scale" else "channel",
        ]
        plain = zip([*outer, *inner][-len(shape) :], shape, strict=True)
        names[array] = [
            row,
            *(n if lengths.setdefault(n, size) == size else f"{array}_{n}" for n, size in plain),
        ]
    return names


def array_metadata(
    entity: str, array: str, length: int, stored: Mapping[str, Feature], shard_rows: int
) -> dict[str, Any]:
    """Return the zarr.json of an array of a view that has `length` rows, `shard_rows` a shard, and
    `stored` arrays.

    A stored array has one inner chunk a row; `checksum` and `status` have one crc32c'd chunk for
    the rows of a shard.
    """
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    one_byte: dict[str, Any] = {"name": "bytes"}
    crc32c: dict[str, Any] = {"name": "crc32c"}
    shape: tuple[int, ...] = ()
    dtype, codecs = "uint8", [one_byte, crc32c]
    if array == "checksum":
        shape, dtype, codecs = (len(stored),), "uint32", [little, crc32c]
    elif array in stored:
        shape, dtype = stored[array].shape, stored[array].dtype
        inner: dict[str, Any] = {
            "chunk_shape": [1, *shape],
            "codecs": [one_byte if dtype == "int8" else little],
            "index_codecs": [little, crc32c],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "shape": [length, *shape],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_rows, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": codecs,
        "attributes": {"seal": BLANK},
        "dimension_names": axis_names(entity, stored)[array],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


@dataclass(frozen=True)
class ViewPaths:
    """The paths of the files of one view."""

    store: Place
    entity: str
    view: str

    @cached_property
    def group(self) -> Place:
        """The view's Zarr group."""
        return self.store / ARRAYS / self.entity / self.view

    def metadata(self, array: str) -> Place:
        """Return the zarr.json of one of the view's arrays."""
        return self.group / array / "zarr.json"

    def shard(self, feature: str, shard: int, axes: int) -> Place:
        """Return the shard file of a feature whose array has `axes` axes."""
        return type(self.group)(f"{self.group}/{feature}/c/{shard}{'/0' * (axes - 1)}")

    def checksum(self, shard: int) -> Place:
        """Return the checksum chunk of a shard."""
        return self.group / "checksum" / "c" / str(shard) / "0"

    def status(self, shard: int) -> Place:
        """Return the status chunk of a shard: written last."""
        return type(self.group)(f"{self.group}/status/c/{shard}")

    def failures(self, shard: int) -> Place:
        """Return the path of the reasons why rows of a shard failed."""
        return self._failures / f"{shard}.parquet"

    def merged_failures(self, shard: int) -> Place:
        """Return the path of the merged reasons of a group of shards."""
        return self._failures / f"merged-{shard // MERGED_SHARDS}.parquet"

    def info(self, shard: int) -> Place:
        """Return the path of the record of a shard's writer."""
        return self._info / f"{shard}.json"

    def merged_info(self, shard: int) -> Place:
        """Return the path of the merged records of a group of shards."""
        return self._info / f"merged-{shard // MERGED_SHARDS}.json"

    def lock(self, shard: int) -> Place:
        """Return the lock of a shard's one writer."""
        return self._info / f"{shard}.lock"

    @property
    def beside(self) -> tuple[Place, Place]:
        """The folders of the view outside its Zarr group: failures, and records of its shards'
        writers."""
        return self._failures, self._info

    @cached_property
    def _failures(self) -> Place:
        return self.store / "failures" / self.entity / self.view

    @cached_property
    def _info(self) -> Place:
        return self.store / "shards" / self.entity / self.view


def read_view(path: Place) -> tuple[Provenance, int, dict[str, Feature], list[str]]:
    """Return the metadata in the zarr.json of a view's group: provenance, rows of a shard,
    features, and the names of the stored arrays in the order of the columns of `checksum`.
    StepDiffError if no possible view has it."""
    attributes: Any = read_json(path).get("attributes")
    try:
        rows, checksummed = attributes["rows_per_shard"], attributes["checksummed"]
        if not is_shard_rows(rows):
            raise StepDiffError(
                f"rows_per_shard {str(rows)[:100]} is no power of two up to {MOST_SHARD_ROWS:,}"
            )
        provenance = Provenance.from_dict(attributes["provenance"])
        features = {name: _feature(feature) for name, feature in attributes["features"].items()}
        check_features(features)
        stored = stored_features(features)
        if not isinstance(checksummed, list) or sorted(map(str, checksummed)) != sorted(stored):
            raise StepDiffError(
                f"checksummed {str(checksummed)[:100]} are not its arrays {', '.join(stored)}"
            )
    except (StepDiffError, KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise StepDiffError(
            f"{path} is not the metadata of a view ({why}): restore it, or drop the view"
        ) from None
    return provenance, rows, features, checksummed


def _feature(about: Any) -> Feature:
    shape, dtype = about["shape"], about["dtype"]
    if not isinstance(shape, list) or not isinstance(dtype, str):
        raise StepDiffError("a feature has no shape and dtype")
    if not all(type(length) is int for length in shape):
        raise StepDiffError(f"feature shape {str(shape)[:100]} is not of whole numbers")
    return Feature(tuple(shape), dtype)


def array_shape(path: Place, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape in the metadata of an array, read from `path`; StepDiffError if it is not
    one."""
    shape = metadata.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 32
        or not all(type(length) is int and 0 <= length <= _MOST_ROWS for length in shape)
    ):
        raise StepDiffError(
            f"{path} is not the metadata of an array (shape {str(shape)[:100]}): restore the file"
        )
    return tuple(shape)


def check_features(features: Mapping[str, Feature]) -> None:
    """Raise StepDiffError if no view can have these features."""
    if not features:
        raise StepDiffError("it has no features: give one or more")
    for name in features:
        if check_name("feature", name) in INTERNAL:
            raise StepDiffError(f"feature name {name!r} is reserved by the store: use another")
    if sum(feature.dtype == "int8" for feature in features.values()) > 1:
        raise StepDiffError("it has two int8 features: a view holds one, with its scale")


def is_shard_rows(rows: object) -> bool:
    """Return whether a view can have shards of `rows` rows: a power of two."""
    return type(rows) is int and 1 <= rows <= MOST_SHARD_ROWS and not rows & (rows - 1)


def stored_features(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return the arrays that hold `features`, by name: int8 brings the hidden array `scale`."""
    stored = dict(features)
    for feature in features.values():
        if feature.dtype == "int8":
            stored["scale"] = Feature(scale_shape(feature.shape), "float16")
    return dict(sorted(stored.items()))
