"""Nearest neighbours, near-duplicates and DiffMCQ hard negatives over a feature store."""

import _stepdiff

_stepdiff.enter("retrieval")

from importlib import import_module
from typing import TYPE_CHECKING

from common.errors import StepDiffError

if TYPE_CHECKING:
    from retrieval.exact.search import search_exactly
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
_MODULES = {
    "Index": "index.index",
    "build_index": "index.builder",
    "duplicates": "mining.duplicates",
    "nearest": "mining.neighbours",
    "neighbours": "mining.neighbours",
    "open_index": "index.index",
    "search_exactly": "exact.search",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is used: `import retrieval` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
