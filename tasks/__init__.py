"""The published tasks as data: test-set formats, prompts, post-processing, metrics and scorers.

This room knows no model, no video and no store.
"""

import _stepdiff

_stepdiff.enter("tasks")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.declining import agreeing, declines
    from tasks.postprocess import names_video, parse
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
    "names_video",
    "parse",
    "read_predictions",
    "read_test_set",
    "score",
    "split_clip",
    "write_predictions",
    "write_test_set",
]

__getattr__ = _stepdiff.lazy(
    __name__,
    {
        "tasks.declining": ("agreeing", "declines"),
        "tasks.postprocess": ("names_video", "parse"),
        "tasks.scoring": ("score",),
        "tasks.testsets": (
            "DiffCap",
            "DiffMCQ",
            "DiffRank",
            "Prediction",
            "Row",
            "Task",
            "read_predictions",
            "read_test_set",
            "split_clip",
            "write_predictions",
            "write_test_set",
        ),
    },
)
