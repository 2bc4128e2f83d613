"""The published tasks as data: test-set formats, prompts, post-processing, metrics and scorers.

This room knows no model, no video and no store.
"""

import stepdiff_core

stepdiff_core.enter("stepdiff_core.tasks")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepdiff_core.tasks.declining import agreeing, declines
    from stepdiff_core.tasks.postprocess import names_video, parse
    from stepdiff_core.tasks.scoring import score
    from stepdiff_core.tasks.testsets import (
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

__getattr__ = stepdiff_core.lazy(__name__)
