"""The metadata of a view. A store may come from a stranger: it is checked here, before it sizes an allocation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place
from store.format.layout import read_json
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
    attributes: Any = read_json(path).get("attributes")
    try:
        rows, checksummed = attributes["rows_per_shard"], attributes["checksummed"]
        if not is_shard_rows(rows):
            raise StepDiffError(f"rows_per_shard {str(rows)[:100]} is no power of two up to {MOST_SHARD_ROWS:,}")
        provenance = Provenance.from_dict(attributes["provenance"])
        features = {name: _feature(feature) for name, feature in attributes["features"].items()}
        check_features(features)
        stored = stored_features(features)
        if not isinstance(checksummed, list) or sorted(map(str, checksummed)) != sorted(stored):
            raise StepDiffError(f"checksummed {str(checksummed)[:100]} are not its arrays {', '.join(stored)}")
    except (StepDiffError, KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else error
        raise StepDiffError(f"{path} is not the metadata of a view ({why}): restore it, or drop the view") from None
    return ViewMetadata(provenance, rows, features, stored, checksummed)


def _feature(about: Any) -> Feature:
    shape, dtype = about["shape"], about["dtype"]
    if not isinstance(shape, list) or not isinstance(dtype, str):
        raise StepDiffError("a feature has no shape and dtype")
    if not all(type(length) is int for length in shape):
        raise StepDiffError(f"feature shape {str(shape)[:100]} is not of whole numbers")
    return Feature(tuple(shape), dtype)


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
