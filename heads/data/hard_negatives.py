"""Hard negatives for training: "Which video ...?" about a clip and one that looks similar.

The clip that answers the question keeps its place in the pair. The other one is replaced by a clip drawn from the
nearest neighbours of the first among the train split's clips of the same step. A neighbour may show what the question
is about too: no text about it is checked.

Guarantees
- a neighbour is a clip of the train split, of the same step, and never the clip itself
- no clip that is held out is a neighbour
- questions of other kinds keep their pair, and so do those about a clip without neighbours
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float

from common.errors import StepDiffError
from heads.data.clips import Features
from heads.data.hold_out import HoldOut
from heads.data.packing import Turn
from retrieval import nearest
from retrieval.vectors import normalised
from store import Store
from tasks.prompts import VIDEOS

Questions = tuple[tuple[str, str], list[Turn]]


class HardNegatives:
    def __init__(
        self, catalog: pl.DataFrame, features: Features, neighbours: int, hold_out: HoldOut | None = None
    ) -> None:
        """Select the clips; call `mine` before `with_neighbours`. catalog: key, split, step, known to `hold_out`."""
        missing = {"split", "step"} - set(catalog.columns)
        if missing:
            raise StepDiffError(
                f"hard negatives: the store's catalog has no column {', '.join(sorted(missing))}; featurize with a "
                "manifest that has it, or drop video_lm.hard_negatives"
            )
        rows = catalog.filter((pl.col("split") == "train") & pl.col("step").is_not_null())
        rows = rows.filter(pl.Series(features.has(rows["key"].to_list()), dtype=pl.Boolean))
        if hold_out is not None:
            rows = hold_out.keep(rows, "hard-negative mining")
        self.clips: list[str] = rows["key"].to_list()
        steps = rows.with_row_index("place").group_by("step", maintain_order=True).agg("place")
        self.groups = [places.to_numpy() for places in steps["place"]]
        self.neighbours = neighbours
        self.near: dict[str, list[str]] = {}

    def embeddings(self, store: Store, view: str) -> Float[np.ndarray, "C D"]:
        """Return the view's embedding of every clip, in the order of `clips`."""
        return normalised(store, store.view("clips", view), "embedding", store.catalog("clips").rows(self.clips))

    def mine(self, vectors: Float[np.ndarray, "C D"]) -> None:
        """Find the neighbours of every clip by the cosine of `vectors`, in the order of `clips`."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.near = {}
        for group in self.groups:
            places, _ = nearest(unit[group].astype(np.float32), np.arange(len(group)), self.neighbours)
            for place, own in zip(group, places, strict=True):
                self.near[self.clips[place]] = [self.clips[group[other]] for other in own if other >= 0]

    def with_neighbours(self, questions: Sequence[Questions], rng: np.random.Generator) -> list[Questions]:
        """Move the questions that one video answers to a pair of that video and one of its neighbours."""
        found: list[Questions] = []
        for pair, turns in questions:
            kept = list(turns)
            pairs: list[Questions] = []
            for clip, answer in zip(pair, VIDEOS, strict=True):
                near = self.near.get(clip, [])
                moved = [turn for turn in turns if turn.answer == answer]
                if near and moved:
                    other = near[rng.integers(len(near))]
                    pairs.append(((clip, other) if answer == VIDEOS[0] else (other, clip), moved))
                    kept = [turn for turn in kept if turn.answer != answer]
            found += [(pair, kept), *pairs] if kept else pairs
        return found
