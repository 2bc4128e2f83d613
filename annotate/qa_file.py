"""Rows of a PairQA file, as annotate.pairqa writes them and as the sample world has them."""

from pathlib import Path
from typing import Any, NamedTuple

from common.errors import StepDiffError
from common.io.jsonl import read_objects


class Question(NamedTuple):
    """One line: a pair of clips, what is asked of it, and the answer."""

    reference: str
    candidate: str
    question: str
    answer: str
    type: int | None
    """of the supplement's prompts; None where the file does not say"""


def read_questions(path: str | Path) -> list[Question]:
    """All lines. StepDiffError: a fault in the file, named by line, or nothing in it."""
    found = [_question(row, place) for place, row in read_objects(path)]
    if not found:
        raise StepDiffError(f"{path}: no questions in it; run python -m annotate.pairqa")
    return found


def _question(row: dict[str, Any], place: str) -> Question:
    try:
        found = Question(row["reference"], row["candidate"], row["question"], row["answer"], row.get("type"))
    except KeyError as error:
        raise StepDiffError(f"{place}: not a PairQA row, it has no {error.args[0]}") from error
    texts = (found.reference, found.candidate, found.question, found.answer)
    if not all(isinstance(text, str) for text in texts) or not (found.type is None or isinstance(found.type, int)):
        raise StepDiffError(f"{place}: not a PairQA row; its clips, question and answer are texts, its type a number")
    return found
