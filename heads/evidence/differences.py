"""The same difference elsewhere: pairs of clips that differ as two clips, two groups of clips or a
sentence do.

A head of words subtracts the evidence of a category's terms, each weighted as in the distance of
two clips; for a sentence, it uses the sentence's own terms. A view subtracts the embeddings of
whole clips.

Guarantees
- words of a pair are those for which both it and the wanted difference have evidence
- a clip is in one pair that is found, and one of the videos of a given pair in none
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64

from heads.differences import DifferencesOptions
from heads.evidence.head import MOST, Evidence, Terms, clipped
from heads.evidence.wording import occurrences
from heads.methods.word_evidence import LIKELY, SEEDED, WordEvidence
from retrieval.differences import CLIP, Pool, StepRows, chosen, embedded, nearest_pairs, sampled
from retrieval.queries.search import row_of_clip
from retrieval.vectors import compact, width
from stepdiff_core.errors import StepDiffError, some
from stepdiff_core.tasks.testsets import CATEGORIES
from store import Store, View

NEAR = {0.9: "very near", 0.8: "near", 0.6: "partly", -np.inf: "hardly"}
"""how near a pair is, at least -> in words"""


@dataclass(frozen=True)
class SamePair:
    """A pair with the difference."""

    reference: str
    candidate: str
    step: str | None
    score: float
    """1: equal differences, 0: nothing in common"""
    near: str
    """the score in words"""
    words: str
    """terms that it shares with the wanted difference; empty: not known"""


@dataclass(frozen=True)
class Same:
    """The pairs with a difference, the nearest first."""

    category: str
    """empty: of a sentence, or of whole clips"""
    words: str
    """the wanted difference; empty: not known"""
    pairs: list[SamePair]
    clips: int
    """among which the pairs were searched"""


@dataclass(frozen=True, eq=False)
class WordDifference:
    """A wanted difference as evidence of terms."""

    method: WordEvidence
    ends: Float64[np.ndarray, "2 T"]
    """evidence of the reference and of the candidate"""
    compared: Terms
    named: Terms
    """terms that its words are of"""
    category: str = ""

    @classmethod
    def of_clips(cls, method: WordEvidence, options: DifferencesOptions) -> "WordDifference":
        """Return the difference of the mean evidence of two groups. StepDiffError: nothing differs
        in the category."""
        head = method.head
        ends = np.stack(
            [
                np.mean(method.evidence(clips), axis=0)
                for clips in (options.reference, options.candidate)
            ]
        )
        categories = [
            name for name in head.known_categories if name in CATEGORIES
        ] or head.known_categories
        apart = {c: head.margin(ends[0], ends[1], c) for c in categories}
        category = options.category or max(apart, key=lambda c: apart[c])
        if category not in head.known_categories:
            of = ", ".join(head.known_categories)
            raise StepDiffError(
                f"category {category[:100]!r}: the words of {head.folder} are of {of}"
            )
        one = cls(method, ends, head.of_category(category), head.nameable(category), category)
        if not one.shared(*ends):
            raise StepDiffError(
                f"no word of {category} differs between the two: give another category or other "
                "clips"
            )
        return one

    @classmethod
    def of_text(cls, method: WordEvidence, text: str) -> "WordDifference":
        """Return the difference that a sentence about Video 2 states. StepDiffError: it has no word
        of the head."""
        head, ends = method.head, np.zeros((2, len(method.head.terms)))
        named = occurrences(text, head.columns, SEEDED)
        for one in named:
            side = one.side(head.sides)
            ends[:, head.columns[one.term]] = -MOST * side, MOST * side
        if not named:
            words = some([term for term in head.terms if term in head.narrated])
            raise StepDiffError(
                f"no word of {text[:200]!r} has evidence; the words of {head.folder} are {words}"
            )
        places = np.unique([head.columns[one.term] for one in named])
        terms = places, np.ones(len(places))
        return cls(method, ends, terms, terms)

    def vectors(self, evidence: Float64[np.ndarray, "C T"]) -> Float64[np.ndarray, "C c"]:
        """Return the evidence of clips as vectors."""
        places, weights = self.compared
        return clipped(evidence[:, places]) * np.sqrt(weights)

    def shared(self, reference: Evidence, candidate: Evidence) -> str:
        """Return the words in which a pair differs as this one does: those that the weaker of the
        two still has."""
        low, high = (
            f(self.ends, np.stack([reference, candidate])) for f in (np.minimum, np.maximum)
        )
        first = ", ".join(self.method.named(low[0], high[1], self.named, LIKELY)[0])
        second = ", ".join(self.method.named(high[0], low[1], self.named, LIKELY)[1])
        return (
            f"{second} instead of {first}"
            if first and second
            else second or (first and f"no {first}")
        )


def find(
    store: Store,
    by: WordEvidence | View,
    options: DifferencesOptions,
    sample: StepRows | None = None,
) -> Same:
    """Return the pairs whose difference is nearest. by: a head of words, or a view; sample: of the
    store's catalog.

    Raises:
        StepDiffError: There is no such clip, step, category or word, or nothing differs.
    """
    sides, catalog = (options.reference, options.candidate), store.catalog("clips")
    if bool(options.reference) != bool(options.candidate) or bool(options.reference) == bool(
        options.text.strip()
    ):
        raise StepDiffError(
            "give a reference and a candidate, or a sentence such as 'a fork instead of a whisk'"
        )
    if options.text and isinstance(by, View):
        raise StepDiffError(
            "a sentence is compared by its words: give a head of python -m heads.words"
        )
    sample = sample or sampled(catalog)
    if options.step and options.step not in sample.steps:
        raise StepDiffError(sample.lacks(options.step))
    view = by if isinstance(by, View) else by.features.view
    rows = [np.array([row_of_clip(store, view, key) for key in keys], np.int64) for keys in sides]
    clips_given = catalog.select(np.concatenate(rows), pl.DataFrame(schema=CLIP))
    apart = clips_given["video"].drop_nulls().to_list() if clips_given.height == 2 else []
    drawn = sample.drawn(view, options.step, sorted(set(clips_given["step"].drop_nulls())))
    words = None
    if isinstance(by, View):
        width(by, "embedding")
        ends = np.stack(
            [compact(by, "embedding", group).mean(axis=0, dtype=np.float64) for group in rows]
        )
        pool, vectors = embedded(store, by, drawn, ends[1] - ends[0], apart)
    else:
        words = (
            WordDifference.of_text(by, options.text)
            if options.text
            else WordDifference.of_clips(by, options)
        )
        ends, pool = words.vectors(words.ends), Pool.of(catalog, drawn, drawn, apart)
        vectors = words.vectors(np.stack(by.evidence(catalog.keys(pool.rows))))
    if (ends[0] == ends[1]).all():
        raise StepDiffError("both have the same features, so nothing differs: give others")
    pairs, scores = nearest_pairs(vectors, pool, ends[1] - ends[0])
    best = chosen(pairs, scores, options.k, 1)
    names = catalog.select(pool.rows[pairs[best].ravel()], pl.DataFrame(schema=CLIP))
    of_row = {row: (key, step) for row, key, step in names.select("row", "key", "step").iter_rows()}
    same_pairs = []
    for place in best:
        (one, step), (other, _) = (of_row[row] for row in pool.rows[pairs[place]].tolist())
        near = next(name for least, name in NEAR.items() if scores[place] >= least)
        shared = "" if words is None else words.shared(*words.method.evidence((one, other)))
        same_pairs.append(SamePair(one, other, step, round(float(scores[place]), 4), near, shared))
    title = ("", "") if words is None else (words.category, words.shared(*words.ends))
    return Same(*title, same_pairs, len(pool.rows))
