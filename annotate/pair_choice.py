"""Which two clips make a pair: drawn by seed out of all that a step has.

No list of all pairs is ever made. The clips of a step are sorted by video. A clip's partners are those of the videos
behind its own, so that the pairs of a step are numbered without gaps, and a number tells its two clips by one search.

Guarantees
- every pair of clips of one step and of two videos is as likely as any other
- no pair comes twice, in either order
- a step gives all the pairs that it has, or as many as the cap
- the pairs of a step depend on the seed, its name and its clips, on no other step
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer

from common.streams import generator

_DRAWS = 4  # random pairs for each one that is wanted: most are of different steps


def same_step(
    step: Integer[np.ndarray, " C"], video: Integer[np.ndarray, " C"], names: Sequence[str], cap: int, seed: int
) -> Int64[np.ndarray, "P 2"]:
    """At most `cap` pairs a step, as places of their two clips, which stands first by a toss; step by step.

    step: of each clip, as a place in `names`.
    """
    order = np.lexsort((video, step))
    starts, step_end = _groups(step[order])
    _, video_end = _groups(step[order], video[order])
    numbered = np.concatenate(
        [[0], np.cumsum(step_end - video_end)]
    )  # pairs before those that each clip comes first in
    numbers: list[int] = []
    tosses: list[int] = []
    for clip, low, high in zip(
        order[starts], numbered[starts].tolist(), numbered[step_end[starts]].tolist(), strict=True
    ):
        count = min(cap, high - low)
        if count:
            rng = generator(seed, "pairs of a step", names[step[clip]])
            numbers += (low + rng.choice(high - low, count, replace=False)).tolist()
            tosses += rng.integers(2, size=count).tolist()
    number, toss = np.array(numbers, np.int64), np.array(tosses, bool)
    first = np.searchsorted(numbered, number, side="right") - 1
    second = video_end[first] + number - numbered[first]
    return np.stack([order[np.where(toss, second, first)], order[np.where(toss, first, second)]], axis=1)


def other_step(
    step: Integer[np.ndarray, " C"], video: Integer[np.ndarray, " C"], count: int, seed: int
) -> Int64[np.ndarray, "Q 2"]:
    """At most `count` pairs of clips of different steps and videos, as places; fewer where there are few."""
    if not len(step):
        return np.zeros((0, 2), np.int64)
    rng = generator(seed, "pairs of other steps", len(step))
    drawn = rng.integers(len(step), size=(_DRAWS * count, 2))
    drawn = drawn[(step[drawn[:, 0]] != step[drawn[:, 1]]) & (video[drawn[:, 0]] != video[drawn[:, 1]])]
    _, once = np.unique(np.sort(drawn, axis=1), axis=0, return_index=True)
    return drawn[np.sort(once)[:count]]


def _groups(*keys: Integer[np.ndarray, " C"]) -> tuple[Int64[np.ndarray, " groups"], Int64[np.ndarray, " C"]]:
    """Where runs of equal keys start, and for each place where its run ends."""
    size = len(keys[0])
    change = np.zeros(max(size - 1, 0), bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    starts = np.concatenate([np.zeros(min(size, 1), np.int64), np.flatnonzero(change) + 1])
    ends = np.append(starts[1:], size)[: len(starts)]
    return starts, np.repeat(ends, ends - starts)
