"""Nearest neighbours and DiffMCQ hard negatives over a feature store."""

import common.cli.startup  # noqa: F401  # before the slow imports: an interrupt is one line
from common.errors import StepDiffError
from retrieval.exact.search import search_exactly
from retrieval.index.builder import build_index
from retrieval.index.index import Index, open_index
from retrieval.mining.neighbours import nearest, neighbours
from retrieval.verbs.duplicates import duplicates

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
