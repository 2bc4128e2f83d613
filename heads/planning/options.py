"""Options of `python -m heads.train --dry-run`."""

from dataclasses import dataclass

from stepdiff.common.errors import StepDiffError


@dataclass(frozen=True)
class PlanOptions:
    card: str = "h100"
    """GPU of each worker: a100, a100-40gb, b200, h100, h200, l40s, rtx4090"""
    flops_share: float = 0.4
    """share of the card's peak that the training reaches"""
    mean_words: float | None = None
    """words of an average text, for operations and hours; null: video_lm.words, the most"""

    def check(self) -> None:
        """Raise StepDiffError for a number that is out of range."""
        if not 0 < self.flops_share <= 1:
            raise StepDiffError(f"--flops-share is {self.flops_share:g}; it must be above 0 and at most 1")
        if self.mean_words is not None and not self.mean_words > 0:
            raise StepDiffError(f"--mean-words is {self.mean_words:g}; it must be above 0")
