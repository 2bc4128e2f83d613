"""The metadata of a view and the records of its shards' writers, parsed and checked in one place.

A store may come from a stranger: the content of its JSON files is checked here, before it sizes an allocation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import BLANK
from store.format.layout import encode_json, read_json, shard_number
from store.format.quantise import scale_shape
from store.provenance import INTERNAL, Feature, Provenance, check_name

MOST_SHARD_ROWS = 2**24
"""rows of a shard: its index, 16 bytes a row, is read whole"""
_MOST_ROWS = 10**12
"""rows of a catalog, whose parts are named by rows of 12 digits"""


@dataclass(frozen=True)
class ViewMetadata:
    """The attributes of a view's Zarr group."""

    provenance: Provenance
    rows_per_shard: int
    features: dict[str, Feature]
    stored: dict[str, Feature]
    """the arrays that hold the features"""
    checksummed: list[str]
    """the arrays in the order of the columns of `checksum`"""


def read_view(path: Place) -> ViewMetadata:
    """Return the metadata in the zarr.json of a view's group. StepDiffError where no possible view has it."""
    attributes = read_json(path).get("attributes")
    try:
        return _parsed(_mapping(attributes, "attributes"))
    except StepDiffError as error:
        raise StepDiffError(f"{path} is not the metadata of a view ({error}): restore it, or drop the view") from None


def array_shape(path: Place, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape in the metadata of an array, read from `path`; StepDiffError where it is not one."""
    shape = metadata.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 32
        or not all(type(length) is int and 0 <= length <= _MOST_ROWS for length in shape)
    ):
        raise StepDiffError(f"{path} is not the metadata of an array (shape {str(shape)[:100]}): restore the file")
    return tuple(shape)


def check_features(features: Mapping[str, Feature]) -> None:
    """Raise StepDiffError where no view can have these features."""
    if not features:
        raise StepDiffError("it has no features: give one or more")
    for name in features:
        check_name("feature", name)
        if name in INTERNAL:
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


def _parsed(attributes: Mapping[str, Any]) -> ViewMetadata:
    rows = attributes.get("rows_per_shard")
    if not is_shard_rows(rows):
        raise StepDiffError(f"rows_per_shard {str(rows)[:100]} is no power of two up to {MOST_SHARD_ROWS:,}")
    assert isinstance(rows, int)
    provenance = Provenance.from_dict(_mapping(attributes.get("provenance"), "provenance"))
    features = {name: _feature(feature) for name, feature in _mapping(attributes.get("features"), "features").items()}
    check_features(features)
    stored = stored_features(features)
    checksummed = attributes.get("checksummed")
    if not isinstance(checksummed, list) or sorted(map(str, checksummed)) != sorted(stored):
        raise StepDiffError(f"checksummed {str(checksummed)[:100]} are not its arrays {', '.join(stored)}")
    return ViewMetadata(provenance, rows, features, stored, checksummed)


def _feature(about: object) -> Feature:
    about = _mapping(about, "a feature")
    shape, dtype = about.get("shape"), about.get("dtype")
    if not isinstance(shape, list) or not isinstance(dtype, str):
        raise StepDiffError("a feature has no shape and dtype")
    if not all(type(length) is int for length in shape):
        raise StepDiffError(f"feature shape {str(shape)[:100]} is not of whole numbers")
    return Feature(tuple(shape), dtype)


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StepDiffError(f"{what} is no object")
    return value


@dataclass(frozen=True)
class Write:
    """Rows written by the same program and device."""

    rows: frozenset[int]
    info: dict[str, Any]
    """library versions, device"""
    date: str | None = None
    """UTC, ISO 8601; None: an earlier version of this program wrote it"""


def read_writes(path: Place, first: int, count: int) -> list[Write]:
    """Return the record of the shard of rows `first` to `first + count` - 1. StepDiffError where it names others."""
    writes = read_json(path).get("writes")
    if not isinstance(writes, list):
        raise StepDiffError(f"{path} does not say what wrote the shard: delete it, and run the command again")
    return [_write(path, write, first, first + count) for write in writes]


def encode_writes(shard: int, writes: Iterable[Write]) -> bytes:
    """Return the file of a shard, sealed."""
    return encode_json({"shard": shard, "writes": _spans(writes), "seal": BLANK})


def _spans(writes: Iterable[Write]) -> list[dict[str, Any]]:
    return [
        {"rows": _to_ranges(write.rows), "info": write.info, **({"date": write.date} if write.date else {})}
        for write in writes
        if write.rows
    ]


def read_merged_writes(path: Place, rows_per_shard: int) -> dict[int, list[Write]]:
    """Return the records of a group of shards, by shard. Raises as `read_writes` does."""
    shards = read_json(path).get("shards")
    records: dict[int, list[Write]] = {}
    for name, writes in shards.items() if isinstance(shards, dict) else ():
        shard = shard_number(name)
        if shard is None or not isinstance(writes, list):
            raise StepDiffError(f"{path} does not say what wrote the shards: delete it, and run the command again")
        first = shard * rows_per_shard
        records[shard] = [_write(path, write, first, first + rows_per_shard) for write in writes]
    return records


def encode_merged_writes(shards: Mapping[int, Iterable[Write]]) -> bytes:
    """Return the file of a group of shards, sealed."""
    return encode_json({"shards": {str(shard): _spans(shards[shard]) for shard in sorted(shards)}, "seal": BLANK})


def _write(path: Place, write: object, first: int, end: int) -> Write:
    rows: set[int] = set()
    fits = isinstance(write, dict) and isinstance(write.get("info"), dict) and isinstance(write.get("rows"), list)
    for span in write["rows"] if fits and isinstance(write, dict) else ():
        fits = (
            isinstance(span, list)
            and len(span) == 2
            and all(type(row) is int for row in span)
            and first <= span[0] <= span[1] < end
        )
        if not fits:
            break
        rows |= set(range(span[0], span[1] + 1))
    if not fits or not isinstance(write, dict):
        raise StepDiffError(f"{path} names rows other than {first} to {end - 1}: delete it, and run the command again")
    date = write.get("date")
    return Write(frozenset(rows), write["info"], date if isinstance(date, str) else None)


def _to_ranges(rows: Iterable[int]) -> list[list[int]]:
    """Return rows as [first, last] of every unbroken run."""
    ranges: list[list[int]] = []
    for row in sorted(rows):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ranges
