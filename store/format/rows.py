"""Rows prepared for a shard: checked, in their stored dtype, with their checksums."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt32

from stepdiff.common.io.direct_io import PAGE, aligned_empty
from stepdiff.common.io.sealed import crc32c
from stepdiff.common.threads import ahead
from store.format.quantise import quantise
from store.provenance import Feature

_PART_BYTES = 8 * 2**20  # of stored rows prepared at a time: smaller writes of int8 are slower
_COMPILED_BYTES = 2**28  # of float32 in one call: numpy rounds them in the time that the import of numba takes


class StoredRows(NamedTuple):
    """Rows of one shard, G of them good."""

    slots: Int[np.ndarray, " G"]
    arrays: dict[str, Shaped[np.ndarray, "G ..."]]
    """by the name of the stored array, each contiguous and little-endian"""
    sums: dict[str, UInt32[np.ndarray, " G"]]
    """crc32c of each row, likewise"""
    reasons: dict[int, str]
    """why a row cannot be stored, by its slot"""


def stored_rows(
    slots: Int[np.ndarray, " K"], given: Mapping[str, Shaped[np.ndarray, "K ..."]], features: Mapping[str, Feature]
) -> Iterator[StoredRows]:
    """Yield the rows of `slots` as `features` are stored, in parts, in order; int8 comes as floats, or with `scale`."""
    row_bytes = sum(features[name].row_bytes for name in given)
    size = max(_PART_BYTES // max(row_bytes, 1), 1)
    fill = max(PAGE // gcd(features[name].row_bytes, PAGE) for name in given)  # rows that end at a page boundary
    size -= size % fill if size > fill else 0
    parts = [slice(at, at + size) for at in range(0, len(slots), size)]
    compiled = sum(values.nbytes for values in given.values() if values.dtype == np.float32) >= _COMPILED_BYTES
    return ahead(partial(_part, slots, given, features, compiled), parts)


def _part(
    slots: Int[np.ndarray, " K"],
    given: Mapping[str, Shaped[np.ndarray, "K ..."]],
    features: Mapping[str, Feature],
    compiled: bool,
    part: slice,
) -> StoredRows:
    slots = slots[part]
    given = {name: values[part] for name, values in sorted(given.items())}
    arrays: dict[str, np.ndarray] = {}
    reasons: dict[int, str] = {}
    for name, values in given.items():
        dtype = features[name].dtype
        suspects, looked_at = np.arange(len(slots)), values
        if dtype == "int8" and "scale" in given:
            arrays[name] = np.ascontiguousarray(values, np.int8)
            continue
        if dtype == "int8":
            arrays[name], scale = quantise(values, threads=1)  # other parts are prepared at the same time
            arrays["scale"] = np.ascontiguousarray(scale, "<f2")
            if values.dtype == np.float16:  # the scales show it, and are few
                suspects = np.flatnonzero(np.isnan(scale).reshape(len(slots), -1).any(axis=1))
                looked_at = values[suspects]
        else:
            arrays[name] = aligned_empty(values.shape, np.dtype(dtype).newbyteorder("<"))
            if compiled and (values.dtype, dtype) == (np.float32, "float16"):
                from store.format.kernels import round_float32

                flat = np.ascontiguousarray(values).reshape(len(values), -1)
                round_float32(flat, arrays[name].view(np.uint16).reshape(flat.shape))
            else:
                with np.errstate(over="ignore"):
                    arrays[name][...] = values
        for place, reason in _unfit(looked_at, dtype != "float32"):
            reasons.setdefault(int(slots[suspects[place]]), f"{name} holds {reason}")
    if reasons:
        good = ~np.isin(slots, list(reasons))
        slots, arrays = slots[good], {name: rows[good] for name, rows in arrays.items()}
    sums = {name: np.array([crc32c(row) for row in rows], np.uint32) for name, rows in arrays.items()}
    return StoredRows(slots, arrays, sums, reasons)


def _unfit(values: Float[np.ndarray, "S ..."], narrow: bool) -> Iterator[tuple[int, str]]:
    """Yield rows that cannot be stored, as float16 or int8 where `narrow`, and what hinders each."""
    if not values.size:
        return
    peaks = _peaks(values.reshape(len(values), -1))
    with np.errstate(over="ignore"):
        fits = np.isfinite(peaks.astype(np.float16) if narrow else peaks)
    for row in np.flatnonzero(~fits).tolist():
        peak = peaks[row]
        if np.isfinite(peak):
            yield row, f"{peak:.4g}, a magnitude past float16"
        else:
            yield row, "NaN" if np.isnan(peak) else "infinity"


def _peaks(values: Float[np.ndarray, "S D"]) -> Float[np.ndarray, " S"]:
    """Return the greatest magnitude of each row; NaN and infinity come through."""
    if values.dtype == np.float16:  # as integers they compare alike, many times as fast
        below_zero = (values.view(np.uint16).max(1) & 0x7FFF).astype(np.int16)
        return np.maximum(values.view(np.int16).max(1), below_zero).view(np.float16)
    return np.maximum(values.max(1), -values.min(1))
