"""Fit a head of words: the evidence that a clip shows what a word names, by ridge regression from cached tokens.

python -m heads.words --store data/features --view efficientnet-lite0 --pairqa data/kitchen/pairqa_train.jsonl \\
    --validation data/kitchen/diffrank_val.jsonl --out runs/words
python -m heads.evaluate --method word-evidence --head runs/words ...    answers all three tasks with it

One pass over the store adds up sums of D x D and D x terms, and everything else follows from them in closed form: no
learning rate, no steps. A killed run resumes, and a run after `featurize` has added clips reads those only.
"""

import time
from typing import Any

from heads.evidence.options import WordOptions
from stepdiff.common.cli import command
from stepdiff.common.cli.options import parse


def run(options: WordOptions) -> dict[str, Any]:
    from heads.evidence.counting import Counting
    from heads.evidence.fitting import fitted, keep_lineage
    from store import Store

    began = time.monotonic()
    options.check()
    counting = Counting(options, Store.open(options.store))
    keep_lineage(counting)
    counting.run()
    head = fitted(counting, began)
    head.save()
    return {
        "out": options.out,
        **{name: head.about[name] for name in ("clips", "ridge", "declines", "seconds")},
        "terms": len(head.terms),
    }


def show(record: dict[str, Any]) -> None:
    """Print what was fitted."""
    clips, ridge = record["clips"], record["ridge"]
    fitted = f"{record['terms']:,} words and phrases from {clips['train']:,} clips in {record['seconds']:.0f} s"
    print(f"{record['out']}: {fitted}, ridge {ridge['value']:g} chosen on {ridge['chosen_on']}")
    if (declines := record["declines"]) is not None:
        below = ", ".join(f"{category} {distance:.2f}" for category, distance in declines["below"].items())
        right = f"balanced accuracy {declines['balanced_accuracy']:.2f} on {declines['rows']:,} pairs"
        print(f"declines below distance {below}: {right}")


def main(argv: list[str] | None = None) -> int:
    return parse(WordOptions, argv, "heads.words", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "saved sums are kept; run the same command for the rest")
