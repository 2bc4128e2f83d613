"""Near-duplicate clips: the same footage in two videos, for example after a re-upload.

Two clips of different videos whose cosine reaches the threshold are duplicates. In the order of the
store, a clip joins the group of the earliest first clip that it is a duplicate of, or is the first
clip of a group itself.

Guarantees
- `exact` misses no pair at or above the threshold and counts none below it, up to the rounding of
  float32 (1e-6)
- every clip of a group is a duplicate of its first clip; clips of one video are not duplicates of
  each other
- `against` keeps what chains of duplicates connect, so that it misses no copy
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64

from retrieval.exact import compiled
from retrieval.index.device import Device
from retrieval.index.index import Index, check_feature, open_index
from retrieval.mining.neighbours import columns, refuse_own, video_numbers
from retrieval.vectors import BLOCK, Rows, blocks, compact, filled_rows, width
from stepdiff_core.progress import progress
from store import Store, View

HELD_BYTES = 2**32  # of rows that are held in memory and compared with all others
TILE = 1024  # rows compared with a block at a time
CANDIDATES = 16  # nearest rows of each row that are requested from an index
ROUNDING = 1e-6  # of a float32 cosine

Clips = Int64[np.ndarray, " n"]
"""a number for each clip"""
Pairs = tuple[
    Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"], Float32[np.ndarray, " pairs"]
]
"""positions of two clips, the lower first, and their cosine"""


def duplicates(
    store: Store,
    view: View,
    threshold: float = 0.98,
    against: str | None = None,
    by: Literal["exact", "index"] = "exact",
    feature: str | None = None,
    device: Device = "cpu",
) -> pl.DataFrame:
    """Return clips that have duplicates: group, clip, similarity, copy, video, and the column of
    `against`.

    Groups are numbered from 1 in the order of their first clips, which come first, and the others
    by similarity. A group has one clip where its copies are in other groups.

    Args:
        threshold: Least cosine of duplicates.
        against: Catalog column, e.g. split: keep only clips that chains of duplicates connect with
            another value of it.
        by: "exact" compares all pairs, in n * n * D / 2 multiplications; "index" compares each clip
            with the nearest ones that the view's index finds.
        feature: Embedding to compare; None: the index's, or `embedding`.
        device: Where the index is searched (`open_index`).
    """
    refuse_own("--against", against, ("key", "group", "clip", "similarity", "copy"))
    rows = filled_rows(view)
    frame = columns(store, "clips", ["key", "video", *([] if against is None else [against])])[rows]
    video, n = video_numbers(frame["video"]), len(rows)
    # the first clip of its group; a forest whose trees are the chains
    first_of, parent = np.arange(n), np.arange(n)
    # the most similar clip of another video
    nearest, cosine = np.full(n, -1), np.full(n, -np.inf, np.float32)
    bar = np.float32(threshold - ROUNDING)
    if by == "index":
        pairs = _pairs_of_index(open_index(store, view, device), feature, rows, bar)
    else:
        name = feature or "embedding"
        pairs = _all_pairs(view, name, rows, HELD_BYTES // (4 * width(view, name)), bar)
    for first, second, cosines in pairs:
        join(first, second, cosines, video, first_of, parent, nearest, cosine)
    while (parent != parent[parent]).any():
        parent = parent[parent]
    alike = np.flatnonzero(nearest >= 0)
    clips = frame[alike].select(
        pl.Series("group", first_of[alike]),
        pl.col("key").alias("clip"),
        pl.Series("similarity", cosine[alike].astype(float)),
        frame["key"].gather(nearest[alike]).alias("copy"),
        pl.exclude("key"),
    )
    if against is not None:
        clips = clips.filter(
            pl.col(against).drop_nulls().n_unique().over(pl.Series(parent[alike])) > 1
        )
    # the first clip of a group has a duplicate, if any clip has
    later = pl.int_range(pl.len()).over("group") > 0
    return clips.with_columns(pl.col("group").rank("dense").cast(pl.Int64)).sort(
        "group", later, "similarity", descending=[False, False, True], maintain_order=True
    )


def _all_pairs(view: View, feature: str, rows: Rows, most: int, bar: np.float32) -> Iterator[Pairs]:
    """Yield all pairs that reach the bar, in the order that `join` needs.

    `most` rows at a time are held in memory, and compared with all rows from there.
    """
    starts = range(0, len(rows), most)
    with progress(
        "compared blocks", sum(-(-(len(rows) - start) // BLOCK) for start in starts)
    ) as advance:
        for start in starts:
            held = compact(view, feature, rows[start : start + most])
            following = range(start, len(rows), BLOCK)
            for other, (_, block) in zip(
                following, blocks(view, feature, rows[start:]), strict=True
            ):
                for tile in range(0, min(len(held), other + len(block) - start), TILE):
                    cosines = held[tile : tile + TILE] @ block.T
                    first, second = np.nonzero(cosines >= bar)
                    yield start + tile + first, other + second, cosines[first, second]
                advance(1)


def _pairs_of_index(
    index: Index, feature: str | None, rows: Rows, bar: np.float32
) -> Iterator[Pairs]:
    """Yield the pairs that reach the bar among each row and the nearest rows of the index, as
    `join` needs them."""
    check_feature(index, feature)
    k = min(CANDIDATES, len(rows))
    with progress("searched clips", len(rows)) as advance:
        for part, vectors in blocks(index.view, index.card["feature"], rows):
            hits, cosines = index.search(vectors, k)
            one, rank = np.nonzero(cosines >= bar)
            first, second = np.searchsorted(rows, part[one]), np.searchsorted(rows, hits[one, rank])
            low, high = np.minimum(first, second), np.maximum(first, second)
            order = np.lexsort((high, low, one))
            yield low[order], high[order], cosines[one, rank][order]
            advance(len(part))


@compiled
def join(
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    cosines: Float32[np.ndarray, " pairs"],
    video: Clips,
    first_of: Clips,
    parent: Clips,
    nearest: Clips,
    cosine: Float32[np.ndarray, " n"],
) -> None:
    """Add pairs of different videos to groups and chains, and update the nearest duplicate of both
    clips.

    The pairs of a clip with earlier clips must come before those with later clips: whether it is a
    first clip is known from then on.
    """
    for at in range(len(first)):
        a, b = first[at], second[at]
        if a >= b or video[a] == video[b]:
            continue
        for one, other in ((a, b), (b, a)):
            if cosines[at] > cosine[one]:
                cosine[one], nearest[one] = cosines[at], other
        if first_of[a] == a:
            first_of[b] = min(first_of[b], a)
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        parent[max(a, b)] = min(a, b)
