"""int8 values with a float16 scale per 64 channels, so that an outlier affects only its block.

Guarantees
- the relative error (RMS) of a block is below 3.2 %, that of all blocks below 1.9 %; in a block whose largest value is
  below 2^-17, where scales are as coarse as float16 is there, a value is off by 2^-25 at most or that much
- no scale is zero, and no level exceeds 127
- every bit equals that of plain numpy, for any number of threads
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int8

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.direct_io import aligned_empty
from stepdiff.common.threads import cores, each, shares

BLOCK = 64
_LEAST = 2**17  # channels worth a thread
_PIECE = 2**22  # values of `exact_floats` at a time


class Quantised(NamedTuple):
    """Stored values: value = levels * scale of the block of 64 channels."""

    levels: Int8[np.ndarray, "*axes D"]
    scale: Float16[np.ndarray, "*axes blocks"]


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the scales of rows of `shape`: the last axis in blocks of 64, rounded up."""
    return (*shape[:-1], math.ceil(shape[-1] / BLOCK))


def quantise(values: Float[np.ndarray, "*axes D"], threads: int | None = None) -> Quantised:
    """Quantise finite values, float32 or float16, to int8 and scales.

    A scale is max|value| / 127 of its block rounded up to float16; a block of zeros has scale 1. Float16 values need
    not be finite: the scale of a block with one that is not is NaN, and the block is to be refused. `threads` are by
    default as many as there are cores.
    """
    from store.format import kernels  # imports numba: as slow as all other imports

    quantised = Quantised(aligned_empty(values.shape, np.int8), np.empty(scale_shape(values.shape), np.float16))
    scale = quantised.scale.view(np.uint16)
    if values.dtype == np.float16:
        _shared_out(
            threads, kernels.quantise_float16, np.ascontiguousarray(values).view(np.uint16), quantised.levels, scale
        )
    else:
        _shared_out(
            threads, kernels.quantise_float32, np.ascontiguousarray(values, np.float32), quantised.levels, scale
        )
    return quantised


def dequantise(
    levels: Int8[np.ndarray, "*axes D"],
    scale: Float16[np.ndarray, "*axes blocks"],
    out: Float[np.ndarray, "..."] | None = None,
) -> Float[np.ndarray, "*axes D"]:
    """Return the values that `quantise` was given, within its error: float32, or as `out` is.

    `out` is C-contiguous float32 or float16; a float16 stops at 65504, where levels * scale may be
    a little past it. StepDiffError on another `out`.
    """
    from store.format import kernels

    if out is None:
        out = np.empty(levels.shape, np.float32)
    if out.shape != levels.shape or out.dtype not in (np.float32, np.float16) or not out.flags.c_contiguous:
        raise StepDiffError(
            f"out is {out.dtype} {out.shape}: dequantise needs C-contiguous float32 or float16 {levels.shape}"
        )
    bits = np.ascontiguousarray(scale).view(np.uint16)
    if out.dtype == np.float32:
        _shared_out(None, kernels.to_float32, np.ascontiguousarray(levels), bits, out)
    else:
        _shared_out(None, kernels.to_float16, np.ascontiguousarray(levels), bits, out.view(np.uint16))
    return out


def _shared_out(threads: int | None, kernel: Callable[..., None], *arrays: np.ndarray) -> None:
    """Run `kernel` over [rows, D] of contiguous arrays [*axes, D], the rows shared out among threads."""
    if not arrays[0].size:
        return
    flat = [array.reshape(-1, array.shape[-1]) for array in arrays]
    parts = max(1, min(threads or cores(), arrays[0].size // _LEAST))
    each(lambda share: kernel(*(a[slice(*share)] for a in flat)), shares(len(flat[0]), parts))


def exact_floats(
    levels: Int8[np.ndarray, "K *axes D"], scale: Float16[np.ndarray, "K *axes blocks"]
) -> tuple[Float32[np.ndarray, "K *axes D"], Bool[np.ndarray, " K"]]:
    """Return floats that `quantise` turns into these levels and scales to the bit, and for which of the K rows it does.

    level * scale does so unless the scale, rounded up when it was made, is one of the smallest of float16: then the
    largest level of its block is below 127, and its value is set to the least one that has this scale.
    """
    floats, same = np.empty(levels.shape, np.float32), np.empty(len(levels), bool)
    count = max(_PIECE // max(levels[:1].size, 1), 1)
    for start in range(0, len(levels), count):
        part = slice(start, start + count)
        with np.errstate(all="ignore"):  # scales of strangers may be anything
            floats[part] = _nudged(levels[part], np.ascontiguousarray(scale[part]))
            finite = _rows(np.isfinite(floats[part]))
            wide = finite.reshape(-1, *[1] * (levels.ndim - 1))
            again = quantise(np.where(wide, floats[part], np.float32(0)))
        equal = [_rows(a == b) for a, b in ((again.levels, levels[part]), (again.scale, scale[part]))]
        same[part] = finite & equal[0] & equal[1]
    return floats, same


def _nudged(levels: np.ndarray, scale: np.ndarray) -> np.ndarray:
    floats = dequantise(np.ascontiguousarray(levels), scale)
    width, blocks = levels.shape[-1], scale.shape[-1]
    padded = np.zeros((*levels.shape[:-1], blocks * BLOCK), np.int16)
    padded[..., :width] = levels
    sizes = np.abs(padded).reshape(*levels.shape[:-1], blocks, BLOCK)
    peak = sizes.max(axis=-1)
    bits = scale.view(np.uint16)
    below = (bits - np.uint16(1)).view(np.float16).astype(np.float32) * np.float32(127)
    short = (peak > 0) & (peak * scale.astype(np.float32) <= below)
    empty = (peak == 0) & (bits == 1)  # values so small that all levels are 0, and the scale the least there is
    if not short.any() and not empty.any():
        return floats
    least = np.nextafter(below, np.float32(np.inf))[..., None]
    at_peak = (short[..., None] & (sizes == peak[..., None])).reshape(padded.shape)[..., :width]
    least = np.broadcast_to(least, sizes.shape).reshape(padded.shape)[..., :width]
    floats = np.where(at_peak, np.copysign(least, levels), floats)
    floats[..., ::BLOCK][empty] = np.float32(2**-30)
    return floats


def _rows(equal: np.ndarray) -> np.ndarray:
    return np.asarray(equal.reshape(len(equal), -1).all(axis=1))
