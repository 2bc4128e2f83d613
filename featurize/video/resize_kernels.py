"""The two passes of `featurize.video.resize`, compiled: rows [height, 3 * width], weights of PLACES binary places."""

import numpy as np
from jaxtyping import Int32, UInt8

from featurize.video.resize import PLACES
from stepdiff.common.threads import compiled

_HALF = np.int32(1 << (PLACES - 1))


@compiled
def horizontal(
    picture: UInt8[np.ndarray, "height values"],
    starts: Int32[np.ndarray, " columns"],
    weights: Int32[np.ndarray, "columns taps"],
    out: UInt8[np.ndarray, "height out_values"],
    at_once: int,
) -> None:
    """Fill `out` with resized rows; rows lie side by side in `turned`, so that a loop takes `at_once` of them.

    LLVM makes slower code where it knows that number.
    """
    turned = np.zeros((picture.shape[1], at_once), np.uint8)
    sums = np.empty((3, at_once), np.int32)
    for top in range(0, len(picture), at_once):
        count = min(at_once, len(picture) - top)
        for value in range(picture.shape[1]):
            for row in range(count):
                turned[value, row] = picture[top + row, value]
        for column in range(len(starts)):
            for colour in range(3):
                total = sums[colour]
                for row in range(at_once):
                    total[row] = _HALF
                for tap in range(weights.shape[1]):
                    weight = weights[column, tap]
                    values = turned[3 * (starts[column] + tap) + colour]
                    for row in range(at_once):
                        total[row] += np.int32(values[row]) * weight
                for row in range(count):
                    out[top + row, 3 * column + colour] = np.uint8(min(max(total[row] >> PLACES, 0), 255))


@compiled
def vertical(
    picture: UInt8[np.ndarray, "height values"],
    starts: Int32[np.ndarray, " rows"],
    weights: Int32[np.ndarray, "rows taps"],
    out: UInt8[np.ndarray, "rows values"],
) -> None:
    """Fill `out` with weighted sums of rows."""
    total = np.empty(picture.shape[1], np.int32)
    for row in range(len(starts)):
        for place in range(len(total)):
            total[place] = _HALF
        for tap in range(weights.shape[1]):
            weight = weights[row, tap]
            values = picture[starts[row] + tap]
            for place in range(len(total)):
                total[place] += np.int32(values[place]) * weight
        line = out[row]
        for place in range(len(total)):
            line[place] = np.uint8(min(max(total[place] >> PLACES, 0), 255))
