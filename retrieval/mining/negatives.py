"""DiffMCQ questions from embeddings of the store.

Guarantees
- every_option_has_features: a clip without features is refused, so every question can be answered
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from common.errors import StepDiffError
from common.io.tables import short
from retrieval.mining.variants import Drawn, TestSet, Variant, hard_negatives, random_negatives
from retrieval.vectors import fill_command, normalised
from store import Store, View, text_key
from store.view import OK
from tasks.testsets import read_test_set


def draw(
    store: Store,
    view: View,
    file: Path,
    variant: Variant = "V1",
    text_view: str = "mpnet-base",
    threshold: float = 0.8,
    feature: str = "embedding",
    seed: int = 0,
) -> Drawn:
    """Return the questions of a DiffCap file. Raises StepDiffError that names the command to add missing features."""
    test_set = TestSet.of_rows(read_test_set("diffcap", file, published_ids=False))
    if not test_set.differences:
        raise StepDiffError(f"the test set {file} contains no difference text: name a DiffCap file")
    rows = _rows_of_clips(store, view, test_set.clips)
    if variant == "V3":
        return random_negatives(test_set, seed)
    clips = normalised(store, view, feature, rows)
    texts = _texts(store, text_view, test_set, file)
    return hard_negatives(test_set, clips, texts, variant, threshold, seed)


def _rows_of_clips(store: Store, view: View, clips: Sequence[str]) -> Int64[np.ndarray, " clips"]:
    rows = store.catalog("clips").rows(clips)
    missing = np.flatnonzero(~_filled(view, rows))
    if len(missing):
        raise StepDiffError(
            f"{_and_more(clips[missing[0]], len(missing))} of the test set have no features in "
            f"clips/{view.name} of {store.path}: run "
            f"{fill_command(store, view.name, view.provenance.encoder, 'CLIPS.csv')}, or remove the "
            f"rows of failed clips from the test set"
        )
    return rows


def _texts(store: Store, name: str, test_set: TestSet, file: Path) -> Float64[np.ndarray, "texts text_dim"]:
    view = store.view("texts", name) if name in store.views("texts") else None
    rows = store.catalog("texts").rows([text_key(text) for text in test_set.texts])
    missing = np.flatnonzero(~_filled(view, rows)) if view is not None else np.arange(len(rows))
    if view is None or len(missing):
        encoder = view.provenance.encoder if view is not None else name
        first = repr(short(test_set.texts[missing[0]]))
        raise StepDiffError(
            f"{_and_more(first, len(missing))} of the difference texts are not in texts/{name} of "
            f"{store.path}: run {fill_command(store, name, encoder, file)}"
        )
    return normalised(store, view, "embedding", rows)


def _filled(view: View, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    known = rows >= 0
    known[known] = view.status()[rows[known]] == OK
    return known


def _and_more(first: str, count: int) -> str:
    return first if count == 1 else f"{first} and {count - 1} more"
