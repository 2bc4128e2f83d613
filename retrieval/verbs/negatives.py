"""Make DiffMCQ questions from a DiffCap test set.

python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
    --test-set data/kitchen/diffcap_test.jsonl --variant V1 --out data/diffmcq_v1.jsonl
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval

from common.cli.options import parse
from common.errors import StepDiffError


@dataclass(frozen=True)
class Options:
    """Make DiffMCQ questions from a DiffCap test set: three negatives for each difference text."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips, which decides which pairs look alike"""
    test_set: Path
    """DiffCap file (JSON lines with reference, candidate, category, text)"""
    out: Path
    """DiffMCQ file to write"""
    variant: Literal["V1", "V2", "V3"] = "V1"
    """V1: no clip shared with the true pair; V2: clips may be shared, the pair may not;
    V3: one clip is kept, the other drawn at random"""
    text_view: str = "mpnet-base"
    """feature view of the texts, which decides which differences say the same (V1 and V2)"""
    threshold: float = field(default=0.8, metadata={"type": ClosedUnitInterval})
    """cosine of two difference texts above which they say the same (V1 and V2)"""
    feature: str = "embedding"
    """array of the clips' view to compare"""
    allow_reversed: bool = False
    """V2 may have the true pair reversed as an option, as supplement S5 is written; by default it counts as the pair"""
    seed: int = 0
    """decides the order of the options and the draws of V3"""


def run(options: Options) -> dict[str, Any]:
    """Run the verb; returns the counts."""
    from retrieval.mining.negatives import draw
    from store import Store
    from tasks.testsets import write_test_set

    store = Store.open(options.store)
    drawn = draw(
        store,
        store.view("clips", options.view),
        options.test_set,
        options.variant,
        options.text_view,
        options.threshold,
        options.feature,
        options.seed,
        options.allow_reversed,
    )
    total = len(drawn.questions) + drawn.dropped
    if not drawn.questions:
        raise StepDiffError(
            f"none of the {total} differences of {options.test_set} has three negatives: the test set needs more pairs"
        )
    write_test_set("diffmcq", options.out, drawn.questions)
    counts = {"questions": len(drawn.questions), "dropped": drawn.dropped}
    given = {"variant": options.variant, "seed": options.seed, "threshold": options.threshold}
    if options.allow_reversed:
        given["allow_reversed"] = True
    return {**counts, **given, "out": str(options.out)}


def show(record: dict[str, Any]) -> None:
    """Print the counts."""
    print("{out}: {questions} {variant} questions".format(**record))
    if record["dropped"]:
        total = record["questions"] + record["dropped"]
        print(f"{record['dropped']} of {total} had fewer than three negatives", file=sys.stderr)


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval negatives", __doc__, run, show)
