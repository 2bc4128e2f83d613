"""What the texts of a training say, before any feature is read: which terms count, and which clips they name.

Labels of a clip are the terms of its narration. Paired questions correct them: "Which video ...?" labels the terms of
the question in both clips, and an answer the terms that it says of each video. `Sides` says which those are. It is
learned from terms that the narration of exactly one of two clips has, and only from terms that answers have more often
where one of the narrations has them.

Guarantees
- every term is in enough narrations or in enough questions and answers, and in at most nine of ten narrations
- memory depends on the number of paired questions and on CLIPS, not on the number of clips
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from math import sqrt
from typing import Any

import numpy as np
import scipy.sparse as sparse

from heads.data.paired_qa import PairQuestions, kind
from heads.evidence.terms import Sides, occurrences, terms_of
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.prompts import VIDEOS

CLIPS = 2**17
"""clips whose narration the terms are counted in, the first of the catalog"""
_MOST_COMMON = 0.9  # share of the narrations
_FOLLOWS = 4.0  # standard errors by which an answer has a term more often where one narration has it
_CERTAIN = 0.3  # sum of signs from which questions and answers decide a label
_OF_CATEGORY = 0.6  # share of a term's occurrences in answers


@dataclass(frozen=True)
class Wording:
    terms: tuple[str, ...]
    narrated: tuple[str, ...]
    """terms that enough narrations have; the others are only in questions and answers"""
    followed: tuple[str, ...]
    """terms that answers take from what is seen; those label clips"""
    sides: Sides
    categories: Mapping[str, Mapping[str, float]]
    """category -> term -> share of its answers that have the term"""

    @cached_property
    def columns(self) -> dict[str, int]:
        """Return the place of each term."""
        return {term: place for place, term in enumerate(self.terms)}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self) | {"sides": dict(self.sides.weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Wording":
        """Return the inverse of `as_dict`."""
        terms, narrated, followed = (tuple(values[name]) for name in ("terms", "narrated", "followed"))
        return cls(terms, narrated, followed, Sides(values["sides"]), values["categories"])

    def signs(self, pairs: Iterable[PairQuestions]) -> dict[str, dict[int, float]]:
        """Return what questions and answers say of clips: clip -> place of a term -> sum of signs."""
        of_clips: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        followed = set(self.followed)
        for pair, question, answer, _ in _asked(pairs):
            if answer in VIDEOS:
                side = 1.0 if answer == VIDEOS[1] else -1.0
                named = [(term, side) for term in sorted(terms_of(question).intersection(self.columns))]
            else:
                named = [(one.term, self.sides.of(one)) for one in occurrences(answer, followed)]
            for term, side in named:
                of_clips[pair.candidate][self.columns[term]] += side
                of_clips[pair.reference][self.columns[term]] -= side
        return of_clips

    def targets(self, clips: Sequence[tuple[str, str]], signs: Mapping[str, Mapping[int, float]]) -> sparse.csr_matrix:
        """Return the labels [clips, terms], from 0 to 1, of clips (key, narration)."""
        rows, columns, values = [], [], []
        for row, (key, text) in enumerate(clips):
            label = {self.columns[term]: 1.0 for term in terms_of(text) if term in self.columns}
            for column, sign in signs.get(key, {}).items():
                if abs(sign) > _CERTAIN:
                    label[column] = (float(np.clip(sign, -1, 1)) + 1) / 2
            rows += [row] * len(label)
            columns += sorted(label)
            values += [label[column] for column in sorted(label)]
        return sparse.csr_matrix((values, (rows, columns)), (len(clips), len(self.terms)))


def learn(
    texts: Iterable[str], of_clip: Mapping[str, str], pairs: Sequence[PairQuestions], least: int, most: int
) -> Wording:
    """Choose the terms and learn their sides and categories.

    texts: narrations of training clips; of_clip: narration of each clip of the pairs that has one; least: narrations or
    questions and answers, that have a term; most: terms, the most frequent ones.

    Raises:
        StepDiffError: The texts have no such term, or answers do not show which video a word is about.
    """
    counts, clips = Counter[str](), 0
    for text in islice(texts, CLIPS):
        counts.update(terms_of(text))
        clips += 1
    said = Counter[str]()
    for _, question, answer, _ in _asked(pairs):
        said.update(terms_of(question if answer in VIDEOS else answer))
    often = {term for term, count in (counts | said).items() if count >= least}
    often -= {term for term in often if counts[term] > _MOST_COMMON * clips}
    terms = sorted(often, key=lambda term: (-counts[term] - said[term], term))[:most]
    if not terms:
        raise StepDiffError(
            f"no word is in {least} narrations of training clips or in {least} answers: give more clips, or a smaller "
            "--least"
        )
    narrated = {term for term in terms if counts[term] >= least}
    asked = list(_asked(pairs))
    followed = tuple(sorted(_followed(asked, of_clip, narrated)))
    examples, labels = [], []
    for pair, _, answer, _ in asked:
        if answer not in VIDEOS:
            reference, candidate = (terms_of(of_clip.get(clip, "")) for clip in (pair.reference, pair.candidate))
            for one in occurrences(answer, set(followed)):
                if (one.term in candidate) != (one.term in reference):
                    examples.append(one)
                    labels.append(1.0 if one.term in candidate else -1.0)
    if not examples:
        raise StepDiffError(
            "no answer of the paired questions has a word that the narration of one of its clips has, so it is unknown "
            "which video a word is about; give --pairqa with more answers about narrated clips"
        )
    sides, categories = Sides.learn(examples, labels), _categories(asked, set(terms))
    return Wording(tuple(terms), tuple(sorted(narrated)), followed, sides, categories)


_Asked = tuple[PairQuestions, str, str, str]


def _asked(pairs: Iterable[PairQuestions]) -> Iterator[_Asked]:
    """Yield pair, question, answer and category of what is answered by a video or by a text."""
    for pair in pairs:
        categories = pair.categories or ("",) * len(pair.questions)
        for (question, answer), category in zip(pair.questions, categories, strict=True):
            if kind(answer) != "decision":
                yield pair, question, answer, category


def _followed(asked: Sequence[_Asked], of_clip: Mapping[str, str], terms: set[str]) -> Iterator[str]:
    """Yield the terms that answers have more often where the narration of exactly one clip has them, by a z-test."""
    one, both, said_of_one, said_of_none, answers = Counter[str](), Counter[str](), Counter[str](), Counter[str](), 0
    for pair, _, answer, _ in asked:
        if answer in VIDEOS or not {pair.reference, pair.candidate} <= of_clip.keys():
            continue
        answers += 1
        reference, candidate = (terms_of(of_clip[clip]) & terms for clip in (pair.reference, pair.candidate))
        said = terms_of(answer) & terms
        one.update(reference ^ candidate)
        both.update(reference & candidate)
        said_of_one.update(said & (reference ^ candidate))
        said_of_none.update(said - reference - candidate)
    for term in terms:
        none = answers - one[term] - both[term]
        share_of_one, share_of_none = (
            (said_of_one[term] + 0.5) / (one[term] + 1),
            (said_of_none[term] + 0.5) / (none + 1),
        )
        share = (said_of_one[term] + said_of_none[term] + 1) / (one[term] + none + 2)
        error = sqrt(share * (1 - share) * (1 / (one[term] + 1) + 1 / (none + 1)))
        if share_of_one - share_of_none > _FOLLOWS * error:
            yield term


def _categories(asked: Sequence[_Asked], terms: set[str]) -> dict[str, dict[str, float]]:
    """Return category -> term -> share of its answers that have the term, for the terms that belong to it."""
    answers, counts = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for _, question, answer, category in asked:
        if category:
            answers[category] += 1
            counts[category].update(terms_of(question if answer in VIDEOS else answer) & terms)
    shares = {
        c: {term: n / answers[c] for term, n in sorted(of_terms.items())} for c, of_terms in sorted(counts.items())
    }
    total = Counter[str]()
    for of_terms in shares.values():
        total.update(of_terms)
    return {
        c: {t: share for t, share in of_terms.items() if share >= _OF_CATEGORY * total[t]}
        for c, of_terms in shares.items()
    }
