"""Nearest neighbours and DiffMCQ hard negatives over a feature store."""

from retrieval.copies import duplicates
from retrieval.errors import RetrievalError
from retrieval.index import Index, build_index, open_index
from retrieval.neighbourhood import nearest, neighbours

__all__ = ["Index", "RetrievalError", "build_index", "duplicates", "nearest", "neighbours", "open_index"]
