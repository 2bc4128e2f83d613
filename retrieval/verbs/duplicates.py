"""Near-duplicate clips: the same footage in two videos, such as a re-upload.

    python -m retrieval duplicates --store data/features --view efficientnet-lite0 --threshold 0.98
    python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split --out copies.parquet

Two clips of different videos whose cosine is at the threshold or above are copies, and copies of copies are one group.
With `--against split` only groups are kept that stand in more than one split: their training clips are those to leave
out, so that no copy of a test clip trains.

Exact compares all pairs, block by block: half of n * n * D multiplications. For many millions of clips, `--by index`
compares each clip with the nearest that the view's index finds, by exact cosines.

Guarantees:
- equal_to_all_pairs: by `exact` no pair at or above the threshold is missed, and none below it counts, as far as a
  float32 tells (1e-6).
- connected: two clips share a group where a chain of copies leads from one to the other.
- never_the_same_video: clips of one video are no copies of each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64
from jsonargparse.typing import ClosedUnitInterval

from common.cli.options import parse
from common.io.tables import as_json, check_format, print_table, write_table
from common.progress import progress
from retrieval.exact.kernels import compiled
from retrieval.index.index import open_index
from retrieval.known import known, video_numbers
from retrieval.vectors import BLOCK, blocks, compact, filled_rows, rows_that_fit, width
from store import Store, View

TILE = 1024  # rows compared with a block at a time
CANDIDATES = 16  # nearest rows of each that an index is asked for
SHOWN = 50  # rows of the table that is printed
ROUNDING = 1e-6  # a float32 cosine may show this much less

Pairs = tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"], Float32[np.ndarray, " pairs"]]
"""places of two clips, the first before the second, and their cosine"""


@dataclass(frozen=True)
class Options:
    """Groups of clips that show the same footage in different videos."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips"""
    threshold: float = field(default=0.98, metadata={"type": ClosedUnitInterval})
    """cosine from which on two clips are copies; it depends on the encoder: look at some with `query --html`"""
    against: str | None = None
    """column of the catalog, e.g. split: keep only groups in which it has more than one value"""
    by: Literal["exact", "index"] = "exact"
    """exact compares all pairs; index only the nearest that the view's index finds, for many millions of clips"""
    out: Path | None = None
    """file to write the groups to: .parquet, .csv or .jsonl"""
    max_memory: str = "4GB"
    """memory that may be used"""
    feature: str = "embedding"
    """the array of the view that is compared"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclass(frozen=True)
class Copies:
    """What is known so far of n clips: which are one group, and the nearest copy of each."""

    video: Int64[np.ndarray, " n"]
    parent: Int64[np.ndarray, " n"]
    """a forest: clips with the same root are one group"""
    nearest: Int64[np.ndarray, " n"]
    """place of the most similar clip of another video, -1 where none is at the threshold"""
    cosine: Float32[np.ndarray, " n"]

    @classmethod
    def none(cls, video: Int64[np.ndarray, " n"]) -> Copies:
        """No copies yet."""
        count = len(video)
        return cls(video, np.arange(count), np.full(count, -1), np.full(count, -np.inf, np.float32))

    def roots(self) -> Int64[np.ndarray, " n"]:
        """The root of each clip's tree: its group."""
        roots = self.parent
        while (roots != roots[roots]).any():
            roots = roots[roots]
        return roots


def duplicates(store: Store, options: Options) -> pl.DataFrame:
    """Clips that have copies: group, clip, similarity, copy, video, and the column of `against`.

    Groups are numbered from 1 in the order of their first clips. StepDiffError: a column that the catalog lacks, a row
    without a direction, too little memory, or no index.
    """
    view = store.view("clips", options.view)
    against = [] if options.against in (None, "video") else [str(options.against)]
    rows = filled_rows(view)
    frame = known(store, "clips", ["key", "video", *against])[rows]
    copies = Copies.none(video_numbers(frame["video"]))
    bar = np.float32(options.threshold - ROUNDING)
    pairs = _near_by_index(store, view, rows, bar) if options.by == "index" else _near(store, view, options, rows, bar)
    for first, second, cosines in pairs:
        _join(first, second, cosines, copies.video, copies.parent, copies.nearest, copies.cosine)
    return _groups(frame, copies, options.against)


def _near(
    store: Store, view: View, options: Options, rows: Int64[np.ndarray, " n"], bar: np.float32
) -> Iterator[Pairs]:
    """All pairs at the bar or above it: a piece of the rows, held in memory, against it and all that follows."""
    most = rows_that_fit(options.max_memory, len(rows), width(view, options.feature))
    starts = range(0, len(rows), most)
    with progress("compared blocks", sum(-(-(len(rows) - start) // BLOCK) for start in starts)) as advance:
        for start in starts:
            held = compact(store, view, options.feature, rows[start : start + most])
            behind = range(start, len(rows), BLOCK)
            for other, (_, vectors) in zip(behind, blocks(store, view, options.feature, rows[start:]), strict=True):
                block = vectors.astype(np.float32)
                for tile in range(0, min(len(held), other + len(block) - start), TILE):
                    cosines = held[tile : tile + TILE] @ block.T
                    first, second = np.nonzero(cosines >= bar)
                    yield start + tile + first, other + second, cosines[first, second]
                advance(1)


def _near_by_index(store: Store, view: View, rows: Int64[np.ndarray, " n"], bar: np.float32) -> Iterator[Pairs]:
    """The pairs at the bar or above it among each row and the nearest that the index finds."""
    index = open_index(store, view)
    k = min(CANDIDATES, len(rows))
    with progress("searched clips", len(rows)) as advance:
        for part, vectors in blocks(store, view, index.card["feature"], rows):
            hits, cosines = index.search(vectors.astype(np.float32), k)
            one, rank = np.nonzero(cosines >= bar)
            first, second = np.searchsorted(rows, part[one]), np.searchsorted(rows, hits[one, rank])
            yield np.minimum(first, second), np.maximum(first, second), cosines[one, rank]
            advance(len(part))


@compiled
def _join(
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    cosines: Float32[np.ndarray, " pairs"],
    video: Int64[np.ndarray, " n"],
    parent: Int64[np.ndarray, " n"],
    nearest: Int64[np.ndarray, " n"],
    cosine: Float32[np.ndarray, " n"],
) -> None:
    """Makes one group of each pair's clips where they are of two videos, and keeps the nearest copy of both."""
    for at in range(len(first)):
        a, b = first[at], second[at]
        if a >= b or video[a] == video[b]:
            continue
        for one, other in ((a, b), (b, a)):
            if cosines[at] > cosine[one]:
                cosine[one], nearest[one] = cosines[at], other
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        parent[max(a, b)] = min(a, b)


def _groups(frame: pl.DataFrame, copies: Copies, against: str | None) -> pl.DataFrame:
    """The clips that have a copy, group by group, most similar first."""
    found = np.flatnonzero(copies.nearest >= 0)
    groups = frame[found].select(
        pl.Series("group", copies.roots()[found]),
        pl.col("key").alias("clip"),
        pl.Series("similarity", copies.cosine[found].astype(float)),
        frame["key"].gather(copies.nearest[found]).alias("copy"),
        pl.exclude("key"),
    )
    if against is not None:
        groups = groups.filter(pl.col(against).drop_nulls().n_unique().over("group") > 1)
    return groups.with_columns(pl.col("group").rank("dense").cast(pl.Int64)).sort(
        "group", "similarity", descending=[False, True], maintain_order=True
    )


def run(options: Options) -> int:
    """The verb `duplicates`; returns the exit status."""
    if options.out is not None:
        check_format(options.out)
    store = Store.open(options.store)
    found = duplicates(store, options)
    groups = found["group"].n_unique()
    of = f" in more than one {options.against}" if options.against else ""
    groups_of = f"{groups} {'group' if groups == 1 else 'groups'}{of}"
    told = f"{groups_of}, {found.height} clips with a copy at {options.threshold:g} or above in {options.view}"
    if options.out is not None:
        write_table(options.out, found)
    if options.json:
        print(json.dumps({"groups": groups, "threshold": options.threshold, "clips": as_json(found)}))
    elif options.out is not None:
        print(f"{options.out}: {told}")
    else:
        print_table(found.head(SHOWN), ["group", "clip", "similarity", "copy"], told)
        if found.height > SHOWN:
            print(f"the first {SHOWN} of {found.height} clips: give --out FILE for all of them", file=sys.stderr)
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval duplicates", Options.__doc__, run)
