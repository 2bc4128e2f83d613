"""Texts about clips: captions, grounded objects, step descriptions, paired questions.

Names are imported when they are first used.
"""

import _stepdiff

_stepdiff.enter("annotate")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotate.llm.model import LLMOptions, Sampling
    from annotate.page.figures import figures
    from annotate.qa.job import Question, read_questions
    from annotate.qa.prompts import DESCRIBE, PAIRQA
    from annotate.stages.versions import Version, versions
    from common.errors import StepDiffError

__all__ = [
    "DESCRIBE",
    "LLMOptions",
    "PAIRQA",
    "Question",
    "Sampling",
    "StepDiffError",
    "Version",
    "figures",
    "read_questions",
    "versions",
]

__getattr__ = _stepdiff.lazy(
    __name__,
    {
        "annotate.llm.model": ("LLMOptions", "Sampling"),
        "annotate.page.figures": ("figures",),
        "annotate.qa.job": ("Question", "read_questions"),
        "annotate.qa.prompts": ("DESCRIBE", "PAIRQA"),
        "annotate.stages.versions": ("Version", "versions"),
        "common.errors": ("StepDiffError",),
    },
)
