"""Nearest neighbours and DiffMCQ hard negatives over a feature store."""

import _stepdiff

_stepdiff.enter("retrieval")

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
