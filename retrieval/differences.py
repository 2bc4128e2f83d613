"""Pairs of clips whose difference, candidate minus reference, is near a given one.

A pair with difference e is as near to d as the geometric mean of their cosine and of d.e / d.d, the
share of d that it has: 1 if they are equal, 0 if they have nothing in common, less if they are
opposite.

Guarantees
- both clips of a pair show one step, if the store knows steps, and are of different videos
- every pair of a pool is compared, in float64
- memory depends on REFERENCES and PARTNERS, not on the number of pairs or the size of the store
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64, Int64

from retrieval.index.index import FLAT_BELOW, exact_index, open_index
from retrieval.vectors import compact, unit
from stepdiff_core.streams import generator
from store import Catalog, Store, View
from store.view import OK

MOST_ROWS = 200_000
"""rows of the catalog whose steps are read"""
WINDOWS = 8
"""places of a larger catalog at which they are read"""
FEWEST_OF_A_STEP = 25
"""clips that are drawn of a step, where any is asked for and there are many"""
REFERENCES = 2_000
"""clips that are drawn for pairs"""
PARTNERS = 10
"""clips of the whole view that are nearest to each `reference + difference`: more candidates"""
KEPT = 1_000
"""pairs that are ranked"""
CLIP = {"key": pl.String, "step": pl.String, "video": pl.String}
"""columns of the catalog that pairs depend on"""
_BLOCK = 256  # references compared with all clips of their step at a time
_TINY = 1e-12  # squared length of a difference that counts as 0


@dataclass(frozen=True, eq=False)
class StepRows:
    """Rows of a catalog with their steps."""

    total: int
    rows: Int64[np.ndarray, " rows"]
    steps: dict[str, Int64[np.ndarray, " clips"]]
    """step -> its rows in the sample, by name"""

    def lacks(self, step: str) -> str:
        """Return the line about an unknown step."""
        return f"no clip of step {step[:200]!r} among {len(self.rows):,} rows of the catalog"

    def groups(self, step: str, most: int) -> list[Int64[np.ndarray, " clips"]]:
        """Return about `most` rows drawn at random, step by step. step: a known one; empty: any."""
        rng = generator(0, "clips of a step", step)
        if step or not self.steps:
            return [_some(self.steps[step] if step else self.rows, most, rng)]
        each = max(FEWEST_OF_A_STEP, most // len(self.steps))
        groups: list[np.ndarray] = []
        for place in rng.permutation(len(self.steps)):
            if sum(map(len, groups)) < most:
                groups.append(_some(list(self.steps.values())[place], each, rng))
        return groups

    def drawn(
        self, view: View, step: str = "", first: Sequence[str] = ()
    ) -> Int64[np.ndarray, " clips"]:
        """Return about REFERENCES rows with features in a view. first: steps that at most half of
        them are of."""
        preferred = [] if step else first
        groups = [
            self.groups(name, REFERENCES // 2 // len(preferred))[0]
            for name in preferred
            if name in self.steps
        ]
        rows = np.unique(
            np.concatenate([*groups, *self.groups(step, REFERENCES - sum(map(len, groups)))])
        )
        return rows[view.status(rows) == OK]


def sampled(catalog: Catalog) -> StepRows:
    """Return the rows of a catalog with their steps; of a large one, those at a few places."""
    total, rows = len(catalog), np.arange(min(len(catalog), MOST_ROWS))
    if total > MOST_ROWS:
        each = MOST_ROWS // WINDOWS
        starts = generator(0, "windows of the catalog", total).choice(
            total // each, WINDOWS, replace=False
        )
        rows = np.concatenate([np.arange(each) + start * each for start in sorted(starts.tolist())])
    clips = (
        catalog.select(rows, pl.DataFrame(schema={"step": pl.String}))
        .drop_nulls("step")
        .sort("row")
    )
    groups = clips.group_by("step", maintain_order=True)
    return StepRows(
        total, rows, dict(sorted((str(step[0]), group["row"].to_numpy()) for step, group in groups))
    )


def _some(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


@dataclass(frozen=True, eq=False)
class Pool:
    """Clips among which pairs are searched."""

    rows: Int64[np.ndarray, " C"]
    steps: Int64[np.ndarray, " C"]
    """a number for each step"""
    videos: Int64[np.ndarray, " C"]
    references: Bool[np.ndarray, " C"]
    """which may be the reference of a pair"""

    @classmethod
    def of(
        cls, catalog: Catalog, drawn: np.ndarray, partners: np.ndarray, apart: Collection[str] = ()
    ) -> "Pool":
        """Return the pool of drawn rows, and of partners: candidates only. apart: videos whose
        clips are left out."""
        clips = catalog.select(np.union1d(drawn, partners), pl.DataFrame(schema=CLIP)).sort("row")
        clips = clips.filter(~pl.col("video").fill_null("").is_in(list(apart)))
        steps, videos = (
            clips["step"].fill_null(""),
            clips.select(pl.coalesce("video", "key"))["video"],
        )
        of_step, of_video = (
            each.rank("dense").cast(pl.Int64).to_numpy() for each in (steps, videos)
        )
        return cls(rows := clips["row"].to_numpy(), of_step, of_video, np.isin(rows, drawn))


def embedded(
    store: Store,
    view: View,
    drawn: np.ndarray,
    difference: Float[np.ndarray, " D"],
    apart: Collection[str] = (),
) -> tuple[Pool, Float[np.ndarray, "C D"]]:
    """Return a pool with embeddings of length 1: of drawn rows and, if the view has more, of their
    PARTNERS.

    StepDiffError: a large view has no index.
    """
    count, partners = int(np.count_nonzero(view.status() == OK)), drawn
    if count > len(drawn):
        index = exact_index(view, "embedding") if count <= FLAT_BELOW else open_index(store, view)
        ends = unit(compact(view, "embedding", drawn) + difference).astype(np.float32)
        partners = np.unique(index.search(ends, PARTNERS)[0])
    pool = Pool.of(store.catalog("clips"), drawn, partners[partners >= 0], apart)
    return pool, compact(view, "embedding", pool.rows)


def nearest_pairs(
    vectors: Float[np.ndarray, "C D"], pool: Pool, difference: Float[np.ndarray, " D"]
) -> tuple[Int64[np.ndarray, "pairs 2"], Float64[np.ndarray, " pairs"]]:
    """Return the KEPT pairs nearest to a difference, as places in the pool, and how near they are,
    best first."""
    pairs, scores = np.empty((0, 2), np.int64), np.empty(0)
    for step in np.unique(pool.steps[pool.references]):
        members = np.flatnonzero(pool.steps == step)
        clips = vectors[members].astype(np.float64)
        along, squares = clips @ difference, np.einsum("cd,cd->c", clips, clips)
        first = np.flatnonzero(pool.references[members])
        for some in np.split(first, range(_BLOCK, len(first), _BLOCK)):
            lengths = np.maximum(squares + squares[some, None] - 2 * clips[some] @ clips.T, _TINY)
            near = (along - along[some, None]) / (lengths * (difference @ difference) ** 3) ** 0.25
            near[pool.videos[members[some], None] == pool.videos[members]] = -np.inf
            best = np.argpartition(-near, min(KEPT, near.size - 1), axis=None)[:KEPT]
            best = best[np.isfinite(near.flat[best])]
            places = np.stack(
                [members[some[best // len(members)]], members[best % len(members)]], axis=1
            )
            pairs, scores = (
                np.concatenate([pairs, places]),
                np.concatenate([scores, near.flat[best]]),
            )
            order = np.lexsort((*pairs.T[::-1], -scores))[:KEPT]
            pairs, scores = pairs[order], scores[order]
    return pairs, scores


def chosen(
    pairs: Sequence[Sequence[object]] | np.ndarray,
    scores: Float[np.ndarray, " pairs"],
    most: int,
    often: int,
) -> list[int]:
    """Return the places of the pairs with the highest scores, best first; no clip is in more than
    `often` of them."""
    times: dict[object, int] = {}
    places: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        clips = list(pairs[place])
        if len(places) < most and all(times.get(clip, 0) < often for clip in clips):
            places.append(place)
            for clip in clips:
                times[clip] = times.get(clip, 0) + 1
    return places
