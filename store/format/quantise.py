"""int8 values with a float16 scale per 64 channels, so that an outlier affects only its block.

Guarantees
- the relative error (RMS) of a block is below 3.2 %, of all blocks below 1.9 %; in a block whose
  largest value is below 2^-17, where scales are as coarse as float16 is there, a value is off by
  2^-25 at most or that much
- no scale is zero, and no level exceeds 127
- every bit equals plain numpy's, for any number of threads
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Int8

from stepdiff_core.io.direct_io import aligned_empty
from stepdiff_core.threads import cores, each, shares

BLOCK = 64
_LEAST = 2**17  # channels worth a thread
_MOST_SCALE = 516
"""the least float16 whose product with 127 equals the product of the largest float16 with 127"""


class Quantised(NamedTuple):
    """Stored values: value = levels * scale of the block of 64 channels."""

    levels: Int8[np.ndarray, "*axes D"]
    scale: Float16[np.ndarray, "*axes blocks"]


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the scales of rows of `shape`: the last axis in blocks of 64, rounded
    up."""
    return (*shape[:-1], math.ceil(shape[-1] / BLOCK))


def quantise(values: Float[np.ndarray, "*axes D"], threads: int | None = None) -> Quantised:
    """Quantise finite values, float32 or float16, to int8 and scales.

    A scale is max|value| / 127 of its block rounded up to float16; a block of zeros has scale 1.
    `threads` are by default as many as there are cores.
    """
    from store.format import kernels  # imports numba: as slow as all other imports

    quantised = Quantised(
        aligned_empty(values.shape, np.int8), np.empty(scale_shape(values.shape), np.float16)
    )
    if values.dtype == np.float16:
        kernel, floats = kernels.quantise_float16, np.ascontiguousarray(values).view(np.uint16)
    else:
        kernel, floats = kernels.quantise_float32, np.ascontiguousarray(values, np.float32)
    _shared_out(threads, kernel, floats, quantised.levels, quantised.scale.view(np.uint16))
    return quantised


def misfits(
    name: str, levels: Int8[np.ndarray, "K *axes D"], scale: Float16[np.ndarray, "K *axes blocks"]
) -> dict[int, str]:
    """Return why `quantise` cannot have made rows of a feature: place -> reason."""
    axes = tuple(range(1, levels.ndim))
    fits = (levels.min(axes) >= -127) & (scale.min(axes) > 0) & (scale.max(axes) <= _MOST_SCALE)
    reason = (
        f"{name} is not int8 as a store has it: levels from -127, scales above 0 and at most "
        f"{_MOST_SCALE}"
    )
    return dict.fromkeys(np.flatnonzero(~fits).tolist(), reason)


def dequantise(
    levels: Int8[np.ndarray, "*axes D"],
    scale: Float16[np.ndarray, "*axes blocks"],
    dtype: str = "float32",
) -> Float[np.ndarray, "*axes D"]:
    """Return the values that `quantise` was given, within its error.

    A float16 stops at 65504, where levels * scale may be a little past it.
    """
    from store.format import kernels

    values, stored = (
        np.empty(levels.shape, dtype),
        (np.ascontiguousarray(levels), np.ascontiguousarray(scale)),
    )
    if values.dtype == np.float32:
        _shared_out(None, kernels.to_float32, stored[0], stored[1].view(np.uint16), values)
    else:
        _shared_out(
            None, kernels.to_float16, stored[0], stored[1].view(np.uint16), values.view(np.uint16)
        )
    return values


def _shared_out(threads: int | None, kernel: Callable[..., None], *arrays: np.ndarray) -> None:
    """Run `kernel` over [rows, D] of contiguous arrays [*axes, D], the rows shared out among
    threads."""
    if not arrays[0].size:
        return
    flat = [array.reshape(-1, array.shape[-1]) for array in arrays]
    parts = max(1, min(threads or cores(), arrays[0].size // _LEAST))
    each(lambda share: kernel(*(a[slice(*share)] for a in flat)), shares(len(flat[0]), parts))
