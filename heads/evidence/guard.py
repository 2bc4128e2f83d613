"""Whether a head knows clips of a store: the clips that it learned from, and the features that it reads of others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sparse
from jaxtyping import Float64, Integer

from heads.data.catalog_rows import of_rows, united
from heads.data.hold_out import VIDEO
from heads.evidence.familiarity import Familiarity
from heads.evidence.fitting import Pooled, Sums, pooled, some_of, spread, steps_of, total, without_each
from heads.evidence.head import POOLING
from store import Store

RIDGE, FOLDS = 3.0, 5
"""of a head without evidence of words"""


UNRECORDED = "clips that an earlier version did not record, so that nothing tells which others it does not know"


@dataclass(frozen=True)
class Guard:
    familiarity: Familiarity | None
    """None: a run of an earlier version, which recorded none"""
    features: Pooled

    @classmethod
    def of_run(cls, folder: Path, store: Store, view: str) -> "Guard":
        """Return the guard of a head without evidence of words. StepDiffError: what it has seen is damaged."""
        return cls(Familiarity.load(folder), Pooled(store, view, POOLING))

    @property
    def knows(self) -> str:
        """What the head learned from, in words."""
        return UNRECORDED if self.familiarity is None else self.familiarity.knows

    def leverage(self, clips: Sequence[str]) -> Float64[np.ndarray, " C"]:
        """Return how far clips are from those that trained the head; 0 if these are not recorded. StepDiffError: one
        has no features."""
        if self.familiarity is None:
            return np.zeros(len(clips))
        return self.familiarity.leverage(pooled(self.features, self.features.rows(clips)))

    def doubt(self, clips: Sequence[str]) -> str:
        """Return why what the head says about clips means nothing; empty: they are like those that it knows."""
        return "" if self.familiarity is None else self.familiarity.doubt(self.leverage(clips).tolist())

    def unlike(self, clips: Sequence[str]) -> dict[str, Any]:
        """Return how many of some clips, a sample of many, the head does not know, for the score record;
        empty if its own clips are not recorded."""
        if self.familiarity is None:
            return {}
        about, sample = self.familiarity.about, some_of(np.arange(len(clips)))
        leverages = self.leverage([clips[place] for place in sample])
        far = int((leverages > about.limit).sum())
        return {"clips": far, "of_clips": len(leverages), "limit": about.limit, "learned_from": self.knows}


def learn(features: Pooled, parts: Iterable[Integer[np.ndarray, " _"]]) -> Familiarity:
    """Return the familiarity of the clips whose rows are in any of the parts, by a sample of them. Each of FOLDS groups
    of its videos is left out once to choose the limit."""
    every = np.concatenate(list(united(parts)))
    rows = some_of(every)
    values, catalog = pooled(features, rows), features.catalog
    about = pl.concat(list(of_rows(catalog, rows, {"key": pl.String, "video": pl.String})))
    names = about.select(pl.coalesce(VIDEO, "key"))["video"].to_list()
    videos = np.unique(names, return_inverse=True)[1] if len(set(names)) > 1 else np.arange(len(rows))
    parts_of = [np.flatnonzero(videos % FOLDS == fold) for fold in range(min(FOLDS, videos.max() + 1))]
    folds = [Sums.of(values[places], sparse.csr_matrix((len(places), 0))) for places in parts_of]
    tests = zip(without_each(folds), parts_of, strict=True)
    leverages = np.concatenate([spread(rest, RIDGE).leverage(values[places]) for rest, places in tests])
    steps = steps_of(catalog, every)
    return Familiarity.learned(spread(total(folds), RIDGE), len(every), steps, leverages, "left-out folds")
