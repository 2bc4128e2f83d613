"""Nearest neighbours of a clip or a text.

    python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
    python -m retrieval query --store data/features --view clip --text "whisk the eggs"

Guarantees:
- never_itself: a clip is not its own neighbour, even where others have the same features.
- text_from_the_store: a text's embedding is read from texts/VIEW by the text's key; no encoder runs.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from jsonargparse.typing import PositiveInt

from retrieval.advice import command, fill
from retrieval.errors import RetrievalError
from retrieval.index import Index, open_index
from retrieval.vectors import normalised, width
from store import Store, View, text_key

SHOWN = ("step", "narration", "caption", "activity", "split")  # columns first in the table
IN_THE_ID = ("video", "start", "end")  # columns the table leaves out: a clip's id tells them
PIPED_WIDTH = 200  # characters of the table where no terminal says how many fit
NARROWEST = 18  # characters of a column; columns that would get fewer are left out
MARGIN = 3  # characters around a column
WIDEST = 60  # characters of a cell


@dataclass(frozen=True)
class Options:
    """Nearest neighbours of a clip, or of a text, by cosine."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips; it needs an index (python -m retrieval build)"""
    clip: str | None = None
    """id of the clip whose neighbours are wanted"""
    text: str | None = None
    """text whose neighbours are wanted; its embedding has to stand in the same view of texts"""
    k: int = field(default=10, metadata={"type": PositiveInt})
    """how many neighbours"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclass(frozen=True)
class Hit:
    """One neighbour: its cosine, and what the catalog knows of it."""

    rank: int
    similarity: float
    clip: str
    columns: dict[str, Any]


def query(store: Store, options: Options) -> list[Hit]:
    """The k nearest clips, best first. RetrievalError says why there are none."""
    if (options.clip is None) == (options.text is None):
        raise RetrievalError("a query is either a clip or a text: give --clip ID or --text WORDS")
    view = store.view("clips", options.view)
    index = open_index(store, view)
    if options.clip is not None:
        row = row_of_clip(store, view, options.clip)
        vector = normalised(store, view, index.card["feature"], np.array([row]))
        rows, similarities = nearest(index, vector.astype(np.float32), options.k, row)
    else:
        vector = _text_vector(store, index, str(options.text))
        rows, similarities = nearest(index, vector, options.k, None)
    frame = store.catalog("clips").frame()
    hits = []
    for rank, (row, similarity) in enumerate(zip(rows, similarities, strict=True), start=1):
        columns = frame.row(int(row), named=True)
        del columns["row"]
        hits.append(Hit(rank, float(similarity), columns.pop("key"), columns))
    return hits


def nearest(
    index: Index, vector: Float32[np.ndarray, "1 dim"], k: int, itself: int | None
) -> tuple[Int64[np.ndarray, " found"], Float32[np.ndarray, " found"]]:
    """The k nearest rows other than `itself`, and their cosines."""
    others = len(index) - (itself is not None)
    if k > others:
        raise RetrievalError(
            f"the index of {index.view.entity}/{index.view.name} holds {others} clips to choose "
            f"from, not {k}: ask for -k {others} or fewer"
        )
    rows, similarities = (found[0] for found in index.search(vector, k + (itself is not None)))
    keep = np.flatnonzero((rows >= 0) & (rows != (-1 if itself is None else itself)))[:k]
    return rows[keep], similarities[keep]


def row_of_clip(store: Store, view: View, clip: str) -> int:
    """The row of a clip that has features. RetrievalError suggests what was meant, or says why."""
    row = int(store.catalog("clips").rows([clip])[0])
    if row < 0:
        keys = store.catalog("clips").frame()["key"].to_list()
        near = difflib.get_close_matches(clip, keys, n=3, cutoff=0.0)
        raise RetrievalError(f"no clip {clip!r} in {store.path}: the nearest ids are {', '.join(near)}")
    status = view.status()[row]
    if status == 2:
        reasons = view.failures()
        reason = " ".join(reasons.filter(reasons["key"] == clip)["reason"].to_list())
        raise RetrievalError(
            f"clip {clip} failed in view clips/{view.name} ({reason}): mend it and run "
            "`python -m featurize` with --retry-failed"
        )
    if status != 1:
        raise RetrievalError(
            f"clip {clip} has no features in view clips/{view.name}: run "
            f"{fill(store, view.name, view.provenance.encoder, 'CLIPS.csv')}"
        )
    return row


def _text_vector(store: Store, index: Index, text: str) -> Float32[np.ndarray, "1 dim"]:
    """The normalised embedding of a text. RetrievalError names the commands that add it."""
    name, feature = index.view.name, index.card["feature"]
    there = store.view("texts", name) if name in store.views("texts") else None
    made_by = (there or index.view).provenance.encoder
    add = fill(store, name, made_by, "TEXTS.jsonl")
    where = f"the text {short(text)!r} is not in texts/{name} of {store.path}"
    missing = RetrievalError(f"{where}: put it into the column `text` of a file TEXTS.jsonl and run {add}")
    if there is None:
        aligned = command("python", "-m", "heads.embed", "--head", "RUN", "--store", store.path)
        raise RetrievalError(
            f"{where}, which has no texts yet: where {made_by} encodes texts too, put it into the column `text` of a "
            f"file TEXTS.jsonl and run {add}; else query a view that a head trained on texts wrote ({aligned})"
        )
    row = store.catalog("texts").rows([text_key(text)])
    if row[0] < 0 or there.status()[row[0]] != 1:
        raise missing
    ours, theirs = index.view.provenance.weights, there.provenance.weights
    if ours != theirs or width(there, feature) != index.card["dim"]:
        raise RetrievalError(
            f"texts/{name} and clips/{name} of {store.path} are not one space (weights {theirs[:12]} and "
            f"{ours[:12]}, {width(there, feature)} and {index.card['dim']} channels): query with --clip"
        )
    return normalised(store, there, feature, row).astype(np.float32)


def run(options: Options) -> int:
    """The verb `query`; returns the exit status."""
    hits = query(Store.open(options.store), options)
    if options.json:
        import json

        found = [{"rank": h.rank, "similarity": h.similarity, "clip": h.clip, **h.columns} for h in hits]
        asked = {"clip": options.clip} if options.clip is not None else {"text": options.text}
        print(json.dumps({**asked, "view": options.view, "hits": found}, default=str))
    else:
        _print_table(hits, options)
    return 0


def _print_table(hits: list[Hit], options: Options) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=max(console.width, PIPED_WIDTH))
    columns = [name for name in hits[0].columns if name not in IN_THE_ID] if hits else []
    columns.sort(key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN))
    fixed = ["rank", "similarity", "clip"]  # never cut: an id is there to be copied
    longest = max((len(hit.clip) for hit in hits), default=0)
    space = max(console.width - len("rank similarity") - longest - MARGIN * len(fixed), 0)
    columns = columns[: space // NARROWEST]
    each = min(space // max(len(columns), 1) - MARGIN, WIDEST)
    what = f"clip {options.clip}" if options.clip is not None else f"text {short(options.text)!r}"
    title = Text(f"nearest to {what} in {options.view}")
    table = Table(*fixed, *columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    for hit in hits:
        cells = [hit.clip, *(short(hit.columns[name], each) for name in columns)]
        table.add_row(str(hit.rank), f"{hit.similarity:.4f}", *map(Text, cells))
    console.print(table)


def short(value: object, widest: int = WIDEST) -> str:
    """A value on one line of at most `widest` characters."""
    words = "" if value is None else " ".join(str(value).split())
    return words if len(words) <= widest else words[: widest - 1] + "…"
