"""The options of heads.words."""

from dataclasses import dataclass
from typing import Literal

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import place
from stepdiff.common.workers.cluster import refuse_relative


@dataclass(frozen=True)
class WordOptions:
    store: str
    """feature store"""
    view: str
    """view of clips with tokens"""
    pairqa: str
    """paired QA of training clips"""
    out: str
    """folder of the head; what it holds is continued"""
    narration: str = "narration"
    """column of the catalog with the text about a clip"""
    validation: str | None = None
    """DiffRank test set of clips of split val, from whose scores the distance is chosen below which nothing differs"""
    hold_out: tuple[str, ...] = ()
    """test sets whose clips and videos do not train"""
    hold_out_by: Literal["video", "clip"] = "video"
    """whether every clip of a test clip's video is held out, or only test clips and clips that overlap them"""
    least: int = 8
    """narrations, or questions and answers, that a word or phrase needs"""
    most: int = 3072
    """words and phrases, the most frequent ones; memory grows with them"""
    folds: int = 5
    """parts of the training videos, each of which is left out once"""
    least_distance: float = 0.7
    """d' of the evidence with and without a word, from which the word counts"""
    save_every: float = 60.0
    """seconds between two saves of the sums"""
    workers: int = 1
    """processes that read tokens; 1 without an address: this process, without Ray"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; null: RAY_ADDRESS, else Ray is started on this machine"""

    def check(self) -> None:
        """Raise StepDiffError for a number out of range, or a relative path in a Ray job."""
        files = {"out": self.out, "pairqa": self.pairqa, "validation": self.validation}
        files |= {} if place(self.store).remote else {"store": self.store}
        refuse_relative([(f"--{name}", path) for name, path in files.items() if path is not None])
        if self.least < 1 or self.folds < 2 or self.workers < 1:
            raise StepDiffError(
                f"--least {self.least}, --folds {self.folds}, --workers {self.workers}: give at least 1, 2 and 1"
            )
