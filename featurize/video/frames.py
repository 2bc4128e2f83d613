"""Which frames of a clip an encoder sees.

Guarantees
- linspace is the published sampling rule: `numpy.linspace(0, n - 1, count)` truncated to int, over
  the n frames with start <= time < end
- segment-centres cuts those frames into `count` equal segments and takes the middle of each; centre
  repeats the one that a single segment has
- a clip of fewer frames than asked for repeats some, and loses none
"""

from typing import Literal

import numpy as np
from jaxtyping import Int64

Sampling = Literal["linspace", "segment-centres", "centre"]
WORDS: dict[Sampling, str] = {
    "linspace": "linspace(0, n - 1) truncated",
    "segment-centres": "the centres of equal segments of the n frames",
    "centre": "the one at the middle of the n frames, repeated",
}
"""words in the provenance of a view"""


def chosen(n: int, count: int, sampling: Sampling = "linspace") -> Int64[np.ndarray, " count"]:
    """Which of n >= 1 frames are kept, ascending, with repeats where n < count."""
    if sampling == "centre":
        return np.full(count, n // 2, np.int64)
    if sampling == "segment-centres":
        return (2 * np.arange(count, dtype=np.int64) + 1) * n // (2 * count)
    return np.linspace(0, n - 1, count).astype(np.int64)
