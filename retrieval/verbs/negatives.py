"""DiffMCQ questions from the command line: the store's embeddings in, a questions file out.

Guarantees:
- every_option_has_features: a clip without features is refused, so any question can be answered.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from jsonargparse.typing import ClosedUnitInterval

from common.cli.options import parse
from common.errors import StepDiffError
from common.io.tables import short
from retrieval.mining.differences import TestSet
from retrieval.mining.variants import Drawn, Variant, hard_negatives, random_negatives
from retrieval.queries.advice import fill
from retrieval.vectors import normalised
from store import Store, View, text_key
from store.view import OK
from tasks.testsets import read_test_set, write_test_set


@dataclass(frozen=True)
class Options:
    """Make DiffMCQ questions out of a DiffCap test set: three negatives for each difference."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips, by which pairs look alike"""
    test_set: Path
    """DiffCap file (JSON lines with reference, candidate, category, text)"""
    out: Path
    """DiffMCQ file to write"""
    variant: Variant = "V1"
    """V1: no clip shared with the true pair; V2: clips may be shared, the pair may not;
    V3: one clip is kept, the other drawn at random"""
    text_view: str = "mpnet-base"
    """feature view of the texts, by which differences say the same (V1 and V2)"""
    threshold: float = field(default=0.8, metadata={"type": ClosedUnitInterval})
    """cosine of two difference texts above which they say the same (V1 and V2)"""
    feature: str = "embedding"
    """the array of the clips' view that is compared"""
    seed: int = 0
    """decides the order of the options, and what V3 draws"""
    json: bool = False
    """print the counts as one JSON object"""


def draw(store: Store, options: Options) -> Drawn:
    """The questions of `options`. StepDiffError names what the store lacks."""
    test_set = TestSet.of_rows(read_test_set("diffcap", options.test_set, published_ids=False))
    if not test_set.differences:
        raise StepDiffError(f"the test set {options.test_set} holds no difference text: name a DiffCap file")
    view = store.view("clips", options.view)
    rows = _rows_of_clips(store, view, test_set.clips)
    if options.variant == "V3":
        return random_negatives(test_set, options.seed)
    clips = normalised(store, view, options.feature, rows)
    texts = _texts(store, options, test_set)
    return hard_negatives(test_set, clips, texts, options.variant, options.threshold, options.seed)


def _rows_of_clips(store: Store, view: View, clips: Sequence[str]) -> Int64[np.ndarray, " clips"]:
    rows = store.catalog("clips").rows(clips)
    missing = np.flatnonzero(~_filled(view, rows))
    if len(missing):
        raise StepDiffError(
            f"{_and_more(clips[missing[0]], len(missing))} of the test set have no features in "
            f"clips/{view.name} of {store.path}: run "
            f"{fill(store, view.name, view.provenance.encoder, 'CLIPS.csv')}, or leave the "
            f"rows of clips that failed out of the test set"
        )
    return rows


def _texts(store: Store, options: Options, test_set: TestSet) -> Float64[np.ndarray, "texts text_dim"]:
    name = options.text_view
    view = store.view("texts", name) if name in store.views("texts") else None
    rows = store.catalog("texts").rows([text_key(text) for text in test_set.texts])
    there = _filled(view, rows) if view is not None else np.zeros(len(rows), bool)
    missing = np.flatnonzero(~there)
    if view is None or len(missing):
        encoder = view.provenance.encoder if view is not None else name
        first = repr(short(test_set.texts[missing[0]]))
        raise StepDiffError(
            f"{_and_more(first, len(missing))} of the difference texts are not in texts/{name} of "
            f"{store.path}: run {fill(store, name, encoder, options.test_set)}"
        )
    return normalised(store, view, "embedding", rows)


def _filled(view: View, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    status = view.status()
    known = rows >= 0
    known[known] = status[rows[known]] == OK
    return known


def _and_more(first: str, count: int) -> str:
    return first if count == 1 else f"{first} and {count - 1} more"


def run(options: Options) -> int:
    """The verb `negatives`; returns the exit status."""
    store = Store.open(options.store)
    drawn = draw(store, options)
    total = len(drawn.questions) + drawn.dropped
    if not drawn.questions:
        raise StepDiffError(
            f"none of the {total} differences of {options.test_set} has three negatives: the test set needs more pairs"
        )
    write_test_set("diffmcq", options.out, drawn.questions)
    if options.json:
        counts = {"questions": len(drawn.questions), "dropped": drawn.dropped}
        asked = {"variant": options.variant, "seed": options.seed, "threshold": options.threshold}
        print(json.dumps({**counts, **asked, "out": str(options.out)}))
    else:
        print(f"{options.out}: {len(drawn.questions)} {options.variant} questions")
        if drawn.dropped:
            print(f"{drawn.dropped} of {total} had fewer than three negatives", file=sys.stderr)
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval negatives", Options.__doc__, run)
