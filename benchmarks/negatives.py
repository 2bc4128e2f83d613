"""DiffMCQ hard negatives of a whole test set, next to the naive walk.

python -m benchmarks.negatives                                        # the published size, about two minutes
python -m benchmarks.negatives --pairs 60 --clips 90 --differences 300 --dim 16 --naive 20 --rounds 1

Clips form clusters, one a step, some of them copies of others; texts form clusters of much the same meaning, so that
both filters have work. The peer is the protocol as one reads it: for a true pair the distances to all pairs, sorted,
then for every question each pair in turn, until three are kept. It walks a sample of the true pairs, and its seconds
are given for all of them. Every question of those pairs is compared with it. V3 is drawn at random, without a walk. The
ceiling of V1 and V2 is the float32 product of all pairs' embeddings, which gives their distances.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Row, benchmark, measured, race, timed
from retrieval.mining.negatives import Difference, Drawn, TestSet, Variant, hard_negatives, random_negatives
from stepdiff.common.cli import command
from stepdiff.tasks.testsets import CATEGORIES, Pair

SECONDS = 5.0  # for V1, V2 and V3 of the published size
THRESHOLD = 0.8
VARIANTS: tuple[Variant, ...] = ("V1", "V2", "V3")


@dataclass(frozen=True)
class Options:
    pairs: int = 6292
    """true pairs of the test set"""
    clips: int = 8396
    """clips among them"""
    differences: int = 35988
    """difference texts"""
    dim: int = 768
    """channels of a clip's embedding, and of a text's"""
    naive: int = 300
    """true pairs that the naive walk starts from"""
    rounds: int = 3
    """measurements of ours, whose median counts, after one to warm up"""


class World(NamedTuple):
    """A test set with its embeddings, all of length 1, in float64."""

    test_set: TestSet
    clips: np.ndarray
    """[clips, dim]"""
    texts: np.ndarray
    """[texts, dim]"""


def world(options: Options) -> World:
    """Return a test set of the shape of the published one."""
    rng = np.random.default_rng(0)

    def clusters(centre: np.ndarray, spread: float) -> np.ndarray:
        centres = rng.normal(size=(int(centre.max()) + 1, options.dim))
        vectors = centres[centre] + spread * rng.normal(size=(len(centre), options.dim))
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    step = np.sort(rng.integers(0, max(options.clips // 20, 1), options.clips))
    clips = clusters(step, 0.6)
    copies = rng.choice(options.clips, options.clips // 50, replace=False)
    clips[copies] = clips[(copies + 1) % options.clips]
    pairs: dict[Pair, None] = {}
    while len(pairs) < options.pairs:
        first = int(rng.integers(options.clips))
        second = int(rng.choice(np.flatnonzero(step == step[first])))
        if second != first:
            pairs[f"clip_{first}_0_1", f"clip_{second}_0_1"] = None
    meaning = rng.integers(0, max(options.differences // 12, 1), options.differences)
    texts = clusters(meaning, 0.45)
    names, every = list(pairs), np.arange(options.differences)
    pair_of = np.where(every < len(names), every, rng.integers(0, len(names), options.differences)) % len(names)
    test_set = TestSet(
        Difference(names[pair], CATEGORIES[meant % len(CATEGORIES)], f"text {place}")
        for place, (pair, meant) in enumerate(zip(pair_of.tolist(), meaning.tolist(), strict=True))
    )
    return World(test_set, clips[[int(clip.split("_")[1]) for clip in test_set.clips]], texts)


def ours(given: World, variant: Variant) -> Drawn:
    """Return the questions of retrieval.mining."""
    if variant == "V3":
        return random_negatives(given.test_set, seed=0)
    return hard_negatives(*given, variant, THRESHOLD, seed=0)


def averages(given: World) -> np.ndarray:
    """Return the embeddings of all pairs."""
    clip = dict(zip(given.test_set.clips, given.clips, strict=True))
    return np.stack([(clip[reference] + clip[candidate]) / 2 for reference, candidate in given.test_set.pairs])


def naive_walk(given: World, true: list[int], variant: Variant) -> dict[Difference, set[Pair]]:
    """Return the negatives of every question of the true pairs named, where three exist."""
    test_set, negatives = given.test_set, {}
    text = dict(zip(test_set.texts, given.texts, strict=True))
    texts_of, questions_of = defaultdict(list), defaultdict(list)
    for one in test_set.differences:
        texts_of[one.pair, one.category].append(text[one.text])
        questions_of[one.pair].append(one)
    embeddings = averages(given)
    for place in true:
        pair = test_set.pairs[place]
        distances = np.sqrt(np.sum((embeddings - embeddings[place]) ** 2, axis=-1))
        order = [test_set.pairs[other] for other in np.argsort(distances, kind="stable")]
        for one in questions_of[pair]:
            nearest: list[Pair] = []
            for other in order:
                shared = len(set(other) & set(pair))
                if shared == 2 or (shared and variant == "V1"):
                    continue
                if any(np.sum(text[one.text] * theirs) > THRESHOLD for theirs in texts_of[other, one.category]):
                    continue
                nearest.append(other)
                if len(nearest) == 3:
                    negatives[one] = set(nearest)
                    break
    return negatives


def run(options: Options) -> dict[str, Any]:
    """Return the record, with the number of questions that were compared."""
    given = world(options)
    true = np.random.default_rng(0).choice(options.pairs, min(options.naive, options.pairs), replace=False).tolist()
    wanted = {given.test_set.pairs[place] for place in true}
    embeddings = averages(given).astype(np.float32)
    ways: dict[str, Callable[[], object]] = {variant: partial(ours, given, variant) for variant in VARIANTS}
    seconds = measured({**ways, "product": lambda: embeddings @ embeddings.T}, options.rounds)
    rows: list[Row] = []
    for variant in VARIANTS:
        drawn = ours(given, variant)
        walked, expected = (0.0, {}) if variant == "V3" else timed(partial(naive_walk, given, true, variant))
        negatives = {
            Difference(q.answer, q.category, q.difference): set(q.options) - {q.answer}
            for q in drawn.questions
            if q.answer in wanted
        }
        assert variant == "V3" or negatives == expected, f"{variant} is not what the naive walk finds"
        rows.append(
            {
                "variant": variant,
                "questions": len(drawn.questions),
                "dropped": drawn.dropped,
                "seconds": round(seconds[variant].clock, 3),
                "CPU seconds": round(seconds[variant].cpu, 3),
                "naive seconds": round(walked * options.pairs / len(true), 1),
                "equal questions": len(expected),
            }
        )
    clock, product = (sum(seconds[name].clock for name in names) for names in (VARIANTS, ("product", "product")))
    races = [
        race("V1, V2 and V3", SECONDS, clock, 1.0, f"{SECONDS:g} s for the published size"),
        race("V1, V2 and V3", sum(row["naive seconds"] for row in rows), clock, 10.0, "the naive walk"),
        race("V1, V2 and V3", product, clock, None, "two products of all pairs"),
    ]
    sizes = {"pairs": options.pairs, "clips": options.clips, "differences": options.differences, "dim": options.dim}
    return {"rows": rows, "races": races, **sizes}


main = benchmark("negatives", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
