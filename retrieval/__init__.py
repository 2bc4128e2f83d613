"""Nearest neighbours, near-duplicates, alignment and DiffMCQ hard negatives over a feature
store."""

import stepdiff_core

stepdiff_core.enter("retrieval")

from typing import TYPE_CHECKING

from stepdiff_core.errors import StepDiffError

if TYPE_CHECKING:
    from retrieval.alignment import Alignment, align
    from retrieval.exact import search_exactly
    from retrieval.index.builder import IndexOptions, build_index
    from retrieval.index.index import Index, open_index
    from retrieval.mining.duplicates import duplicates
    from retrieval.mining.negatives import (
        Drawn,
        StatedDifference,
        StatedDifferences,
        hard_negatives,
    )
    from retrieval.mining.neighbours import nearest, neighbours
    from retrieval.moments import Moments, read_moments

__all__ = [
    "Alignment",
    "Drawn",
    "Index",
    "IndexOptions",
    "Moments",
    "StatedDifference",
    "StatedDifferences",
    "StepDiffError",
    "align",
    "build_index",
    "duplicates",
    "hard_negatives",
    "nearest",
    "neighbours",
    "open_index",
    "read_moments",
    "search_exactly",
]

__getattr__ = stepdiff_core.lazy(__name__)
