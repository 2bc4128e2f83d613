"""What a query asks with: the vector of a clip, of a pair, of a text or of a file.

Guarantees:
- never_itself: the clips that ask are named, so that no search answers with them.
- text_from_the_store: a text's embedding is read from texts/VIEW by the text's key; no encoder runs.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from common.errors import StepDiffError
from common.io.tables import short
from retrieval.queries.advice import command, fill
from retrieval.vectors import normalised, width
from store import Store, View, text_key


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
    if status == 2:
        reasons = view.failures()
        reason = " ".join(reasons.filter(reasons["key"] == clip)["reason"].to_list())
        raise StepDiffError(
            f"clip {clip} failed in view clips/{view.name} ({reason}): mend it and run "
            "`python -m featurize` with --retry-failed"
        )
    if status != 1:
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
    if row[0] < 0 or there.status()[row[0]] != 1:
        raise missing
    ours, theirs = view.provenance.weights, there.provenance.weights
    channels, others = width(view, feature), width(there, feature)
    if ours != theirs or channels != others:
        raise StepDiffError(
            f"texts/{name} and clips/{name} of {store.path} are not one space (weights {theirs[:12]} and "
            f"{ours[:12]}, {others} and {channels} channels): query with --clip"
        )
    return normalised(store, there, feature, row)[0].astype(np.float32)
