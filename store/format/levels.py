"""int8 features with their scales, as floats that a store quantises to the same bits.

Guarantees
- levels and scales that a store wrote are kept to the bit
"""

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int8

from store.format.quantise import BLOCK, dequantise, quantise

_PIECE = 2**22  # values at a time


def exact_floats(
    levels: Int8[np.ndarray, "K *axes D"], scale: Float16[np.ndarray, "K *axes blocks"]
) -> tuple[Float32[np.ndarray, "K *axes D"], Bool[np.ndarray, " K"]]:
    """Return floats that `quantise` turns into these levels and scales, and for which of the K rows it does.

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
            made = quantise(np.where(_wide(finite, levels.ndim), floats[part], np.float32(0)))
        equal = [_rows(a == b) for a, b in ((made.levels, levels[part]), (made.scale, scale[part]))]
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


def _wide(rows: np.ndarray, axes: int) -> np.ndarray:
    return rows.reshape(-1, *[1] * (axes - 1))
