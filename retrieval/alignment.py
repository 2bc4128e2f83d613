"""Two clips in step: dynamic time warping over their moments.

    view = Store.open("data/features").view("clips", "efficientnet-lite0")
    first = read_moments(view, "kitchen_0002_0.50_4.25")
    alignment = align(first, read_moments(view, "kitchen_0005_0.50_4.00"))
    alignment.warp(1.5)  # the time in the second clip
    alignment.only_first  # [(2.4, 3.1)]: seconds of the first clip; the second has nothing similar

The path begins at the first moments of both clips and ends at the last ones. Each of its pairs
costs the cosine distance of the two moments. From a pair it goes on to the next moment of the first
clip, of the second clip or of both (the standard step pattern), and its sum of costs is the
smallest. Actions in another order cannot be aligned: the path only goes forward.

A moment is in one clip only if the other clip has nothing similar at any time: the distance to its
nearest moment there is more than `margin` above the median of these distances, over the moments of
both clips. What differs all the time, such as another bowl, is part of the median. The path is not
used, so an action at another time is not missing. The path reaches both ends, so `warp` has no
meaning if one clip has something that the other lacks.

Guarantees
- no other path costs less
- `warp` never goes back in time
- exchanging the clips exchanges `only_first` and `only_second`
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import ArrayLike

from retrieval.moments import Moments
from stepdiff_core.errors import StepDiffError

FEWEST = 8
"""moments of a clip below which an alignment has a warning"""
MARGIN = 0.04
"""cosine distance, chosen on val clips of the sample world for frames of efficientnet-lite0"""
Spans = list[tuple[float, float]]
"""start and end in seconds"""


@dataclass(frozen=True)
class Alignment:
    """Which moment of one clip goes with which of another."""

    first: Moments
    second: Moments
    path: Int64[np.ndarray, "P 2"]
    """moments of the first and second clip, from both begins to both ends"""
    cost: Float64[np.ndarray, " P"]
    """cosine distance of each pair of the path, 0 to 2"""
    only_first: Spans
    only_second: Spans
    warning: str
    """empty, or why not to rely on this alignment"""

    @property
    def mean_cost(self) -> float:
        """Return the mean of `cost`."""
        return float(self.cost.mean())

    def warp(self, seconds: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Return the times in the second clip for times in the first; linear between moments."""
        return _warped(seconds, self.path, self.first, self.second)

    def warp_back(self, seconds: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Return the times in the first clip for times in the second; linear between moments."""
        return _warped(seconds, self.path[:, ::-1], self.second, self.first)


def align(first: Moments, second: Moments, margin: float = MARGIN) -> Alignment:
    """Align two clips by dynamic time warping.

    Args:
        first: T moments of a clip.
        second: U moments of another clip, with as many channels.
        margin: Cosine distance above the median from which a moment is in one clip only. It depends
            on the encoder.

    Raises:
        StepDiffError: Moments of different channels.
    """
    channels = first.vectors.shape[1], second.vectors.shape[1]
    if channels[0] != channels[1]:
        raise StepDiffError(
            f"{first.clip} has {channels[0]} channels and {second.clip} {channels[1]}: read both "
            "from one view"
        )
    costs = np.maximum(1 - _unit(first.vectors) @ _unit(second.vectors).T, 0)
    path = cheapest_path(costs)
    cost = costs[path[:, 0], path[:, 1]]
    nearest = costs.min(axis=1), costs.min(axis=0)
    bar = float(np.median(np.concatenate(nearest))) + margin
    only_first, only_second = (
        _spans(nearest[0] > bar, first.seconds),
        _spans(nearest[1] > bar, second.seconds),
    )
    few = [f"{m.clip} has {len(m.seconds)}" for m in (first, second) if len(m.seconds) < FEWEST]
    warning = f"too few moments to rely on: {' and '.join(few)}, of {FEWEST} or more" if few else ""
    return Alignment(first, second, path, cost, only_first, only_second, warning)


def cheapest_path(costs: Float64[np.ndarray, "T U"]) -> Int64[np.ndarray, "P 2"]:
    """Return the pairs from the first to the last of both with the smallest sum of costs."""
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    step = np.zeros((rows, columns), np.int64)  # 0 both go on, 1 the first, 2 the second
    for row, values in enumerate(costs.tolist()):
        above, behind = total[row].tolist(), np.inf
        for column, cost in enumerate(values):
            ways = (above[column], above[column + 1], behind)
            step[row, column] = way = ways.index(min(ways))
            total[row + 1, column + 1] = behind = ways[way] + cost
    row, column = rows - 1, columns - 1
    path = [(row, column)]
    while row or column:
        way = step[row, column]
        row, column = row - (way != 2), column - (way != 1)
        path.append((row, column))
    return np.array(path[::-1], np.int64)


def _unit(vectors: Float[np.ndarray, "T D"]) -> Float64[np.ndarray, "T D"]:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _warped(
    seconds: ArrayLike, path: Int64[np.ndarray, "P 2"], one: Moments, other: Moments
) -> Float64[np.ndarray, "..."]:
    """Return the mean time of the moments that go with each moment of one clip, interpolated
    between them."""
    count = np.bincount(path[:, 0])
    with_it = np.bincount(path[:, 0], other.seconds[path[:, 1]]) / count
    return np.asarray(np.interp(np.asarray(seconds, np.float64), one.seconds, with_it))


def _spans(chosen: Bool[np.ndarray, " T"], seconds: Float[np.ndarray, " T"]) -> Spans:
    """Return the runs of chosen moments; each moment reaches half-way to its neighbours."""
    edges = np.concatenate([seconds[:1], (seconds[1:] + seconds[:-1]) / 2, seconds[-1:]])
    change = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(float(edges[start]), float(edges[end])) for start, end in change.reshape(-1, 2)]
