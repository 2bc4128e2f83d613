"""Nearest neighbours of many rows at once, for training on hard pairs, and of every clip of a
training set (`join`).

`join` sorts the rows of a view by step and divides them into pieces: as many whole steps as fit, or
a run of a larger step. Each piece is compared with all rows of its steps, which are read from the
store block by block. Its result is written to the folder OUT.parts before the next piece starts.

Guarantees
- neighbours are exact and sorted by falling cosine, then by row, and never the row itself; only
  cosines that differ by less than the rounding of float32 (1e-6) may be in another order
- an interrupted `join` continues with the first missing piece, and writes the same file
- the vectors of one piece and one block are in memory, whatever the size of a step
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from retrieval.exact import Candidates, Found, nearest_of, without_itself
from retrieval.index.index import open_index
from retrieval.index.index_card import digest
from retrieval.vectors import BLOCK, Rows, Vectors, blocks, compact, filled_rows, width
from retrieval.verbs.files import Neighbours
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io.files import whole, write_text
from stepdiff_core.progress import progress
from store import Store, View


def neighbours(store: Store, view: View, rows: Rows, k: int, same: str | None = None) -> Found:
    """Return the k nearest filled rows of each of `rows` and their cosines, best first; -1 and -inf
    after the last.

    Args:
        same: Catalog column, e.g. `step`: only rows with an equal value are neighbours, found
            exactly; a row without a value has none. By default the view's index is searched.
    """
    empty = np.flatnonzero(~np.isin(rows, filled_rows(view)))
    if len(empty):
        keys = store.catalog(view.entity).keys(rows[empty[:1]])
        raise StepDiffError(
            f"{keys[0]} and {len(empty) - 1} more rows have no features in "
            f"{view.entity}/{view.name}: leave them out, or run `python -m featurize` for them"
        )
    hits, similarities = (
        np.full((len(rows), k), -1, np.int64),
        np.full((len(rows), k), -np.inf, np.float32),
    )
    if same is None:
        index = open_index(store, view)
        starts = range(0, len(rows), BLOCK)
        for start, (part, queries) in zip(
            starts, blocks(view, index.card["feature"], rows), strict=True
        ):
            some = slice(start, start + len(part))
            hits[some], similarities[some] = without_itself(index.search(queries, k + 1), part, k)
        return hits, similarities
    frame = columns(store, view.entity, ["row", same])
    filled = filled_rows(view)
    for group in frame.filter(frame[same].is_not_null()).partition_by(same):
        members = np.intersect1d(group["row"].to_numpy(), filled)
        here = np.flatnonzero(np.isin(rows, members))
        if not len(here):
            continue
        vectors = compact(view, "embedding", members)
        places, similarities[here] = nearest(vectors, np.searchsorted(members, rows[here]), k)
        hits[here] = np.where(places < 0, -1, members[places])
    return hits, similarities


def nearest(vectors: Vectors, queries: Int64[np.ndarray, " queries"], k: int) -> Found:
    """Return the positions of the k other vectors nearest to each vector at `queries`, and their
    cosines, best first.

    `vectors` have length 1. Where fewer exist, the position is -1 and the cosine -inf.
    """
    places = np.arange(len(vectors))
    return nearest_of(vectors[queries], queries, [(places, vectors, places)], k)


PIECE = 65_536  # rows of a piece, at most: the work that an interruption can lose


@dataclass(frozen=True)
class Sorted:
    """The rows to join, sorted by group."""

    view: View
    feature: str
    frame: pl.DataFrame  # key, the column of the groups, and video if it matters, of each row
    rows: Rows
    # rows with equal values are not neighbours: the row itself, or its video
    apart: Int64[np.ndarray, " n"]
    bounds: Int64[np.ndarray, " groups_and_one"]


def join(options: Neighbours) -> dict[str, Any]:
    """Write clip, `within`, neighbours and similarities of every clip as Parquet; return the number
    of clips."""
    store, view = options.opened()
    out, within, k = options.out, options.within, options.k
    feature, other_videos = options.feature, options.other_videos
    refuse_own("--within", within, ("key", "row", "clip", "neighbours", "similarities"))
    frame = columns(store, "clips", ["key", within, *(["video"] if other_videos else [])])
    filled = filled_rows(view)
    frame = frame[filled].with_columns(row=pl.Series(filled))
    frame = frame.filter(pl.col(within).is_not_null()).sort(within, "row")
    if not frame.height:
        raise StepDiffError(
            f"no clip with features in clips/{view.name} has a value in column {within!r}: name "
            "another column"
        )
    rows = frame["row"].to_numpy()
    apart = video_numbers(frame["video"]) if other_videos else rows
    starts = np.flatnonzero(frame[within].rle_id().diff().fill_null(1).to_numpy())
    grouped = Sorted(view, feature, frame.drop("row"), rows, apart, np.append(starts, len(rows)))
    width(view, feature)  # refuses tokens before OUT.parts is made
    made_of = {
        "rows": digest(view, grouped.rows),
        "groups": hashlib.sha256(grouped.bounds.tobytes()).hexdigest(),
        "view": view.name,
        "feature": feature,
        "within": within,
        "k": k,
        "other_videos": other_videos,
        "piece": PIECE,
    }
    parts = _parts_folder(out, made_of)
    files, clips = [], 0
    with progress("joined clips", len(grouped.rows)) as advance:
        for piece in pieces(grouped.bounds, PIECE):
            file = parts / f"{piece.start:012d}.parquet"
            if not file.exists():
                joined = _join_piece(grouped, within, k, piece)
                with whole(file) as temporary:
                    joined.write_parquet(temporary)
            files.append(file)
            clips += piece.stop - piece.start
            advance(piece.stop - piece.start)
    with whole(out) as temporary:
        try:
            written = pl.scan_parquet(files, glob=False)
            if (count := written.select(pl.len()).collect().item()) != clips:
                raise pl.exceptions.ComputeError(f"{count} clips of {clips}")
            written.sink_parquet(temporary)
        except pl.exceptions.PolarsError as error:
            reason = first_line(error)
            raise StepDiffError(
                f"a piece in {parts} is damaged ({reason}): delete that folder and repeat"
            ) from error
    shutil.rmtree(parts)
    return {"clips": clips, "k": k, "within": within, "out": str(out)}


def pieces(bounds: Int64[np.ndarray, " groups_and_one"], most: int) -> Iterator[slice]:
    """Yield runs of at most `most` rows: whole groups, or a part of one larger group."""
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


def _parts_folder(out: Path, options: dict[str, Any]) -> Path:
    """Return the folder of the pieces, created if missing. StepDiffError if it holds pieces of
    another join."""
    folder = out.with_name(out.name + ".parts")
    card = folder / "join.json"
    try:
        folder.mkdir(exist_ok=True)
        if not card.exists():
            write_text(card, json.dumps(options))
        recorded = json.loads(card.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepDiffError(f"cannot write {folder}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        recorded = None
    different = list(options)
    if isinstance(recorded, dict):
        different = [name for name, value in options.items() if recorded.get(name) != value]
    if different:
        raise StepDiffError(
            f"{folder} holds pieces of another join ({', '.join(different)} differ): delete it, or "
            "name another --out"
        )
    return folder


def _join_piece(grouped: Sorted, within: str, k: int, piece: slice) -> pl.DataFrame:
    """Return the neighbours of the rows of a piece."""
    queries = compact(grouped.view, grouped.feature, grouped.rows[piece])
    rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    first = int(np.searchsorted(grouped.bounds, piece.start, side="right")) - 1
    for start, end in pairwise(grouped.bounds[first:].tolist()):
        if start >= piece.stop:
            break
        inside = slice(max(start, piece.start), min(end, piece.stop))
        mine = slice(inside.start - piece.start, inside.stop - piece.start)
        candidates = _candidates(grouped, slice(start, end), piece, queries)
        rows[mine], cosines[mine] = nearest_of(queries[mine], grouped.apart[inside], candidates, k)
    query, rank = np.nonzero(rows >= 0)
    keys = grouped.frame["key"].gather(rows[query, rank])
    pairs = pl.DataFrame(
        {"_place": query, "neighbours": keys, "similarities": cosines[query, rank]}
    )
    clips = grouped.frame[piece].select(
        pl.int_range(pl.len()).alias("_place"), pl.col("key").alias("clip"), within
    )
    lists = pairs.group_by("_place", maintain_order=True).all()
    joined = clips.join(lists, on="_place", how="left", maintain_order="left").drop("_place")
    return joined.with_columns(pl.col("neighbours", "similarities").fill_null([]))


def _candidates(grouped: Sorted, group: slice, piece: slice, held: Vectors) -> Iterator[Candidates]:
    """Yield positions, vectors and `apart` of a group: from the piece if it holds all of them, else
    block by block."""
    places = np.arange(group.start, group.stop)
    if piece.start <= group.start and group.stop <= piece.stop:
        yield (
            places,
            held[group.start - piece.start : group.stop - piece.start],
            grouped.apart[places],
        )
        return
    starts = range(group.start, group.stop, BLOCK)
    for start, (rows, vectors) in zip(
        starts, blocks(grouped.view, grouped.feature, grouped.rows[group]), strict=True
    ):
        block = places[start - group.start : start - group.start + len(rows)]
        yield block, vectors, grouped.apart[block]


def refuse_own(option: str, name: str | None, output_columns: Sequence[str]) -> None:
    """Raise StepDiffError if a column of the catalog has a name that `output_columns` contains."""
    if name in output_columns:
        raise StepDiffError(
            f"{option} {name}: the output needs that name itself: name another column of the "
            "catalog"
        )


def columns(store: Store, entity: str, names: Sequence[str]) -> pl.DataFrame:
    """Return columns of the catalog in row order. Raises StepDiffError that lists the existing
    ones."""
    frame = store.catalog(entity).frame(list(dict.fromkeys(names)))
    for name in names:
        if name not in frame.columns:
            existing = ", ".join(store.catalog(entity).frame().columns)
            raise StepDiffError(f"{entity} have no column {name!r}: the catalog has {existing}")
    return frame


def video_numbers(videos: pl.Series) -> Int64[np.ndarray, " clips"]:
    """Return a number for the video of each clip; a clip with unknown video has a number of its
    own."""
    itself = -1 - pl.int_range(len(videos), eager=True)
    return videos.rank("dense").cast(pl.Int64).fill_null(itself).to_numpy()
