"""The loops of `store.format.quantise`, compiled: rows [R, D], for int8 in blocks of 64 channels,
one pass over memory.

numba knows no float16 on a CPU, so a float16 is its 16 bits here, and every bit is as numpy would
round it. The kernels hold no lock: threads share the rows out, and not numba's own threads, which
end a process that uses them after a fork.
"""

import math

import numpy as np
from jaxtyping import Float32, Int8, UInt16

from stepdiff_core.threads import compiled

BLOCK = 64
_BIAS = np.int32(112 << 23)  # between the exponents of float16 and float32
_SMALLEST = np.int32(0x38800000)  # float32 bits of 2**-14, the least normal float16
_LARGEST = np.int32(0x477FE000)  # float32 bits of 65504, the greatest float16
_PAST = np.int32(0x47800000)  # float32 bits of 65536, an infinity in float16
_MAGNITUDE = np.int32(0x7FFFFFFF)
_STEP = np.float32(2**-24)  # of float16 below its normal range
_STEPS = np.float32(2**24)
_HALF, _HALF_BITS = np.float32(0.5), np.int32(0x3F000000)  # float32 numbers at 0.5 lie 2**-24 apart


@compiled
def _from_float16(bits: int) -> np.float32:
    """Return the float32 of a float16 that is neither negative nor past its range."""
    if bits < 0x400:
        return np.float32(bits) * _STEP
    return np.int32((bits << 13) + _BIAS).view(np.float32)


@compiled
def _float16_bits(value: np.float32, largest: np.int32) -> np.uint16:
    """Return a float32 rounded to the nearest float16, half to even; `largest`: bits of the
    greatest magnitude."""
    bits = np.float32(value).view(np.int32)
    size = np.int32(min(np.int32(bits & _MAGNITUDE), largest))
    normal = (size - _BIAS + np.int32(0xFFF) + ((size >> 13) & 1)) >> 13
    tiny = np.float32(size.view(np.float32) + _HALF).view(np.int32) - _HALF_BITS
    return np.uint16(((bits >> 16) & 0x8000) | (tiny if size < _SMALLEST else normal))


@compiled
def _scale_bits(exact: np.float32) -> np.uint16:
    """Return a positive float32 rounded up to float16; 1 for zero."""
    bits = np.float32(exact).view(np.int32)
    if bits == 0:
        return np.uint16(0x3C00)
    if bits < _SMALLEST:
        return np.uint16(math.ceil(exact * _STEPS))
    return np.uint16((bits - _BIAS + 0x1FFF) >> 13)


@compiled
def _quantise_block(values: Float32[np.ndarray, " C"], levels: Int8[np.ndarray, " C"]) -> np.uint16:
    """Fill `levels` of one block; returns the bits of its scale."""
    peak = np.int32(0)  # as integers, magnitudes compare like floats, and many at once
    for d in range(len(values)):
        peak = max(peak, np.int32(np.float32(values[d]).view(np.int32) & _MAGNITUDE))
    bits = _scale_bits(np.float32(np.int32(peak).view(np.float32) / np.float32(127)))
    step = np.float32(_from_float16(bits))
    for d in range(len(values)):
        levels[d] = np.int8(np.rint(values[d] / step))
    return bits


@compiled
def quantise_float32(
    values: Float32[np.ndarray, "R D"],
    levels: Int8[np.ndarray, "R D"],
    scale: UInt16[np.ndarray, "R blocks"],
) -> None:
    """Fill `levels` and `scale` from finite `values`."""
    for row in range(values.shape[0]):
        for block in range(scale.shape[1]):
            start = block * BLOCK
            made = levels[row, start : start + BLOCK]
            scale[row, block] = _quantise_block(values[row, start : start + BLOCK], made)


@compiled
def quantise_float16(
    values: UInt16[np.ndarray, "R D"],
    levels: Int8[np.ndarray, "R D"],
    scale: UInt16[np.ndarray, "R blocks"],
) -> None:
    """Fill `levels` and `scale` from the bits of finite float16 values."""
    for row in range(values.shape[0]):
        for block in range(scale.shape[1]):
            start = block * BLOCK
            halves, made = values[row, start : start + BLOCK], levels[row, start : start + BLOCK]
            peak = np.int32(0)
            for d in range(len(halves)):
                peak = max(peak, np.int32(halves[d] & 0x7FFF))
            bits = _scale_bits(np.float32(_from_float16(peak) / np.float32(127)))
            step = np.float32(_from_float16(bits))
            for d in range(len(halves)):
                size = _from_float16(np.int32(halves[d] & 0x7FFF))
                made[d] = np.int8(np.rint((-size if halves[d] > 0x7FFF else size) / step))
            scale[row, block] = bits


@compiled
def to_float32(
    levels: Int8[np.ndarray, "R D"],
    scale: UInt16[np.ndarray, "R blocks"],
    out: Float32[np.ndarray, "R D"],
) -> None:
    """Fill `out` with levels * scale."""
    for row in range(levels.shape[0]):
        for block in range(scale.shape[1]):
            start = block * BLOCK
            values, made = levels[row, start : start + BLOCK], out[row, start : start + BLOCK]
            step = np.float32(_from_float16(scale[row, block]))
            for d in range(len(values)):
                made[d] = np.float32(values[d]) * step


@compiled
def to_float16(
    levels: Int8[np.ndarray, "R D"],
    scale: UInt16[np.ndarray, "R blocks"],
    out: UInt16[np.ndarray, "R D"],
) -> None:
    """Fill `out` with the float16 bits of levels * scale, at most 65504 in magnitude."""
    for row in range(levels.shape[0]):
        for block in range(scale.shape[1]):
            start = block * BLOCK
            values, made = levels[row, start : start + BLOCK], out[row, start : start + BLOCK]
            step = np.float32(_from_float16(scale[row, block]))
            for d in range(len(values)):
                made[d] = _float16_bits(np.float32(values[d]) * step, _LARGEST)


@compiled
def round_float32(values: Float32[np.ndarray, "R D"], out: UInt16[np.ndarray, "R D"]) -> None:
    """Fill `out` with the float16 bits of `values`; what is past float16, and NaN, is infinity."""
    for row in range(values.shape[0]):
        for d in range(values.shape[1]):
            out[row, d] = _float16_bits(values[row, d], _PAST)
