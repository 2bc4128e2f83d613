"""Texts about clips: captions, grounded objects, step descriptions, paired questions, and what people answer.

Names are imported when they are first used.
"""

import _stepdiff

_stepdiff.enter("annotate")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotate.page.figures import figures
    from annotate.people.agreement import Agreement
    from annotate.people.answers import read_collected, write_answers
    from annotate.people.export import decide, diffcap_rows, diffrank_rows
    from annotate.people.form import Answer, answer_of
    from annotate.people.task import read_task
    from annotate.qa.job import Question, read_questions
    from annotate.qa.prompts import DESCRIBE, PAIRQA
    from annotate.stages.versions import Version, versions
    from common.errors import StepDiffError
    from heads.llm.model import LLMOptions, Sampling

__all__ = [
    "Agreement",
    "Answer",
    "DESCRIBE",
    "LLMOptions",
    "PAIRQA",
    "Question",
    "Sampling",
    "StepDiffError",
    "Version",
    "answer_of",
    "decide",
    "diffcap_rows",
    "diffrank_rows",
    "figures",
    "read_collected",
    "read_questions",
    "read_task",
    "versions",
    "write_answers",
]

__getattr__ = _stepdiff.lazy(
    __name__,
    {
        "heads.llm.model": ("LLMOptions", "Sampling"),
        "annotate.page.figures": ("figures",),
        "annotate.people.agreement": ("Agreement",),
        "annotate.people.answers": ("read_collected", "write_answers"),
        "annotate.people.export": ("decide", "diffcap_rows", "diffrank_rows"),
        "annotate.people.form": ("Answer", "answer_of"),
        "annotate.people.task": ("read_task",),
        "annotate.qa.job": ("Question", "read_questions"),
        "annotate.qa.prompts": ("DESCRIBE", "PAIRQA"),
        "annotate.stages.versions": ("Version", "versions"),
        "common.errors": ("StepDiffError",),
    },
)
