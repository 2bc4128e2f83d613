"""Which frames of a clip an encoder sees.

Guarantees
- the published rule: `numpy.linspace(0, n - 1, count)` truncated to int, over the n frames with
  start <= time < end
- a clip of fewer frames than asked for repeats some, and loses none
"""

import numpy as np
from jaxtyping import Float64, Int64


def chosen(n: int, count: int) -> Int64[np.ndarray, " count"]:
    """Which of n >= 1 frames are kept, ascending, with repeats where n < count."""
    return np.linspace(0, n - 1, count).astype(np.int64)


def between(times: Float64[np.ndarray, " n"], start: float, end: float) -> tuple[int, int]:
    """First frame of a clip and the one behind its last: start <= time < end.

    `times` are seconds, ascending; so are start and end.
    """
    first, last = np.searchsorted(times, [start, end], side="left")
    return int(first), int(last)
