"""Nearest neighbours of a clip, a pair, a text or a file, among all clips or those that a filter lets through.

    python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
    python -m retrieval query --store data/features --view efficientnet-lite0 --reference ID --candidate ID
    python -m retrieval query --store data/features --view clip --text "whisk the eggs"
    python -m retrieval query --store data/features --view efficientnet-lite0 --file pancake.mp4 \
        --where "split = 'train' AND duration > 3" --html sheet.html

Guarantees:
- never_itself: a clip is not its own neighbour, even where others have the same features.
- where_before_nearest: the k nearest are those among the clips that the filter lets through.

What a query asks with: the vector of a clip, of a pair, of a text or of a file.

Guarantees:
- never_itself: the clips that ask are named, so that no search answers with them.
- text_from_the_store: a text's embedding is read from texts/VIEW by the text's key; no encoder runs.
"""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64
from jsonargparse.typing import PositiveInt

from common.cli.options import parse
from common.errors import StepDiffError
from common.io.tables import as_json, check_format, print_table, short, write_table
from retrieval.exact.search import search_exactly
from retrieval.index.factory import FLAT_BELOW
from retrieval.index.index import Index, open_index
from retrieval.index.index_card import card_path
from retrieval.queries.advice import command, fill
from retrieval.queries.where import rows_where
from retrieval.vectors import filled_rows, normalised, width
from store import Store, View, text_key
from store.view import FAILED, OK


@dataclass(frozen=True)
class Asking:
    """A query as a vector."""

    words: str
    """what asks, in a few words"""
    vector: Float32[np.ndarray, " dim"]
    """of length 1"""
    rows: Int64[np.ndarray, " clips"]
    """the rows that ask: no answers"""


def of_clips(store: Store, view: View, feature: str, clips: list[str]) -> Asking:
    """One clip, or a pair, reference first: the average of their normalised embeddings, normalised."""
    rows = np.array([row_of_clip(store, view, clip) for clip in clips])
    average = normalised(store, view, feature, rows).mean(axis=0)
    length = np.sqrt(np.sum(average * average))
    if length == 0:
        raise StepDiffError(f"{' and '.join(clips)} point opposite ways, so their average nowhere: ask with one")
    return Asking(f"{'clip' if len(clips) == 1 else 'pair'} {', '.join(clips)}", (average / length).astype("f4"), rows)


def of_text(store: Store, view: View, feature: str, text: str) -> Asking:
    """A text of the same space. StepDiffError names the commands that add it."""
    return Asking(f"text {short(text)!r}", _text_vector(store, view, feature, text), np.empty(0, np.int64))


def row_of_clip(store: Store, view: View, clip: str) -> int:
    """The row of a clip that has features. StepDiffError suggests what was meant, or says why."""
    row = int(store.catalog("clips").rows([clip])[0])
    if row < 0:
        keys = store.catalog("clips").frame(["key"])["key"].to_list()
        near = difflib.get_close_matches(clip, keys, n=3, cutoff=0.0)
        raise StepDiffError(f"no clip {clip!r} in {store.path}: the nearest ids are {', '.join(near)}")
    status = view.status()[row]
    if status == FAILED:
        reasons = view.failures()
        reason = " ".join(reasons.filter(reasons["key"] == clip)["reason"].to_list())
        raise StepDiffError(
            f"clip {clip} failed in view clips/{view.name} ({reason}): mend it and run "
            "`python -m featurize` with --retry-failed"
        )
    if status != OK:
        raise StepDiffError(
            f"clip {clip} has no features in view clips/{view.name}: run "
            f"{fill(store, view.name, view.provenance.encoder, 'CLIPS.csv')}"
        )
    return row


def _text_vector(store: Store, view: View, feature: str, text: str) -> Float32[np.ndarray, " dim"]:
    name = view.name
    there = store.view("texts", name) if name in store.views("texts") else None
    made_by = (there or view).provenance.encoder
    add = fill(store, name, made_by, "TEXTS.jsonl")
    where = f"the text {short(text)!r} is not in texts/{name} of {store.path}"
    missing = StepDiffError(f"{where}: put it into the column `text` of a file TEXTS.jsonl and run {add}")
    if there is None:
        aligned = command("python", "-m", "heads.embed", "--head", "RUN", "--store", store.path)
        raise StepDiffError(
            f"{where}, which has no texts yet: where {made_by} encodes texts too, put it into the column `text` of a "
            f"file TEXTS.jsonl and run {add}; else query a view that a head trained on texts wrote ({aligned})"
        )
    row = store.catalog("texts").rows([text_key(text)])
    if row[0] < 0 or there.status()[row[0]] != OK:
        raise missing
    ours, theirs = view.provenance.weights, there.provenance.weights
    channels, others = width(view, feature), width(there, feature)
    if ours != theirs or channels != others:
        raise StepDiffError(
            f"texts/{name} and clips/{name} of {store.path} are not one space (weights {theirs[:12]} and "
            f"{ours[:12]}, {others} and {channels} channels): query with --clip"
        )
    return normalised(store, there, feature, row)[0].astype(np.float32)


SHOWN = ("step", "narration", "caption", "activity", "split")  # columns first in the table
IN_THE_ID = ("video", "start", "end")  # columns that the table leaves out: a clip's id tells them
IDENTITY = ("video_bytes", "video_digest")  # and these, which tell one video file from another

Found = tuple[Int64[np.ndarray, " found"], Float32[np.ndarray, " found"]]


@dataclass(frozen=True)
class Options:
    """Nearest neighbours of a clip, a pair, a text or a file, by cosine."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips; beyond 100,000 clips it needs an index (python -m retrieval build)"""
    clip: str | None = None
    """id of the clip whose neighbours are wanted"""
    reference: str | None = None
    """with --candidate: ids of a pair; asks with the average of both embeddings"""
    candidate: str | None = None
    """the pair's second clip"""
    text: str | None = None
    """text whose neighbours are wanted; its embedding has to stand in the same view of texts"""
    file: Path | None = None
    """video or picture whose neighbours are wanted, encoded as the view was"""
    start: float | None = None
    """second at which the clip of --file begins"""
    end: float | None = None
    """second at which it ends"""
    weights: str | None = None
    """weights of the view's encoder for --file: a folder, name or hub id; by default those of its name"""
    where: str | None = None
    """condition on the catalog as after SQL's WHERE, e.g. "step = 'whisk' AND duration > 4": comparisons, AND, OR, NOT,
    IN, LIKE, BETWEEN, IS NULL, arithmetic, lower, upper and length"""
    feature: str | None = None
    """the array of the view that is compared; by default the index's, or embedding"""
    k: int = field(default=10, metadata={"type": PositiveInt})
    """how many neighbours"""
    out: Path | None = None
    """file to write the neighbours to: .parquet, .csv or .jsonl"""
    html: Path | None = None
    """page to write: a contact sheet with frames of the neighbours, all in one file"""
    videos: Path = Path()
    """folder in which the catalog's videos lie, for --html, where their paths are relative"""
    json: bool = False
    """print one JSON object instead of a table"""


def query(store: Store, options: Options) -> tuple[Asking, pl.DataFrame]:
    """What asks, and the k nearest clips, best first: rank, similarity, clip and what the catalog knows of it.

    StepDiffError says why there are none.
    """
    view = store.view("clips", options.view)
    rows = filled_rows(view)
    if options.where is not None:
        rows = np.intersect1d(rows, rows_where(store, "clips", options.where))
    there = card_path(store, "clips", view.name).exists()
    exact = len(rows) <= FLAT_BELOW and (options.where is not None or not there)
    index = None if exact else open_index(store, view)
    feature = options.feature or ("embedding" if index is None else index.card["feature"])
    if index is not None and feature != index.card["feature"]:
        raise StepDiffError(
            f"the index of clips/{view.name} compares {index.card['feature']}, not {feature}: leave --feature out, or "
            f"build one with --feature {feature}"
        )
    asking = ask(store, view, feature, options)
    rows = np.setdiff1d(rows, asking.rows)
    if options.k > len(rows):
        let_through = "" if options.where is None else f" with {options.where}"
        raise StepDiffError(
            f"clips/{view.name} holds {len(rows)} clips to choose from{let_through}, not {options.k}: "
            f"ask for -k {len(rows)} or fewer"
        )
    if index is None:
        nearest, cosines = search_exactly(store, view, feature, rows, asking.vector[None], options.k)
        found = nearest[0], cosines[0]
    else:
        found = nearest_of_index(index, asking, options.k, None if options.where is None else rows)
    frame = store.catalog("clips").frame()[found[0]].drop("row").rename({"key": "clip"})
    ranks = pl.int_range(1, frame.height + 1, eager=True).alias("rank")
    return asking, frame.select(ranks, pl.Series("similarity", found[1].astype(float)), "clip", pl.exclude("clip"))


def ask(store: Store, view: View, feature: str, options: Options) -> Asking:
    """What the options ask with. StepDiffError where they name no one thing, or it has no vector."""
    pair = [options.reference, options.candidate]
    given = [options.clip, options.text, options.file, next((clip for clip in pair if clip is not None), None)]
    if sum(one is not None for one in given) != 1 or (given[3] is not None and None in pair):
        raise StepDiffError(
            "a query is one of a clip, a pair, a text or a file: give --clip ID, --reference ID and --candidate ID, "
            "--text WORDS or --file VIDEO"
        )
    if options.clip is not None:
        return of_clips(store, view, feature, [options.clip])
    if options.text is not None:
        return of_text(store, view, feature, options.text)
    if options.file is not None:
        from retrieval.queries.footage import embed_file

        span = options.start, options.end
        vector = embed_file(store, view, feature, options.file, span, options.weights)
        return Asking(f"file {options.file}", vector, np.empty(0, np.int64))
    return of_clips(store, view, feature, [clip for clip in pair if clip is not None])


def nearest_of_index(index: Index, asking: Asking, k: int, among: Int64[np.ndarray, " rows"] | None) -> Found:
    """The k nearest rows that the index finds other than those that ask, and their cosines."""
    rows, cosines = (found[0] for found in index.search(asking.vector[None], k + len(asking.rows), among))
    keep = np.flatnonzero((rows >= 0) & ~np.isin(rows, asking.rows))[:k]
    return rows[keep], cosines[keep]


def run(options: Options) -> int:
    """The verb `query`; returns the exit status."""
    if options.out is not None:
        check_format(options.out)
    store = Store.open(options.store)
    asking, hits = query(store, options)
    if hits.height < options.k:
        print(f"the index found {hits.height} of {options.k}: build one that looks further", file=sys.stderr)
    if options.out is not None:
        write_table(options.out, hits)
    if options.html is not None:
        _write_sheet(options.html, store, asking, hits, options)
    if options.json:
        names = ("clip", "reference", "candidate", "text", "file", "where")
        asked = {name: str(value) for name in names if (value := getattr(options, name)) is not None}
        print(json.dumps({**asked, "view": options.view, "hits": as_json(hits)}))
    elif options.out is None and options.html is None:
        shown = [name for name in hits.columns if name not in IN_THE_ID + IDENTITY]
        shown.sort(key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN))
        print_table(hits.select(shown), ["rank", "similarity", "clip"], f"nearest to {asking.words} in {options.view}")
    for file in (options.out, options.html):
        if file is not None and not options.json:
            print(f"{file}: {hits.height} clips nearest to {asking.words} in {options.view}")
    return 0


def _write_sheet(path: Path, store: Store, asking: Asking, hits: pl.DataFrame, options: Options) -> None:
    from retrieval.queries.footage import frames, span_of
    from retrieval.queries.sheet import SIDE, STRIP, Tile, tile, write_sheet

    known = store.catalog("clips").frame()[asking.rows].to_dicts()
    asked = [tile(one["key"], one, options.videos) for one in known]
    if options.file is not None:
        span = span_of(options.file, (options.start, options.end))
        asked = [Tile(options.file.name, frames(options.file, span, STRIP, SIDE))]
    found = [tile(hit["clip"], hit, options.videos, hit["rank"], hit["similarity"]) for hit in hits.to_dicts()]
    below = f"view {options.view} of {store.path}" + (f", only {options.where}" if options.where else "")
    write_sheet(path, f"Nearest to {asking.words}", below, asked, found)


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval query", Options.__doc__, run)
