"""The published tasks as data: test-set formats, prompts, post-processing, metrics and scorers.

This room knows no model, no video and no store.
"""

import _stepdiff

_stepdiff.enter("tasks")

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.declining import agreeing, declines
    from tasks.postprocess import parse
    from tasks.scoring import score
    from tasks.testsets import (
        DiffCap,
        DiffMCQ,
        DiffRank,
        Prediction,
        Row,
        Task,
        read_predictions,
        read_test_set,
        split_clip,
        write_predictions,
        write_test_set,
    )

__all__ = [
    "DiffCap",
    "DiffMCQ",
    "DiffRank",
    "Prediction",
    "Row",
    "Task",
    "agreeing",
    "declines",
    "parse",
    "read_predictions",
    "read_test_set",
    "score",
    "split_clip",
    "write_predictions",
    "write_test_set",
]
_MODULES = {"agreeing": "declining", "declines": "declining", "parse": "postprocess", "score": "scoring"}


def __getattr__(name: str) -> object:
    """Import a public name when it is used: `import tasks` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'testsets')}"), name)
