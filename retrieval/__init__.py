"""Nearest neighbours and DiffMCQ hard negatives over a feature store."""

import common.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from common.errors import StepDiffError
from retrieval.builder import build_index
from retrieval.copies import duplicates
from retrieval.exact import search_exactly
from retrieval.index import Index, open_index
from retrieval.neighbourhood import nearest, neighbours

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
