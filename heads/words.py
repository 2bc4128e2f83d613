"""Fit a head of words: the evidence that a clip shows what a word names, by ridge regression from
cached features.

python -m heads.words --store data/features --view efficientnet-lite0 \\
    --pairqa data/kitchen/pairqa_train.jsonl --validation data/kitchen/diffrank_val.jsonl \\
    --out runs/words
python -m heads.evaluate --method word-evidence --head runs/words ...    # all tasks with it

One pass over the store adds up sums of D x D and D x terms, and everything else follows from them
in closed form: no learning rate, no steps. A run that is killed after a minute resumes.
"""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place
from stepdiff_core.workers.cluster import refuse_relative

MOST_FOLDS = 127
"""the fold of a clip is an int8"""


@dataclass(frozen=True)
class WordOptions:
    store: str
    """feature store"""
    view: str
    """view of clips with tokens, or with statistics of early maps (featurize --statistics)"""
    out: str = field(metadata=WRITTEN)
    """folder of the head"""
    pairqa: str | None = None
    """paired QA of training clips, whose answers name words by category; null: narrations alone
    teach, and all words are of one category"""
    reads: tuple[Literal["tokens", "statistics"], ...] = ()
    """features that it reads; all of these that the view has, by default"""
    narration: str = "narration"
    """column of the catalog with the text about a clip"""
    validation: str | None = None
    """DiffRank test set of clips of split val, from whose scores the distance is chosen below which
    nothing differs"""
    hold_out: tuple[str, ...] = ()
    """test sets whose clips and videos do not train: files, or TASK=FOLDER of a benchmark"""
    hold_out_by: Literal["video", "clip"] = "video"
    """whether every clip of a test clip's video is held out, or only test clips and clips that
    overlap them"""
    least: int = 8
    """narrations, or questions and answers, that a word or phrase needs"""
    most: int = 3072
    """words and phrases, the most frequent ones; memory grows with them"""
    folds: int = 5
    """parts of the training videos, each of which is left out once"""
    least_distance: float = 0.7
    """d' of the evidence with and without a word, from which the word counts"""
    workers: int = 1
    """processes that read tokens; 1 without an address: this process, without Ray"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; null: RAY_ADDRESS, else Ray is started on this
    machine"""
    device: ClassVar[str] = "cpu"

    def check(self) -> None:
        """Raise StepDiffError for a number out of range, or a relative path in a Ray job."""
        files = {"out": self.out, "pairqa": self.pairqa, "validation": self.validation}
        files |= {} if place(self.store).remote else {"store": self.store}
        refuse_relative([(f"--{name}", path) for name, path in files.items() if path is not None])
        at_least(self, least=1, most=1, folds=2, workers=1)
        if self.folds > MOST_FOLDS:
            raise StepDiffError(f"--folds {self.folds} is too large: give {MOST_FOLDS} or fewer")


def run(options: WordOptions) -> dict[str, Any]:
    from heads.evidence.fitting import Counting, fitted, keep_lineage
    from store import Store

    began = time.monotonic()
    options.check()
    counting = Counting(options, Store.open(options.store))
    keep_lineage(counting)
    counting.run()
    head = fitted(counting, began)
    changed = head.save()
    counting.forget()
    return {
        "out": options.out,
        **{name: head.about[name] for name in ("clips", "ridge", "declines", "seconds")},
        "terms": len(head.terms),
        "changed": changed,
    }


def show(record: dict[str, Any]) -> None:
    """Print the record of the fit."""
    clips, ridge = record["clips"], record["ridge"]
    fitted = (
        f"{record['terms']:,} words and phrases from {clips['train']:,} clips in "
        f"{record['seconds']:.0f} s"
    )
    print(f"{record['out']}: {fitted}, ridge {ridge['value']:g} chosen on {ridge['chosen_on']}")
    if (declines := record["declines"]) is not None:
        below = ", ".join(
            f"{category} {distance:.2f}" for category, distance in declines["below"].items()
        )
        right = (
            f"balanced accuracy {declines['balanced_accuracy']:.2f} on {declines['rows']:,} pairs"
        )
        print(f"declines below distance {below}: {right}")
    if not record["changed"]:
        print("nothing has changed: the head stays as it was written")


def main(argv: list[str] | None = None) -> int:
    return parse(WordOptions, argv, "heads.words", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "sums of a minute or more are kept; run the same command for the rest")
