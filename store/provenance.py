"""The identity of a view: its provenance, its arrays, its name; and the key of a text."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from stepdiff_core.errors import StepDiffError

RowNumbers = Int[np.ndarray, " R"]
"""numbers of rows of a catalog"""
RowValues = Shaped[np.ndarray, "R ..."]
"""of an array"""

DTYPES = ("float16", "float32", "int8")
MOST_ROW_BYTES = 2**28
"""bytes of one row of one feature, and about the size of a shard"""
_MOST_AXES = 16


@dataclass(frozen=True)
class Feature:
    """One array of a view: the shape of a row, and the dtype it is stored in."""

    shape: tuple[int, ...]
    """shape of one row, e.g. (N tokens, D channels)"""
    dtype: str
    """float16, float32, or int8 (quantised, with a float16 scale for every 64 channels)"""

    def __post_init__(self) -> None:
        """Raise StepDiffError if rows of that shape and dtype cannot be stored."""
        if self.dtype not in DTYPES:
            raise StepDiffError(
                f"dtype {_short(self.dtype)} is refused: features are {', '.join(DTYPES)}"
            )
        if not self.shape or min(self.shape) < 1:
            raise StepDiffError(
                f"feature shape {_short(self.shape)} is refused: give one axis or more, none 0"
            )
        if len(self.shape) > _MOST_AXES or self.row_bytes > MOST_ROW_BYTES:
            raise StepDiffError(
                f"feature shape {_short(self.shape)} in {self.dtype} is refused: a row has up to "
                f"{_MOST_AXES} axes and {MOST_ROW_BYTES:,} bytes"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def main_feature(features: Mapping[str, Feature]) -> str:
    """Return the feature whose dtype users choose: the one in int8, else the largest. The others
    stay floats."""
    return max(
        features, key=lambda name: (features[name].dtype == "int8", math.prod(features[name].shape))
    )


def with_dtype(features: Mapping[str, Feature], dtype: str) -> dict[str, Feature]:
    """Return `features`, the main one stored in `dtype`."""
    main = main_feature(features)
    return {**features, main: replace(features[main], dtype=dtype)}


@dataclass(frozen=True)
class Provenance:
    """How the features of a view were computed. Two provenances never share a view."""

    encoder: str
    """name of the encoder"""
    weights: str
    """sha256, in hex, of the encoder's weights"""
    layer: str
    """the layer whose output is stored"""
    frames: str
    """the rule that picks frames"""
    crop: str
    """the rule that resizes and crops"""
    dtypes: dict[str, str]
    """feature -> stored dtype"""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Provenance":
        """Return the inverse of `as_dict`; StepDiffError if fields are missing or unknown."""
        names = {field.name for field in fields(cls)}
        if odd := sorted(names ^ set(values) if isinstance(values, dict) else names):
            raise StepDiffError(f"provenance with missing or unknown fields: {_short(odd)[1:-1]}")
        dtypes, texts = values["dtypes"], [values[name] for name in names - {"dtypes"}]
        if not isinstance(dtypes, dict) or not all(
            isinstance(text, str) for text in (*texts, *dtypes.values())
        ):
            raise StepDiffError("provenance with fields that are not text")
        return cls(**{**values, "dtypes": dict(dtypes)})

    def difference(self, other: "Provenance") -> str:
        """Return the fields that differ, with both values: `layer 'a' against 'b'`; empty if none
        do."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return ", ".join(f"{name} {a!r} against {b!r}" for name, a, b in pairs if a != b)


ENTITIES = ("clips", "texts")
INTERNAL = ("scale", "checksum", "status")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def text_key(text: str) -> str:
    """Return the key of a text: the sha256, in hex, of its exact UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_entity(entity: str) -> str:
    """Return `entity` itself; StepDiffError if it is not one of ENTITIES."""
    if entity not in ENTITIES:
        raise StepDiffError(f"no entity {entity!r}: a store has rows for {' and '.join(ENTITIES)}")
    return entity


def check_name(what: str, name: str) -> str:
    """Return `name` itself; StepDiffError if it could not be a folder on every file system."""
    if not _SAFE.fullmatch(name):
        raise StepDiffError(
            f"{what} name {name!r} is refused: use up to 100 letters, digits, '-' and '_', a "
            "letter or digit first"
        )
    return name
