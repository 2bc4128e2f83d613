"""How often a pair that is found has the same difference, in the sample world, where all attributes are known.

python -m benchmarks.differences --store data/features --world data/kitchen --words runs/words

A query is a pair of clips of one step and of different videos that differ in one attribute of a category, or a sentence
of a DiffCap test set about such a pair. A found pair is right if the same attribute changes from the same value to the
same value; a query without an answer counts as wrong. Pairs are searched in the whole store.
"""

import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import benchmark
from heads.differences import DifferencesOptions as Wanted
from heads.evidence.differences import find
from heads.evidence.head import WordHead
from heads.methods.word_evidence import WordEvidence
from retrieval.differences import sampled
from stepdiff.common.cli import command
from stepdiff.common.errors import StepDiffError
from stepdiff.kitchen.attributes import differences
from stepdiff.kitchen.truth import read_world
from stepdiff.tasks.testsets import CATEGORIES, read_test_set
from store import Store

CHANCE = 200  # pairs of the step of a query, drawn at random


@dataclass(frozen=True)
class Options:
    store: str
    """feature store"""
    world: str
    """folder of the sample world"""
    words: str
    """folder of heads.words"""
    split: str = "test"
    """of the queries"""
    queries: int = 100
    """of each category and kind, at most"""


def run(options: Options) -> dict[str, Any]:
    """Return the record: precision by category."""
    store, world, rng = Store.open(options.store), Path(options.world), random.Random(0)
    truth, sample = read_world(world / "attributes.jsonl"), sampled(store.catalog("clips"))
    words = WordEvidence.of_store(WordHead.load(options.words), store)
    clips = store.catalog("clips").frame(["key", "step", "video", "split"]).drop_nulls("step").iter_rows()
    pairs = [(a, b) for a, b in permutations(clips, 2) if a[1] == b[1] and a[2] != b[2]]
    own = [(a[0], b[0]) for a, b in pairs if a[3] == b[3] == options.split]
    of_step = defaultdict[str, list[tuple[str, str]]](list)
    for a, b in pairs:
        of_step[a[1]].append((a[0], b[0]))
    rows = []
    for category in CATEGORIES:

        def changes(*pair: str) -> tuple[Any, ...]:
            return differences(category, *(truth[clip] for clip in pair))  # noqa: B023

        def right(by: Any, wanted: Wanted, change: Any) -> float | None:
            try:
                found = find(store, by, wanted, sample).pairs
            except StepDiffError:  # the head sees no difference
                return None
            return fmean(change in changes(pair.reference, pair.candidate) for pair in found)  # noqa: B023

        asked = [pair for pair in rng.sample(own, len(own)) if len(changes(*pair)) == 1][: options.queries]
        said = [row for row in read_test_set("diffcap", world / f"diffcap_{options.split}.jsonl") if row.text]
        said = [row for row in said if row.category == category and len(changes(row.reference, row.candidate)) == 1]
        shares = defaultdict[str, list[float | None]](list)
        for one, other in asked:
            (change,), drawn = changes(one, other), rng.choices(of_step[truth[one].step], k=CHANCE)
            shares["chance"].append(fmean(change in changes(*pair) for pair in drawn))
            for name, by in (("image embeddings", words.features.view), ("words", words)):
                shares[name].append(right(by, Wanted("", (one,), (other,), category), change))
        for row in rng.sample(said, min(len(said), options.queries)):
            change = changes(row.reference, row.candidate)[0]
            shares["sentences"].append(right(words, Wanted(row.text[0]), change))
        figures = {name: round(fmean(value or 0.0 for value in values), 3) for name, values in shares.items()}
        counts = {"pairs": len(asked), "unanswered": shares["words"].count(None), "texts": len(shares["sentences"])}
        rows.append({"category": category, **figures, **counts})
    return {"rows": rows, "races": []}


main = benchmark("differences", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
