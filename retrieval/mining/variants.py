"""DiffMCQ questions out of a DiffCap test set: hard negatives for every difference text.

    python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
        --test-set data/kitchen/diffcap_test.jsonl --variant V1 --out data/diffmcq_v1.jsonl

The computation, in float64 throughout. A pair's embedding is (r + c) / 2 of its clips' embeddings,
each divided by its L2 norm. For a question, the test set's other distinct pairs (reference and
candidate in order) are walked by the L2 distance of their embeddings to the true pair's, equal
distances in the order in which the test set names the pairs first. A walked pair is dropped

- in V1 where it shares a clip with the true pair,
- in V2 where it is the true pair, or the true pair reversed,
- in both where one of its difference texts of the question's category has a cosine above the
  threshold to the question's text,

and the walk stops at three. V3 keeps the reference or the candidate and draws three other clips of
the test set in the other place, with no regard to distance or text, never the true pair reversed.

Guarantees:
- one_question_a_text: each text of each row is one question, in the file's order; a question with
  fewer than three negatives is dropped and counted.
- equal_to_the_naive_walk: the walk is compiled and looks at few pairs, but finds what walking them all would.
- seed_and_content_decide: what is drawn depends on the seed and the question's own words, not on
  its place in the file.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from retrieval.mining.differences import Difference, TestSet
from retrieval.mining.walk import NEGATIVES, Asked, walk
from tasks.testsets import DiffMCQ, Pair

Variant = Literal["V1", "V2", "V3"]
MOST_SHARED = {"V1": 0, "V2": 1}  # clips that a negative may have in common with the true pair


@dataclass(frozen=True)
class Drawn:
    """The questions, and how many were dropped for want of negatives."""

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
    """V1 and V2. `clips` and `texts` are normalised and beside `test_set.clips` and `.texts`."""
    place = {clip: at for at, clip in enumerate(test_set.clips)}
    pairs = np.array([[place[clip] for clip in pair] for pair in test_set.pairs])
    averages = (clips[pairs[:, 0]] + clips[pairs[:, 1]]) / 2
    asked, order = _asked(test_set, pairs, texts)
    found = np.empty((len(order), NEGATIVES), np.int64)
    found[order] = walk(asked, averages, MOST_SHARED[variant], threshold)
    source = random.Random()
    questions = []
    for one, negatives in zip(test_set.differences, found.tolist(), strict=True):
        if negatives[-1] >= 0:
            reseed(source, seed, one)
            questions.append(_question(one, [test_set.pairs[at] for at in negatives], source))
    return Drawn(questions, len(test_set.differences) - len(questions))


def _asked(
    test_set: TestSet, pairs: Int64[np.ndarray, "pairs 2"], texts: Float64[np.ndarray, "texts text_dim"]
) -> tuple[Asked, Int64[np.ndarray, " questions"]]:
    """The test set as arrays, and which difference each of their questions is."""
    pair = {name: at for at, name in enumerate(test_set.pairs)}
    text = {words: at for at, words in enumerate(test_set.texts)}
    category = {name: at for at, name in enumerate(dict.fromkeys(one.category for one in test_set.differences))}
    groups = np.array([pair[one.pair] * len(category) + category[one.category] for one in test_set.differences])
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(pair) * len(category) + 1))
    said = np.array([text[one.text] for one in test_set.differences])
    return Asked(pairs, bounds, said[order], texts), order


def random_negatives(test_set: TestSet, seed: int) -> Drawn:
    """V3: one clip of the true pair stays, the other place is drawn from the test set's clips."""
    draw = random.Random()
    questions = []
    for one in test_set.differences:
        reseed(draw, seed, one)
        keep_reference = draw.random() < 0.5
        spare = NEGATIVES + len(one.pair)  # the pair's own clips may be among those drawn
        drawn = draw.sample(test_set.clips, min(spare, len(test_set.clips)))
        others = [clip for clip in drawn if clip not in one.pair][:NEGATIVES]
        if len(others) == NEGATIVES:
            reference, candidate = one.pair
            negatives = [(reference, x) if keep_reference else (x, candidate) for x in others]
            questions.append(_question(one, negatives, draw))
    return Drawn(questions, len(test_set.differences) - len(questions))


def reseed(source: random.Random, seed: int, one: Difference) -> None:
    """Make `source` that of all that is drawn for one question; a new one each time would take twice as long."""
    source.seed(json.dumps([seed, *one.pair, one.category, one.text]))


def _question(one: Difference, negatives: list[Pair], draw: random.Random) -> DiffMCQ:
    options = [one.pair, *negatives]
    draw.shuffle(options)
    return DiffMCQ(one.text, one.category, tuple(options), one.pair)
