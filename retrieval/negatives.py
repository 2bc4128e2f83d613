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
- equal_to_the_naive_walk: distances are estimated by a matrix product, a block of pairs at a time,
  but ordered by the exact ones alone.
- seed_and_content_decide: what is drawn depends on the seed and the question's own words, not on
  its place in the file.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Literal

import numpy as np
from jaxtyping import Float64

from retrieval.pairs import Difference, Pair, Question, TestSet
from retrieval.progress import progress

Variant = Literal["V1", "V2", "V3"]
NEGATIVES = 3
BLOCK = 256  # true pairs whose distances are estimated at a time
SHORTLIST = 64  # pairs ordered exactly at first; four times as many each time they do not suffice
MARGIN = 1e-9  # far above the error of an estimated squared distance (1e-14), far below any gap


@dataclass(frozen=True)
class Drawn:
    """The questions, and how many were dropped for want of negatives."""

    questions: list[Question]
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
    left, right = np.array([[place[clip] for clip in pair] for pair in test_set.pairs]).T
    averages = (clips[left] + clips[right]) / 2
    said = _Said(test_set, texts)
    asked: dict[Pair, list[int]] = defaultdict(list)
    for at, one in enumerate(test_set.differences):
        asked[one.pair].append(at)
    questions: dict[int, Question] = {}
    with progress("walked pairs", len(averages)) as advance:
        for true, walk in enumerate(_walks(averages)):
            pair = test_set.pairs[true]
            allowed: Iterator[Pair] = (test_set.pairs[at] for at in walk if _allowed(test_set.pairs[at], pair, variant))
            for at in asked[pair]:
                one = test_set.differences[at]
                allowed, again = tee(allowed)  # every question of the pair walks from the start
                negatives = said.first_unlike(again, one, threshold)
                if len(negatives) == NEGATIVES:
                    questions[at] = _question(one, negatives, random_of(seed, one))
            advance(1)
    ordered = [questions[at] for at in sorted(questions)]
    return Drawn(ordered, len(test_set.differences) - len(ordered))


def random_negatives(test_set: TestSet, seed: int) -> Drawn:
    """V3: one clip of the true pair stays, the other place is drawn from the test set's clips."""
    questions = []
    for one in test_set.differences:
        draw = random_of(seed, one)
        keep_reference = draw.random() < 0.5
        spare = NEGATIVES + len(one.pair)  # the pair's own clips may be among those drawn
        drawn = draw.sample(test_set.clips, min(spare, len(test_set.clips)))
        others = [clip for clip in drawn if clip not in one.pair][:NEGATIVES]
        if len(others) == NEGATIVES:
            reference, candidate = one.pair
            negatives = [(reference, x) if keep_reference else (x, candidate) for x in others]
            questions.append(_question(one, negatives, draw))
    return Drawn(questions, len(test_set.differences) - len(questions))


def random_of(seed: int, one: Difference) -> random.Random:
    """The source of all that is drawn for one question."""
    return random.Random(json.dumps([seed, *one.pair, one.category, one.text]))


def _question(one: Difference, negatives: list[Pair], draw: random.Random) -> Question:
    options = [one.pair, *negatives]
    draw.shuffle(options)
    return Question(one.text, one.category, tuple(options), one.pair)


def _allowed(other: Pair, true: Pair, variant: Variant) -> bool:
    shared = len(set(other) & set(true))
    return shared == 0 if variant == "V1" else shared < 2


class _Said:
    """Which texts the test set has of a pair in a category, and how near two texts are."""

    def __init__(self, test_set: TestSet, texts: Float64[np.ndarray, "texts text_dim"]) -> None:
        self._place = {text: at for at, text in enumerate(test_set.texts)}
        self._texts = texts
        self._of: dict[tuple[Pair, str], list[int]] = defaultdict(list)
        for one in test_set.differences:
            self._of[one.pair, one.category].append(self._place[one.text])

    def first_unlike(self, walk: Iterator[Pair], one: Difference, threshold: float) -> list[Pair]:
        """The first three pairs of the walk of which nothing like this text is said."""
        return list(islice((pair for pair in walk if not self.alike(one, pair, threshold)), NEGATIVES))

    def alike(self, one: Difference, other: Pair, threshold: float) -> bool:
        """Has `other` a text of the same category above the threshold to this text?"""
        theirs = self._of.get((other, one.category))
        if theirs is None:
            return False
        cosines = np.sum(self._texts[theirs] * self._texts[self._place[one.text]], axis=-1)
        return bool(np.max(cosines) > threshold)


def _walks(averages: Float64[np.ndarray, "pairs dim"]) -> Iterator[Iterator[int]]:
    """For each pair in turn, all pairs from the nearest (itself among them)."""
    squares = np.sum(averages * averages, axis=-1)
    for start in range(0, len(averages), BLOCK):
        block = slice(start, start + BLOCK)
        estimates = squares[block, None] + squares - 2 * (averages[block] @ averages.T)
        for at, estimate in enumerate(estimates, start=start):
            yield _walk(averages, at, estimate)


def _walk(
    averages: Float64[np.ndarray, "pairs dim"], true: int, estimate: Float64[np.ndarray, " pairs"]
) -> Iterator[int]:
    """Pairs by exact distance to pair `true`; `estimate` only tells which need not be looked at."""
    size, given = SHORTLIST, 0
    while given < len(averages):
        bound = np.inf  # every pair within this squared distance is in `near`
        near = np.arange(len(averages))
        if size < len(averages):
            bound = max(np.partition(estimate, size)[size], 0.0)
            near = np.flatnonzero(estimate <= bound + MARGIN)
        distances = np.sqrt(np.sum((averages[near] - averages[true]) ** 2, axis=-1))
        order = np.argsort(distances, kind="stable")
        certain = int(np.searchsorted(distances[order], np.sqrt(bound), side="right"))
        yield from (int(at) for at in near[order[given:certain]])
        given, size = max(given, certain), size * 4
