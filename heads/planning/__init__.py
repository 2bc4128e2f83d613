"""The plan of a training before it runs: what a recipe needs of memory, network, store and time on given cards."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanOptions:
    """Options of `python -m heads.train --dry-run`."""

    card: str = "h100"
    """GPU of each worker: a100, a100-40gb, b200, h100, h200, l40s, rtx4090"""
    flops_share: float = 0.4
    """share of the card's peak that the training reaches"""
    mean_words: float | None = None
    """words of an average text, for operations and hours; null: video_lm.words, the most"""
