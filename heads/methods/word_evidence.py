"""Word evidence: a difference is scored, ranked and written by the words that its clips give
evidence for.

A text is scored by its known terms: each adds the log-probability that it is true of the video that
it is about, and only of it. What differs and goes unnamed counts against it: who describes a pair
names what differs. Clips are ranked by the distance of their evidence over the terms of the
category. A caption names the terms that differ most, in the words of an answer. The words of a text
and their sides are all that is read of it: see heads.evidence.wording.

Guarantees
- the answers to a row do not depend on its batch
- a text without a known term scores 0 for every option, and is counted
- a category without terms is refused, and the line names those that have some
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import ge
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import expit

from heads.data.hold_out import clip_times, locate
from heads.data.packing import Turn
from heads.evidence.fitting import Guard, Pooled, evidence_of, training_videos
from heads.evidence.head import Evidence, Terms, WordHead, clipped
from heads.evidence.wording import Occurrence, is_about_both, occurrences, terms_of
from retrieval.moments import frames_of, seconds_of
from stepdiff_core.tasks.prompts import DIFFMCQ_SEED, NO_DIFFERENCE, VIDEOS
from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank, Pair, clips_of
from store import Store

SEEDED = 2
"""the video that a text of DiffMCQ is about before its first mention: it continues "In Video 2,"
"""
NAMED = 4
"""terms that a caption names of each video, at most"""
CLEAR, LIKELY = 3.5, 2.0
"""difference of the log-odds from which a caption names a term, and from which a question of a
language model does"""
LEFT_OUT = 8.0
"""penalty of a text that names none of its category's words although all of them differ: people
name most differences"""
NEW, SAYS = 0.9, 2.0
"""gain of a sentence for each of its terms, and for the share of its category's words that differ
and that it has: chosen on split val of the sample world"""
LONGER = 0.8
"""share of a term's difference that a longer phrase with it needs"""
REASONS = 6
"""terms of each clip that `why` lists"""
MOMENTS = 2
"""frames of a clip that it lists for a term"""
_SURE = 0.98  # a side is never certain
_HELD = 8192  # clips
# words of questions that name nothing
_ASKS = frozenset(
    "how why when where two video videos show shows less more larger explain describe sentence one "
    "terms used make mistake compared piece size quantity".split()
)
_WHICH = re.compile(r"\bwhich\b", re.IGNORECASE)
_SHARED = re.compile(
    r"^\s*(do|does|did|is|are|was|were|has|have|can)\b|\b(common|similar|alike|same|both)",
    re.IGNORECASE,
)
_SLOPE = 0.25  # evidence of the terms of a text is not independent
_NOTHING: Terms = np.zeros(0, np.int64), np.zeros(0)
OfTerms = Float64[np.ndarray, " c"]
"""a number for each of some terms"""


@dataclass(frozen=True)
class Reason:
    """A term that one of two clips gives more evidence for."""

    term: str
    evidence: float
    """log-odds in this clip"""
    other: float
    """log-odds in the other clip"""
    seconds: list[float]
    """times in the video of the frames with the most evidence; empty if unknown"""
    moments: list[float]
    """evidence of each frame; `evidence` is their mean"""
    clearest: float | None
    """time in the video of the frame with the most evidence"""


class WordEvidence:
    def __init__(self, head: WordHead, features: Pooled) -> None:
        self.head, self.features, self.guard = head, features, Guard(head.familiarity, features)
        self._evidence: dict[str, Evidence] = {}
        self._sentences: dict[str, _Sentences] = {}

    @classmethod
    def of_store(cls, head: WordHead, store: Store) -> "WordEvidence":
        """Return the method over the view that the head reads. StepDiffError: the store has other
        features."""
        view = store.view("clips", head.view)
        head.check(view)
        return cls(head, Pooled(store, head.view, head.pooling))

    def unknown(self, rows: Sequence[Any]) -> int:
        """Return the number of DiffMCQ rows whose text has no known term."""
        return sum(
            isinstance(row, DiffMCQ) and not occurrences(row.difference, self.head.columns, SEEDED)
            for row in rows
        )

    def evidence(self, clips: Sequence[str]) -> list[Evidence]:
        """Return the evidence of clips; evidence of training clips comes from clips of other
        videos."""
        # replaced, not changed: training reads batches ahead in another thread
        held = self._evidence
        new = [clip for clip in dict.fromkeys(clips) if clip not in held]
        if len(held) + len(new) > _HELD:
            held, new = {}, list(dict.fromkeys(clips))
        if new:
            self._evidence = held = held | evidence_of(self.head, self.features, new)
        return [held[clip] for clip in clips]

    def both(self, pair: Pair) -> tuple[Evidence, Evidence]:
        """Return the evidence of the two clips of a pair."""
        reference, candidate = self.evidence(pair)
        return reference, candidate

    def asked(self, pair: Pair, turn: Turn) -> Turn:
        """Return a question about a pair with the words that differ most before it: words of its
        category; if that is unknown, of the categories that it names, or of all. The question's own
        words come first."""
        categories = (
            (turn.about,) if turn.about in self.head.known_categories else self.about(turn.question)
        )
        named = zip(
            VIDEOS,
            self._of_question(pair, turn.question),
            self.likely(pair, categories),
            strict=True,
        )
        words = " ".join(
            f"{video}: {', '.join(dict.fromkeys([*in_question, *likely])) or 'nothing'}."
            for video, in_question, likely in named
        )
        return replace(turn, question=f"{words} {turn.question}")

    def _of_question(self, pair: Pair, question: str) -> tuple[list[str], list[str]]:
        """Return the words of a question for which each clip has more evidence than the other."""
        terms = [one.term for one in occurrences(question, self.head.narrated)]
        places = [self.head.columns[term] for term in terms]
        reference, candidate = (clipped(evidence[places]) for evidence in self.both(pair))
        return list(compress(terms, reference > candidate)), list(
            compress(terms, candidate > reference)
        )

    def about(self, question: str) -> tuple[str, ...]:
        """Return the categories that a question names, "tool" for "Tools/Equipment"; if it names
        none, all."""
        # "the main difference"
        words, categories = _singular(question) - {"main"}, self.head.known_categories
        return tuple(name for name in categories if words & _singular(name)) or categories

    def is_open(self, question: str) -> bool:
        """Return whether a question asks what differs, and answers about its categories have
        sentences: it does not ask what both videos share, for YES or NO, or which video shows what
        it names."""
        if _SHARED.search(question) or self.head.sentences.keys().isdisjoint(self.about(question)):
            return False
        return not (_WHICH.search(question) and occurrences(question, self.head.narrated))

    def which(self, pair: Pair, question: str) -> str:
        """Return the video for which a question "Which video ...?" is true; empty: it asks
        something else, its words are unknown, or both clips show them alike."""
        terms = occurrences(question, self.head.columns, SEEDED)
        if not _WHICH.search(question) or not terms:
            return ""
        first, second = self.both(pair)
        of_second = float(
            self._true(terms, first, second).sum() - self._true(terms, second, first).sum()
        )
        return VIDEOS[of_second > 0] if of_second else ""

    def unread(self, question: str) -> list[str]:
        """Return the words of a question that the head does not know, if it knows none of them, or
        if the question asks which video something is true of."""
        words = sorted(
            term
            for term in terms_of(question) - _ASKS
            if " " not in term and not term.startswith("differ")
        )
        head_words = _singular(" ".join([*self.head.terms, *self.head.known_categories]))
        unknown = [word for word in words if head_words.isdisjoint(_singular(word))]
        return unknown if len(unknown) == len(words) or _WHICH.search(question) else []

    def shows(self, terms: Sequence[str], clips: Sequence[str]) -> Float64[np.ndarray, " C"]:
        """Return how likely each clip shows all of some terms: the geometric mean of their
        probabilities."""
        places = [self.head.columns[term] for term in terms]
        evidence = np.stack([each[places] for each in self.evidence(clips)])
        return np.exp(-np.logaddexp(0, -_SLOPE * evidence).mean(axis=1))

    def likely(
        self, pair: Pair, categories: Sequence[str], clear: float = LIKELY
    ) -> tuple[list[str], list[str]]:
        """Return the terms of each clip that `named` returns for some categories, such as a
        question's categories."""
        named = [
            self.named(*self.both(pair), self.head.nameable(category), clear)
            for category in categories
        ]
        first, second = (
            [term for of_clips in named for term in of_clips[place]] for place in (0, 1)
        )
        return list(dict.fromkeys(first)), list(dict.fromkeys(second))

    def score_options(self, rows: Sequence[DiffMCQ]) -> list[list[float]]:
        """Return the score of the difference text for each option's pair."""
        self.evidence([clip for row in rows for clip in clips_of(row)])
        return [self.score(row.difference, row.category, row.options) for row in rows]

    def score(self, text: str, category: str, pairs: Sequence[Pair]) -> list[float]:
        """Return for each pair the log-probability that each term of a text is true of the video
        that it is about, and only of it, less LEFT_OUT times the share of the category's words that
        differ and that the text leaves out.

        A text about the order of things is about both videos: its terms are true if both show them.
        """
        terms = occurrences(text, self.head.columns, SEEDED)
        if not terms:
            return [0.0] * len(pairs)
        places, weights = (
            self.head.nameable(category) if category in self.head.known_categories else _NOTHING
        )
        of_both = is_about_both(self.head.both, "", text, self.head.narrated)
        words = {word for one in terms for word in one.term.split()}
        weights = (
            LEFT_OUT
            * weights
            * [words.isdisjoint(self.head.terms[place].split()) for place in places]
        )
        scores = []
        for pair in pairs:
            evidence = self.both(pair)
            true = self._shared(terms, *evidence) if of_both else self._true(terms, *evidence)
            scores.append(float(true.sum() - weights @ _differs(evidence, places)))
        return scores

    def _true(
        self, terms: Sequence[Occurrence], reference: Evidence, candidate: Evidence
    ) -> OfTerms:
        """Return the log-probability that terms of a text are true of the video that each is about,
        and only of it."""
        places = [self.head.columns[one.term] for one in terms]
        sides = np.array([one.side(self.head.sides) for one in terms])
        return _true(sides, *_only_one(reference, candidate, places))

    def _shared(self, terms: Sequence[Occurrence], *evidence: Evidence) -> OfTerms:
        """Return the log-probability that both clips show terms of a text."""
        places = [self.head.columns[one.term] for one in terms]
        first, second = (np.logaddexp(0, -_SLOPE * each[places]) for each in evidence)
        return -first - second

    def sentences(self, pair: Pair, category: str, most: int) -> list[tuple[float, str]]:
        """Return the sentences about Video 2 in the answers about a category that fit a pair best,
        with their scores, the best first (retrieval of captions: Ordonez et al., NeurIPS 2011).

        The score is the log-probability that each term is true, as in `score`, with NEW for each
        term, and SAYS times the share of the category's words that differ and that the sentence
        has.
        """
        if category not in self._sentences:
            self._sentences[category] = _Sentences.of(self.head, category)
        sentences, evidence = self._sentences[category], self.both(pair)
        if not sentences.texts:
            return []
        places, weights = self.head.nameable(category)
        true = _true(sentences.sides, *_only_one(*evidence, sentences.places)) + NEW
        scores = np.add.reduceat(true, sentences.starts) + SAYS * (
            sentences.says @ (weights * _differs(evidence, places))
        )
        best = np.argsort(-scores, kind="stable")[:most]
        return [(float(scores[place]), sentences.texts[place]) for place in best]

    def rank(self, rows: Sequence[DiffRank]) -> list[list[float]]:
        """Return minus the distance of the evidence over the terms of the row's category."""
        self.evidence([clip for row in rows for clip in clips_of(row)])
        scores = []
        for row in rows:
            reference, *targets = self.evidence([row.reference, *row.targets])
            scores.append(
                [-self.head.distance(reference, target, row.category) for target in targets]
            )
        return scores

    def caption(self, rows: Sequence[DiffCap]) -> list[str]:
        """Return the sentence of answers that fits best, or "no difference" below the head's
        distance; of a head whose answers have no sentence the terms that differ most."""
        self.evidence([clip for row in rows for clip in clips_of(row)])
        captions = []
        for row in rows:
            pair = row.reference, row.candidate
            if self.agree(pair, row.category):
                captions.append(NO_DIFFERENCE.format(category=row.category))
            elif best := self.sentences(pair, row.category, 1):
                captions.append(f"{DIFFMCQ_SEED} {best[0][1]}.")
            else:
                first, second = self.named(*self.both(pair), self.head.nameable(row.category))
                without = f"without {' or '.join(first)}" if first else ""
                captions.append(
                    f"{DIFFMCQ_SEED} {', '.join(filter(None, [' and '.join(second), without]))}."
                )
        return captions

    def agree(self, pair: Pair, category: str) -> bool:
        """Return whether nothing differs: no term is clear, or the clips are nearer than the head's
        distance."""
        evidence = self.both(pair)
        is_near = self.head.margin(*evidence, category) < 0
        return is_near or not any(self.named(*evidence, self.head.nameable(category)))

    def named(
        self, reference: Evidence, candidate: Evidence, terms: Terms, clear: float = CLEAR
    ) -> tuple[list[str], list[str]]:
        """Return the `terms` that a caption names of Video 1 and of Video 2, the strongest first.

        clear: the difference of their log-odds, at least.
        """
        places, weights = terms[0], np.sqrt(terms[1])
        names = [self.head.terms[place] for place in places]
        differences = clipped(candidate[places]) - clipped(reference[places])
        for least in (clear, LIKELY):  # where nothing is clear, what is likely
            named = (
                _strongest(
                    names, -differences, weights, (reference[places] > 0) & (-differences >= least)
                ),
                _strongest(
                    names, differences, weights, (candidate[places] > 0) & (differences >= least)
                ),
            )
            if any(named):
                break
        return named

    def why(self, reference: str, candidate: str) -> tuple[list[Reason], list[Reason]]:
        """Return the terms for which each clip gives more evidence than the other, over all
        categories, the clearest first."""
        pair = reference, candidate
        first, second = self.reasons(pair, self.likely(pair, self.head.known_categories, CLEAR))
        return first[:REASONS], second[:REASONS]

    def reasons(
        self, pair: Pair, terms: tuple[Iterable[str], Iterable[str]]
    ) -> tuple[list[Reason], list[Reason]]:
        """Return the evidence of terms of each clip, the clearest first."""
        one, other = self.both(pair)
        return self._reasons(pair[0], terms[0], one, other), self._reasons(
            pair[1], terms[1], other, one
        )

    def _reasons(
        self, clip: str, terms: Iterable[str], here: Evidence, there: Evidence
    ) -> list[Reason]:
        """Return terms of a clip with the evidence of each of its frames."""
        rule, count = self.features.view.provenance.frames, 1
        if self.features.feature == "tokens":  # not statistics alone, which are of the whole clip
            count = frames_of(rule, self.features.shape[0])
        (frames,) = self.features.of_frames(self.features.rows([clip]), count)
        video = training_videos(self.features.catalog, [clip]).get(clip)
        moments = self.head.moments(frames, video)
        times = locate(self.features.catalog, clip_times([clip])).row(0, named=True)
        seconds = seconds_of(rule, len(moments), times["start"], times["end"])
        reasons = []
        for term in terms:
            place = self.head.columns[term]
            frames = np.argsort(-moments[:, place], kind="stable")[:MOMENTS].tolist()
            at = [round(seconds[frame], 2) for frame in frames if seconds]
            values = [round(float(value), 4) for value in moments[:, place]]
            evidence = float(here[place]), float(there[place])
            reasons.append(Reason(term, *evidence, sorted(at), values, at[0] if at else None))
        return sorted(reasons, key=lambda reason: (reason.other - reason.evidence, reason.term))


@dataclass(frozen=True)
class _Sentences:
    """Sentences of the answers about a category, with the distinct terms of each, one sentence
    after the other."""

    texts: Sequence[str]
    starts: Int64[np.ndarray, " S"]
    """place of the first term of each sentence"""
    places: Int64[np.ndarray, " n"]
    """of the terms in the head"""
    sides: Float64[np.ndarray, " n"]
    says: Bool[np.ndarray, "S c"]
    """whether a sentence has a word of each term that the category names"""

    @classmethod
    def of(cls, head: WordHead, category: str) -> "_Sentences":
        nameable = [set(head.terms[place].split()) for place in head.nameable(category)[0]]
        texts, starts, says = [], [], []
        named: list[Occurrence] = []
        for text in head.sentences.get(category, ()):
            terms = {
                one.term: one
                for one in reversed(occurrences(f"{DIFFMCQ_SEED} {text}", head.narrated))
            }
            if terms:
                texts.append(text)
                starts.append(len(named))
                named += terms.values()
                words = set(" ".join(terms).split())
                says.append([not words.isdisjoint(term) for term in nameable])
        places = np.array([head.columns[one.term] for one in named], np.int64)
        sides = np.array([one.side(head.sides) for one in named], np.float64)
        return cls(
            texts,
            np.array(starts, np.int64),
            places,
            sides,
            np.array(says, bool).reshape(len(says), len(nameable)),
        )


def _differs(evidence: tuple[Evidence, Evidence], places: Any) -> OfTerms:
    """Return how likely exactly one clip of a pair shows each of the terms at some places."""
    first, second = (expit(each[places]) for each in evidence)
    return first * (1 - second) + second * (1 - first)


def _singular(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"\w+", text.lower())}


def _only_one(reference: Evidence, candidate: Evidence, places: Any) -> tuple[OfTerms, OfTerms]:
    """Return the log-probability that only the reference shows the terms at some places, and that
    only the candidate does."""
    first, second = (_SLOPE * evidence[places] for evidence in (reference, candidate))
    return -np.logaddexp(0, -first) - np.logaddexp(0, second), -np.logaddexp(
        0, -second
    ) - np.logaddexp(0, first)


def _true(sides: Float64[np.ndarray, "..."], only_first: OfTerms, only_second: OfTerms) -> OfTerms:
    """Return the log-probability that terms are true of the video that they are about, and only of
    it.

    sides: from -1, surely about Video 1, to 1, surely about Video 2.
    """
    of_second = (1 + _SURE * sides) / 2
    return np.logaddexp(np.log(1 - of_second) + only_first, np.log(of_second) + only_second)


def _strongest(
    terms: Sequence[str], differences: OfTerms, weights: OfTerms, clear: Bool[np.ndarray, " c"]
) -> list[str]:
    """Return at most NAMED terms with the largest weighted differences, none with a word of
    another.

    A longer phrase replaces a term that it contains if it is hardly less frequent and its
    difference hardly smaller.
    """
    strength = {
        term: (difference, weight)
        for term, difference, weight, is_clear in zip(
            terms, differences.tolist(), weights.tolist(), clear, strict=True
        )
        if is_clear
    }
    chosen: list[str] = []
    while strength and len(chosen) < NAMED:
        best = max(strength, key=lambda term: (strength[term][0] * strength[term][1], term))
        least = [LONGER * value for value in strength[best]]
        longer = [
            t for t in strength if f" {best} " in f" {t} " and all(map(ge, strength[t], least))
        ]
        chosen.append(max(longer, key=lambda t: (len(t.split()), strength[t], t)))
        words = set(chosen[-1].split())
        strength = {
            term: value for term, value in strength.items() if words.isdisjoint(term.split())
        }
    return chosen
