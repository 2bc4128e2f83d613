"""Nearest neighbours, near-duplicates and DiffMCQ hard negatives over a feature store."""

import stepdiff

stepdiff.enter("retrieval")

from typing import TYPE_CHECKING

from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from retrieval.exact import search_exactly
    from retrieval.index.builder import build_index
    from retrieval.index.index import Index, open_index
    from retrieval.mining.duplicates import duplicates
    from retrieval.mining.neighbours import nearest, neighbours

__all__ = [
    "Index",
    "StepDiffError",
    "build_index",
    "duplicates",
    "nearest",
    "neighbours",
    "open_index",
    "search_exactly",
]

__getattr__ = stepdiff.lazy(
    __name__,
    {
        "retrieval.exact": ("search_exactly",),
        "retrieval.index.builder": ("build_index",),
        "retrieval.index.index": ("Index", "open_index"),
        "retrieval.mining.duplicates": ("duplicates",),
        "retrieval.mining.neighbours": ("nearest", "neighbours"),
    },
)
