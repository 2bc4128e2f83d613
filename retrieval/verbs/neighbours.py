"""The nearest neighbours of every clip among those of its own step, for whole training sets.

    python -m retrieval neighbours --store data/features --view efficientnet-lite0 -k 8 --out data/neighbours.parquet

The rows of a view are sorted by step and cut into pieces: as many whole steps as fit, or a run of a larger step.
A piece is compared with all rows of its steps, which are read from the store block by block, and its answer is
written beside the output, in the folder OUT.parts, before the next piece begins.

Guarantees:
- equal_to_the_naive_join: neighbours are found exactly; only cosines that differ by less than a float32 shows (1e-6)
  may stand in the other order.
- resumed_after_a_kill: a run that died goes on with the first piece that is not there, and ends in the same file.
- memory_is_bounded: of vectors, one piece and one block are in memory, whatever the size of a step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64
from jsonargparse.typing import PositiveInt

from common.cli.options import parse
from common.errors import StepDiffError
from common.io.files import whole
from common.progress import progress
from retrieval.exact.best import Best
from retrieval.index.index_card import digest
from retrieval.known import known, video_numbers
from retrieval.vectors import BLOCK, blocks, compact, filled_rows, rows_that_fit, width
from store import Store, View

PIECE = 65_536  # rows of a piece at most: what a kill may cost


@dataclass(frozen=True)
class Options:
    """The nearest neighbours of every clip among the clips of its own step, found exactly."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips"""
    out: Path
    """Parquet file to write: clip, the column of --within, neighbours and similarities (best first)"""
    within: str = "step"
    """column of the catalog in which neighbours have the same value; clips without a value are left out"""
    k: int = field(default=8, metadata={"type": PositiveInt})
    """neighbours of a clip, fewer where its step has fewer"""
    other_videos: bool = False
    """leave out neighbours from the clip's own video"""
    max_memory: str = "4GB"
    """memory that may be used"""
    feature: str = "embedding"
    """the array of the view that is compared"""
    json: bool = False
    """print the counts as one JSON object"""


@dataclass(frozen=True)
class Sorted:
    """The rows to be joined, those of a group together."""

    frame: pl.DataFrame
    """key, the column of the groups, and video where it is asked for, a row each"""
    rows: Int64[np.ndarray, " n"]
    apart: Int64[np.ndarray, " n"]
    """rows of equal value are no neighbours: the row itself, or its video"""
    bounds: Int64[np.ndarray, " groups_and_one"]


def join(store: Store, options: Options) -> int:
    """Writes the neighbours of every clip; returns how many clips. StepDiffError says what is missing."""
    view = store.view("clips", options.view)
    given = _sort(store, view, options)
    fit = rows_that_fit(options.max_memory, len(given.rows), width(view, options.feature), more=60 * options.k)
    most = min(fit, PIECE)
    asked = {
        "rows": digest(store, view, given.rows), "groups": hashlib.sha256(given.bounds.tobytes()).hexdigest(),
        "view": view.name, "feature": options.feature, "within": options.within, "k": options.k,
        "other_videos": options.other_videos, "piece": most,
    }  # fmt: skip
    parts = _parts_folder(options.out, asked)
    files, clips = [], 0
    with progress("joined clips", len(given.rows)) as advance:
        for piece in pieces(given.bounds, most):
            file = parts / f"{piece.start:012d}.parquet"
            if not file.exists():
                frame = _join_piece(store, view, options, given, piece)
                with whole(file) as temporary:
                    frame.write_parquet(temporary)
            files.append(file)
            clips += piece.stop - piece.start
            advance(piece.stop - piece.start)
    with whole(options.out) as temporary:
        try:
            written = pl.scan_parquet(files, glob=False)
            if (rows := written.select(pl.len()).collect().item()) != clips:
                raise pl.exceptions.ComputeError(f"{rows} clips of {clips}")
            written.sink_parquet(temporary)
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().splitlines()[0]
            raise StepDiffError(f"a piece in {parts} is damaged ({reason}): delete that folder and repeat") from error
    shutil.rmtree(parts)
    return len(given.rows)


def pieces(bounds: Int64[np.ndarray, " groups_and_one"], most: int) -> Iterator[slice]:
    """Runs of at most `most` rows: whole groups, or a part of one group that is larger."""
    start = 0
    for first, end in pairwise(bounds.tolist()):
        if end - start > most and start < first:
            yield slice(start, first)
            start = first
        if end - first > most:
            yield from (slice(at, min(at + most, end)) for at in range(first, end, most))
            start = end
    if start < bounds[-1]:
        yield slice(start, int(bounds[-1]))


def _sort(store: Store, view: View, options: Options) -> Sorted:
    frame = known(store, "clips", ["key", options.within, *(["video"] if options.other_videos else [])])
    filled = filled_rows(view)
    frame = frame[filled].with_columns(row=pl.Series(filled))
    frame = frame.filter(pl.col(options.within).is_not_null()).sort(options.within, "row")
    if not frame.height:
        raise StepDiffError(
            f"no clip with features in clips/{view.name} has a value in column {options.within!r}: name another column"
        )
    rows = frame["row"].to_numpy()
    apart = video_numbers(frame["video"]) if options.other_videos else rows
    starts = np.flatnonzero(frame[options.within].rle_id().diff().fill_null(1).to_numpy())
    return Sorted(frame.drop("row"), rows, apart, np.append(starts, len(rows)))


def _parts_folder(out: Path, asked: dict[str, Any]) -> Path:
    """The folder of the pieces, made where there is none. StepDiffError where it holds those of another join."""
    folder = out.with_name(out.name + ".parts")
    card = folder / "join.json"
    try:
        folder.mkdir(exist_ok=True)
        if not card.exists():
            with whole(card) as temporary:
                temporary.write_text(json.dumps(asked), encoding="utf-8")
        known = json.loads(card.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepDiffError(f"cannot write {folder}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        known = None
    different = list(asked)
    if isinstance(known, dict):
        different = [name for name, value in asked.items() if known.get(name) != value]
    if different:
        raise StepDiffError(
            f"{folder} holds pieces of another join ({', '.join(different)} differ): delete it, or name another --out"
        )
    return folder


def _join_piece(store: Store, view: View, options: Options, given: Sorted, piece: slice) -> pl.DataFrame:
    """The neighbours of the rows of a piece."""
    asking = compact(store, view, options.feature, given.rows[piece])
    best = Best.none(len(asking), options.k)
    first = int(np.searchsorted(given.bounds, piece.start, side="right")) - 1
    for start, end in pairwise(given.bounds[first:].tolist()):
        if start >= piece.stop:
            break
        inside = slice(max(start, piece.start), min(end, piece.stop))
        mine = slice(inside.start - piece.start, inside.stop - piece.start)
        for group, vectors in _candidates(store, view, options.feature, given, slice(start, end), piece, asking):
            best.of(mine).see(asking[mine], given.apart[inside], vectors, group, given.apart[group])
    asked, rank = np.nonzero(best.rows >= 0)
    found = pl.DataFrame(
        {
            "place": asked,
            "neighbours": given.frame["key"].gather(best.rows[asked, rank]),
            "similarities": best.cosines[asked, rank],
        }
    )
    clips = given.frame[piece].select(
        pl.int_range(pl.len()).alias("place"), pl.col("key").alias("clip"), options.within
    )
    lists = found.group_by("place", maintain_order=True).all()
    joined = clips.join(lists, on="place", how="left", maintain_order="left").drop("place")
    return joined.with_columns(pl.col("neighbours", "similarities").fill_null([]))


def _candidates(
    store: Store,
    view: View,
    feature: str,
    given: Sorted,
    group: slice,
    piece: slice,
    held: Float32[np.ndarray, "piece dim"],
) -> Iterator[tuple[Int64[np.ndarray, " block"], Float32[np.ndarray, "block dim"]]]:
    """Places and vectors of a group: those that the piece holds, if that is all of it, else block by block."""
    places = np.arange(group.start, group.stop)
    if piece.start <= group.start and group.stop <= piece.stop:
        yield places, held[group.start - piece.start : group.stop - piece.start]
        return
    read = blocks(store, view, feature, given.rows[group])
    for start, (rows, vectors) in zip(range(0, len(places), BLOCK), read, strict=True):
        yield places[start : start + len(rows)], vectors.astype(np.float32)


def run(options: Options) -> int:
    """The verb `neighbours`; returns the exit status."""
    clips = join(Store.open(options.store), options)
    if options.json:
        print(json.dumps({"clips": clips, "k": options.k, "within": options.within, "out": str(options.out)}))
    else:
        print(f"{options.out}: {options.k} neighbours or fewer of {clips} clips, each of the same {options.within}")
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval neighbours", Options.__doc__, run)
