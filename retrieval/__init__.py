"""Nearest neighbours and DiffMCQ hard negatives over a feature store."""

from retrieval.errors import RetrievalError
from retrieval.index import Index, build_index, open_index
from retrieval.neighbourhood import nearest, neighbours

__all__ = ["Index", "RetrievalError", "build_index", "nearest", "neighbours", "open_index"]
