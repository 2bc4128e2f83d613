"""Is one method's figure above another's? Both figures are taken from the same resamples, so that what makes a draw of
videos easy or hard for both cancels.

Guarantees
- p is that of counting, resample by resample, on which side of zero the difference falls, widened for few groups
- no difference is rejected as often as the level says, of few groups as well
- p is never 0: no number of resamples shows more than that
- corrected values are Holm's: the smallest level at which his procedure rejects
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy import stats


def paired_p(differences: Float64[np.ndarray, " resamples"], groups: int) -> float | None:
    """Two-sided p of "there is no difference", from differences of two figures on the same resamples of `groups`.

    The smaller of the shares at or below and at or above zero, one resample added to each count for the test set
    itself, as a normal variable's distance from zero; then twice Student's share beyond it, as
    tasks.metrics.bootstrap.tail_share has it. Resamples where a figure is undefined (NaN) are left out; None where none
    is left.
    """
    known = differences[np.isfinite(differences)]
    if len(known) == 0:
        return None
    fewer = min(np.sum(known <= 0), np.sum(known >= 0))
    distance = stats.norm.ppf(min(0.5, (1 + fewer) / (1 + len(known))))
    return float(2 * stats.t.cdf(distance * math.sqrt((groups - 1) / groups), groups - 1))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979: the family's error stays below the level)."""
    order = np.argsort(values, kind="stable")
    steps = np.array(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
