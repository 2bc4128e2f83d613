"""Texts about clips: captions, grounded objects, step descriptions, paired questions, and answers
of people.

Names are imported when they are first used.
"""

import stepdiff_core

stepdiff_core.enter("stepdiff.annotate")

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepdiff.annotate.agreement import Agreement
    from stepdiff.annotate.export import decide, diffcap_rows, diffrank_rows
    from stepdiff.annotate.forms.answers import read_collected, write_answers
    from stepdiff.annotate.forms.form import Answer, answer_of, read_task
    from stepdiff.annotate.qa.prompts import DESCRIBE, PAIRQA
    from stepdiff.annotate.qa.questions import Question, read_questions
    from stepdiff_core.errors import StepDiffError

__all__ = [
    "Agreement",
    "Answer",
    "DESCRIBE",
    "PAIRQA",
    "Question",
    "StepDiffError",
    "answer_of",
    "decide",
    "diffcap_rows",
    "diffrank_rows",
    "read_collected",
    "read_questions",
    "read_task",
    "write_answers",
]

__getattr__ = stepdiff_core.lazy(__name__)
