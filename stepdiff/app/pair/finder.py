"""Pairs of one step that are most different or most alike: by cosine, a head, stored predictions,
or true scores.

Work is bounded: of a large catalog a sample of rows is read, of a large step a sample of clips is
compared, and a head scores a sample of pairs. The note of the result says so.

Guarantees
- the pairs of a small step are the result of comparing all its pairs; two clips of one video are no
  pair
- equal searches have equal results: the next pair of a list is always the same
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
import polars as pl
from fastapi import Query

from retrieval.differences import StepRows, chosen, sampled
from retrieval.vectors import unit
from stepdiff.app.pair.alike import KeptOdds, embedding_views
from stepdiff.app.pair.loading import RunHead
from stepdiff.app.pair.stored import Stored
from stepdiff.app.site import Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from stepdiff_core.tasks.declining import verdict
from stepdiff_core.tasks.testsets import CATEGORIES, Pair
from store.view import OK

MOST_CLIPS = 200  # clips that are compared with each other
MOST_SCORED = 48  # pairs that a head scores
MOST_FOUND = 48  # pairs in a list
TIMES = 2  # how often a clip may be in a list: else one odd clip fills it
Text = Annotated[str, Query(max_length=500)]


@dataclass(frozen=True)
class PairSearch:
    """The options of a search, as they are written in addresses."""

    step: Text = ""  # empty: any step, but one for both clips
    category: Text = CATEGORIES[0]
    order: Literal["different", "alike"] = "different"
    by: Text = ""  # cosine:VIEW, head:NAME, stored:FILE, truth; empty: the cosine of the first view

    def address(self, **more: str | int) -> str:
        """Return the address of the search, or with the clips of a pair and its place, of that
        pair."""
        return "/pair?" + urlencode({**more, **asdict(self)})


@dataclass(frozen=True)
class Result:
    """The list of a search."""

    # reference, candidate, score, what it says in words, and the address of the pair
    pairs: list[dict[str, Any]]
    note: str
    head: str  # the head that has to score the pairs first; empty: none


class Finder:
    def __init__(self, site: Site, stored: Stored, kept: KeptOdds) -> None:
        self._site, self._stored, self._kept = site, stored, kept
        self._sample: StepRows | None = None

    def sample(self) -> StepRows:
        """Return rows of the catalog with their steps; they are read again if the catalog has
        grown."""
        catalog = self._site.store.catalog("clips")
        if self._sample is None or self._sample.total != len(catalog):
            self._sample = sampled(catalog)
        return self._sample

    def candidates(self, step: str, view: str) -> tuple[list[Pair], str]:
        """Return pairs of one step with features in a view, and a note about them."""
        sample = self.sample()
        if step and step not in sample.steps:
            raise UnknownError(sample.lacks(step))
        groups = sample.groups(step, MOST_CLIPS)
        features = self._site.store.view("clips", view)
        groups = [rows[features.status(rows) == OK] for rows in groups]
        rows = np.concatenate(groups)
        like = pl.DataFrame(schema={"key": pl.String, "video": pl.String})
        clips = {
            row: clip
            for row, *clip in self._site.store.catalog("clips").select(rows, like).iter_rows()
        }
        pairs = [
            (one, other)
            for group in groups
            for (one, video), (other, second) in combinations(
                [clips[row] for row in np.sort(group).tolist()], 2
            )
            if video is None or video != second
        ]
        of = (
            len(sample.steps[step])
            if step
            else sum(map(len, sample.steps.values())) or len(sample.rows)
        )
        note = f"{len(pairs):,} pairs of {'all ' if len(rows) == of else ''}{len(rows):,} clips"
        note += "" if len(rows) == of else f" of {of:,}, drawn at random"
        if len(sample.rows) < sample.total:
            note += f"; the steps of {len(sample.rows):,} of {sample.total:,} clips were read"
        return pairs, note

    def scored_pairs(self, step: str, view: str) -> tuple[list[Pair], str]:
        """Return the pairs that a head scores, and a note about them."""
        pairs, note = self.candidates(step, view)
        if len(pairs) > MOST_SCORED:
            drawn = generator(0, "scored pairs", step).permutation(len(pairs))[:MOST_SCORED]
            pairs = [pairs[place] for place in np.sort(drawn)]
            note = f"{len(pairs)} pairs, drawn at random from {note}"
        return pairs, note

    def search(self, search: PairSearch, heads: Sequence[RunHead]) -> Result:
        """Return the list of a search. heads: may be named; UnknownError: the search names
        something else."""
        kind, _, name = search.by.partition(":")
        if kind in ("", "cosine"):
            return self._by_cosine(search, name)
        if search.category not in CATEGORIES:
            raise StepDiffError(f"category {search.category[:100]!r}: give {', '.join(CATEGORIES)}")
        if kind == "head":
            return self._by_head(search, next((head for head in heads if head.name == name), None))
        if kind == "truth" or (kind == "stored" and name in dict(self._stored.rankings())):
            return self._by_stored(search, name if kind == "stored" else None)
        raise UnknownError(
            f"by {search.by[:200]!r}: give cosine:VIEW, head:NAME, stored:FILE or truth"
        )

    def _by_cosine(self, search: PairSearch, name: str) -> Result:
        views = embedding_views(self._site)
        if not views:
            raise UnknownError(
                "the store has no view with one embedding a clip: featurize with another encoder"
            )
        name = name or views[0]
        if name not in views:
            raise UnknownError(
                f"no view {name[:200]!r} with one embedding a clip; there are {', '.join(views)}"
            )
        pairs, note = self.candidates(search.step, name)
        if not pairs:
            return Result([], note, "")
        place = {key: place for place, key in enumerate(dict.fromkeys(chain(*pairs)))}
        vectors = unit(
            self._site.store.view("clips", name).read(
                "embedding", keys=list(place), dtype="float32"
            )
        )
        one, other = (vectors[[place[pair[side]] for pair in pairs]] for side in (0, 1))
        scores = np.einsum("kd,kd->k", one, other)
        note += f", by the cosine of {name}, which compares whole clips and not one category"
        return self._ranked(search, pairs, scores, note, lambda score: f"cosine {score:.3g}")

    def _by_head(self, search: PairSearch, head: RunHead | None) -> Result:
        if head is None:
            raise UnknownError(f"by {search.by[:200]!r}: no such head among the runs")
        pairs, note = self.scored_pairs(search.step, head.view)
        odds = [self._kept.get((head, pair)) for pair in pairs]
        log_odds = [
            scores[search.category]
            for scores in odds
            if scores is not None and search.category in scores
        ]
        if len(log_odds) < len(pairs):
            return Result([], note, head.name)
        note += f", by the log-odds of {head.name} that they are alike in {search.category}"
        return self._ranked(
            search, pairs, np.array(log_odds), note, lambda odds: f"{verdict(odds)}, {odds:+.2f}"
        )

    def _by_stored(self, search: PairSearch, method: str | None) -> Result:
        scores = self._stored.ranked(method, search.category)
        clips = self._site.clips_by_id(chain(*scores))
        steps = {key: clip.step for key, clip in clips.items()}
        pairs = [
            (one, two)
            for one, two in scores
            if one in steps
            and two in steps
            and steps[one] == steps[two]
            and search.step in ("", steps[one])
        ]
        by = (
            "the true scores of the test sets, 5 = most similar"
            if method is None
            else f"the scores of {method}"
        )
        note = f"{len(pairs):,} pairs of the DiffRank predictions, by {by}"
        form = "true score {:g} of 5" if method is None else "score {:+.2f}"
        return self._ranked(
            search, pairs, np.array([scores[pair] for pair in pairs]), note, form.format
        )

    def _ranked(
        self,
        search: PairSearch,
        pairs: list[Pair],
        scores: np.ndarray,
        note: str,
        say: Callable[[float], str],
    ) -> Result:
        """Return the list of the best of some pairs. say: returns a score in words."""
        best = chosen(pairs, scores if search.order == "alike" else -scores, MOST_FOUND, TIMES)
        listed = []
        for at, place in enumerate(best):
            pair: dict[str, Any] = dict(zip(("reference", "candidate"), pairs[place], strict=True))
            score = float(scores[place])
            listed.append(
                pair
                | {"score": score, "said": say(score), "address": search.address(**pair, at=at)}
            )
        return Result(listed, note, "")
