"""DiffMCQ questions from a DiffCap test set: three hard negatives for every difference text.

All computations are in float64. A pair's embedding is (r + c) / 2 of its clips' embeddings, each divided by its L2
norm. For a question, the other distinct (reference, candidate) pairs of the test set are walked by the L2 distance of
their embeddings to the true pair's; pairs at equal distance keep the order of their first appearance. A pair is skipped

- in V1 if it shares a clip with the true pair,
- in V2 if it is the true pair, or the true pair reversed,
- in both if one of its difference texts in the question's category has a cosine above the threshold to the question's
  text,

and the walk stops at three pairs. V3 keeps the reference or the candidate and draws three other clips of the test set
for the other place, regardless of distance or text, but never the true pair reversed.

Guarantees
- one_question_per_text: each text of each row is one question, in the order of the file; a question with fewer than
  three negatives is dropped and counted
- negatives_equal_the_naive_ones: the compiled walk sorts few pairs, with the result of walking all of them
- the_order_of_options_depends_on_seed_and_content_only: random draws depend on the seed and the question's content, not
  on its position in the file
- pairs_clips_and_texts_are_in_order_of_first_appearance: pairs, clips and texts keep the order in which the test set
  names them first
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from retrieval.mining.walk import NEGATIVES, Questions, walk
from tasks.testsets import DiffCap, DiffMCQ, Pair

Variant = Literal["V1", "V2", "V3"]
MOST_SHARED = {"V1": 0, "V2": 1}  # clips that a negative may share with the true pair


@dataclass(frozen=True)
class Difference:
    """One text of one row, about a pair in a category."""

    pair: Pair
    category: str
    text: str


class TestSet:
    """The differences of a DiffCap test set in its order, and its pairs, clips and texts."""

    __test__ = False  # keeps pytest from collecting it

    def __init__(self, differences: Iterable[Difference]) -> None:
        self.differences = list(differences)
        self.pairs = list(dict.fromkeys(one.pair for one in self.differences))
        self.clips = list(dict.fromkeys(clip for one in self.differences for clip in one.pair))
        self.texts = list(dict.fromkeys(one.text for one in self.differences))

    @classmethod
    def of_rows(cls, rows: Iterable[DiffCap]) -> TestSet:
        """Return the differences of DiffCap rows; a row has one for each of its texts."""
        return cls(Difference((row.reference, row.candidate), row.category, text) for row in rows for text in row.text)


@dataclass(frozen=True)
class Drawn:
    """The questions, and the number of those dropped for lack of negatives."""

    questions: list[DiffMCQ]
    dropped: int


def hard_negatives(
    test_set: TestSet,
    clips: Float64[np.ndarray, "clips dim"],
    texts: Float64[np.ndarray, "texts text_dim"],
    variant: Literal["V1", "V2"],
    threshold: float,
    seed: int,
) -> Drawn:
    """Return the questions of V1 or V2 from the normalised embeddings of `test_set.clips` and `test_set.texts`."""
    place = {clip: at for at, clip in enumerate(test_set.clips)}
    pairs = np.array([[place[clip] for clip in pair] for pair in test_set.pairs])
    averages = (clips[pairs[:, 0]] + clips[pairs[:, 1]]) / 2
    arrays, order = _arrays(test_set, pairs, texts)
    found = np.empty((len(order), NEGATIVES), np.int64)
    found[order] = walk(arrays, averages, MOST_SHARED[variant], threshold)
    source = random.Random()
    questions = []
    for one, negatives in zip(test_set.differences, found.tolist(), strict=True):
        if negatives[-1] >= 0:
            reseed(source, seed, one)
            questions.append(_question(one, [test_set.pairs[at] for at in negatives], source))
    return Drawn(questions, len(test_set.differences) - len(questions))


def _arrays(
    test_set: TestSet, pairs: Int64[np.ndarray, "pairs 2"], texts: Float64[np.ndarray, "texts text_dim"]
) -> tuple[Questions, Int64[np.ndarray, " questions"]]:
    """The questions as arrays, and the difference of each."""
    pair = {name: at for at, name in enumerate(test_set.pairs)}
    text = {words: at for at, words in enumerate(test_set.texts)}
    category = {name: at for at, name in enumerate(dict.fromkeys(one.category for one in test_set.differences))}
    groups = np.array([pair[one.pair] * len(category) + category[one.category] for one in test_set.differences])
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(pair) * len(category) + 1))
    places = np.array([text[one.text] for one in test_set.differences])
    return Questions(pairs, bounds, places[order], texts), order


def random_negatives(test_set: TestSet, seed: int) -> Drawn:
    """Return the questions of V3: one clip of the true pair stays, the other is drawn from the test set."""
    draw = random.Random()
    questions = []
    for one in test_set.differences:
        reseed(draw, seed, one)
        keep_reference = draw.random() < 0.5
        spare = NEGATIVES + len(one.pair)  # the draw may contain the pair's own clips
        drawn = draw.sample(test_set.clips, min(spare, len(test_set.clips)))
        others = [clip for clip in drawn if clip not in one.pair][:NEGATIVES]
        if len(others) == NEGATIVES:
            reference, candidate = one.pair
            negatives = [(reference, x) if keep_reference else (x, candidate) for x in others]
            questions.append(_question(one, negatives, draw))
    return Drawn(questions, len(test_set.differences) - len(questions))


def reseed(source: random.Random, seed: int, one: Difference) -> None:
    """Seed `source` for one question; this is twice as fast as a new source per question."""
    source.seed(json.dumps([seed, *one.pair, one.category, one.text]))


def _question(one: Difference, negatives: list[Pair], draw: random.Random) -> DiffMCQ:
    options = [one.pair, *negatives]
    draw.shuffle(options)
    return DiffMCQ(one.text, one.category, tuple(options), one.pair)
