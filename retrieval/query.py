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

from retrieval.errors import RetrievalError, command
from retrieval.index import Index, open_index
from retrieval.vectors import normalised, width
from store import Store, View, text_key

SHOWN = ("step", "activity", "split", "narration", "caption")  # columns first in the table
IN_THE_ID = ("video", "start", "end")  # columns the table leaves out: a clip's id tells them
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
            f"{featurize(store, view.provenance.encoder, view.name, 'CLIPS.csv')}"
        )
    return row


def featurize(store: Store, encoder: str, view: str, manifest: object) -> str:
    """The command that fills `view` from a manifest."""
    named = [] if encoder == view else ["--view", view]
    start = ["python", "-m", "featurize", "--manifest", manifest, "--store", store.path]
    return command(*start, "--encoder", encoder, *named)


def _text_vector(store: Store, index: Index, text: str) -> Float32[np.ndarray, "1 dim"]:
    """The normalised embedding of a text. RetrievalError names the commands that add it."""
    name, feature = index.view.name, index.card["feature"]
    encoder = index.view.provenance.encoder
    missing = RetrievalError(
        f"the text {text!r} is not in texts/{name} of {store.path}: put it into the column `text` "
        f"of a file TEXTS.jsonl and run {featurize(store, encoder, name, 'TEXTS.jsonl')} "
        f"(where a head made the view: featurize TEXTS.jsonl with the head's text encoder, then "
        f"{command('python', '-m', 'heads.embed', '--head', 'RUN', '--store', store.path)})"
    )
    if name not in store.views("texts"):
        raise missing
    view = store.view("texts", name)
    row = store.catalog("texts").rows([text_key(text)])
    if row[0] < 0 or view.status()[row[0]] != 1:
        raise missing
    if width(view, feature) != index.card["dim"]:
        raise RetrievalError(
            f"texts/{name} has {width(view, feature)} channels and clips/{name} "
            f"{index.card['dim']}: they are not one space, query with --clip"
        )
    return normalised(store, view, feature, row).astype(np.float32)


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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [name for name in hits[0].columns if name not in IN_THE_ID] if hits else []
    columns.sort(key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN))
    what = f"clip {options.clip}" if options.clip is not None else f"text {options.text!r}"
    table = Table("rank", "similarity", "clip", *columns, title=f"nearest to {what} in {options.view}")
    for hit in hits:
        cells = [_short(hit.columns[name]) for name in columns]
        table.add_row(str(hit.rank), f"{hit.similarity:.4f}", *map(Text, [hit.clip, *cells]))
    Console(file=sys.stdout).print(table)


def _short(value: object) -> str:
    words = "" if value is None else " ".join(str(value).split())
    return words if len(words) <= WIDEST else words[: WIDEST - 1] + "…"
