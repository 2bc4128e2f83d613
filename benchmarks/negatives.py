"""DiffMCQ hard negatives of a whole test set, next to the naive walk.

python -m benchmarks.negatives                                        # the published size, about two minutes
python -m benchmarks.negatives --pairs 500 --clips 700 --differences 3000 --naive 50     # a first look

Clips lie in clusters, one a step, some of them copies of others; texts lie in clusters of much the same meaning, so
that both filters have work. The naive walk is the protocol as one reads it: for a true pair the distances to all pairs,
sorted, then for every question each pair in turn, until three are kept. It walks a sample of the true pairs, and its
seconds are given for all of them. Every question of those pairs is compared: V1 and V2 with the walk, V3 with a draw
from the same source.
"""

import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line, measured
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from jaxtyping import Float64

    from retrieval.mining.negatives import Difference, Drawn, TestSet, Variant
    from stepdiff.tasks.testsets import Pair

SECONDS = 5.0  # for V1, V2 and V3 of the published size
CATEGORIES = ("Visuals", "Ingredients", "Actions", "Technique", "Tools/Equipment", "Serving / Presentation")
THRESHOLD = 0.8
VARIANTS: "tuple[Variant, ...]" = ("V1", "V2", "V3")


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
    seed: int = 0
    """seed of the test set"""


@dataclass(frozen=True)
class World:
    """A test set with its embeddings, all of length 1."""

    test_set: "TestSet"
    clips: "Float64[np.ndarray, 'clips dim']"
    texts: "Float64[np.ndarray, 'texts dim']"


def world(options: Options) -> World:
    """Return a test set of the shape of the published one."""
    from retrieval.mining.negatives import Difference, TestSet

    rng = np.random.default_rng(options.seed)
    step = np.sort(rng.integers(0, max(options.clips // 20, 1), options.clips))
    clips = _clusters(rng, step, options.dim, 0.6)
    copies = rng.choice(options.clips, options.clips // 50, replace=False)
    clips[copies] = clips[(copies + 1) % options.clips]
    pairs: dict[Pair, None] = {}
    while len(pairs) < options.pairs:
        first = int(rng.integers(options.clips))
        same = np.flatnonzero(step == step[first])
        second = int(rng.choice(same))
        if second != first:
            pairs[f"clip_{first}_0_1", f"clip_{second}_0_1"] = None
    meaning = rng.integers(0, max(options.differences // 12, 1), options.differences)
    texts = _clusters(rng, meaning, options.dim, 0.45)
    names, every = list(pairs), np.arange(options.differences)
    pair_of = np.where(every < len(names), every, rng.integers(0, len(names), options.differences)) % len(names)
    differences = [
        Difference(names[pair], CATEGORIES[int(meaning[at]) % len(CATEGORIES)], f"text {at}")
        for at, pair in enumerate(pair_of.tolist())
    ]
    test_set = TestSet(differences)
    place = [int(clip.split("_")[1]) for clip in test_set.clips]
    return World(test_set, clips[place], texts)


def _clusters(
    rng: np.random.Generator, centre: np.ndarray, dim: int, spread: float
) -> "Float64[np.ndarray, 'vectors dim']":
    centres = rng.normal(size=(int(centre.max()) + 1, dim))
    vectors = centres[centre] + spread * rng.normal(size=(len(centre), dim))
    return vectors / np.sqrt(np.sum(vectors * vectors, axis=-1, keepdims=True))


def ours(given: World, variant: "Variant") -> "Drawn":
    """Return the questions of retrieval.mining."""
    from retrieval.mining.negatives import hard_negatives, random_negatives

    if variant == "V3":
        return random_negatives(given.test_set, seed=0)
    return hard_negatives(given.test_set, given.clips, given.texts, variant, THRESHOLD, seed=0)


def naive_walk(given: World, true: list[int], variant: "Variant") -> "dict[Difference, set[Pair]]":
    """Return the negatives of every question of the true pairs named, where there are three."""
    test_set, found = given.test_set, {}
    clip = dict(zip(test_set.clips, given.clips, strict=True))
    text = dict(zip(test_set.texts, given.texts, strict=True))
    said = defaultdict(list)
    for one in test_set.differences:
        said[one.pair, one.category].append(text[one.text])
    asked = defaultdict(list)
    for one in test_set.differences:
        asked[one.pair].append(one)
    averages = np.stack([(clip[reference] + clip[candidate]) / 2 for reference, candidate in test_set.pairs])
    for pair in (test_set.pairs[at] for at in true):
        own = (clip[pair[0]] + clip[pair[1]]) / 2
        distances = np.sqrt(np.sum((averages - own) ** 2, axis=-1))
        order = [test_set.pairs[at] for at in np.argsort(distances, kind="stable")]
        for one in asked[pair]:
            kept: list[Pair] = []
            for other in order:
                shared = len(set(other) & set(pair))
                if shared == 2 or (shared and variant == "V1"):
                    continue
                if any(np.sum(text[one.text] * theirs) > THRESHOLD for theirs in said[other, one.category]):
                    continue
                kept.append(other)
                if len(kept) == 3:
                    found[one] = set(kept)
                    break
    return found


def naive_draw(given: World, true: list[int]) -> "dict[Difference, set[Pair]]":
    """Return V3 of the true pairs named, as the protocol describes it."""
    test_set, found = given.test_set, {}
    wanted = {test_set.pairs[at] for at in true}
    for one in test_set.differences:
        if one.pair in wanted:
            source = random.Random(json.dumps([0, *one.pair, one.category, one.text]))
            keep_reference = source.random() < 0.5
            clips = [clip for clip in source.sample(test_set.clips, 5) if clip not in one.pair][:3]
            found[one] = {(one.pair[0], clip) if keep_reference else (clip, one.pair[1]) for clip in clips}
    return found


def run(options: Options) -> dict[str, Any]:
    """Return rows, lines, and how many questions were compared."""
    from retrieval.mining.negatives import Difference

    given = world(options)
    true = np.random.default_rng(options.seed).choice(options.pairs, min(options.naive, options.pairs), replace=False)
    wanted = {given.test_set.pairs[at] for at in true}
    rows: list[Row] = []
    clock = cpu = naive = 0.0
    compared = 0
    for variant in VARIANTS:
        drawn = ours(given, variant)
        own = measured({variant: partial(ours, given, variant)}, options.rounds)[variant]
        start = time.perf_counter()
        expected = naive_draw(given, true.tolist()) if variant == "V3" else naive_walk(given, true.tolist(), variant)
        walked = (time.perf_counter() - start) * options.pairs / len(true)
        found = {
            Difference(q.answer, q.category, q.difference): set(q.options) - {q.answer}
            for q in drawn.questions
            if q.answer in wanted
        }
        assert found == expected, f"{variant} is not what the naive walk finds"
        compared += len(expected)
        clock, cpu, naive = clock + own.clock, cpu + own.cpu, naive + walked
        rows.append(
            {
                "variant": variant,
                "questions": len(drawn.questions),
                "dropped": drawn.dropped,
                "seconds": round(own.clock, 3),
                "CPU seconds": round(own.cpu, 3),
                "naive seconds": round(walked, 1),
                "equal questions": len(expected),
            }
        )
    lines = [
        line("V1, V2 and V3", 1 / clock, 1 / SECONDS, 1.0, f"{SECONDS:g} s for the published size"),
        line("the same by CPU time", 1 / cpu, 1 / SECONDS, 1.0, f"{SECONDS:g} s"),
        line("V1, V2 and V3", naive, clock, 10.0, "the naive walk"),
    ]
    sizes = {"pairs": options.pairs, "clips": options.clips, "differences": options.differences, "dim": options.dim}
    return {"rows": rows, "lines": lines, **sizes, "compared_questions": compared}


main = benchmark("negatives", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
