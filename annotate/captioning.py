"""What captioners of every kind share: the kinds of caption, and what becomes of what a model says."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

from annotate.qa.prompts import ACTION_QUESTION, OBJECT_QUESTION
from annotate.stages.job import Answer, plain

Kind = Literal["action", "objects"]
QUESTIONS: dict[Kind, str] = {"action": ACTION_QUESTION, "objects": OBJECT_QUESTION}
FRAMES: dict[Kind, int] = {"action": 8, "objects": 1}
"""of a clip that a model is shown (S1)"""
T = TypeVar("T")


def caption(kind: Kind, text: str) -> Answer:
    """What is kept of a caption, which may be empty: an action in one line, objects one a line."""
    lines = [" ".join(line.split()) for line in plain(text).splitlines()]
    return {kind: (" " if kind == "action" else "\n").join(filter(None, lines))}


def batches(things: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Lists of at most `size`; itertools.batched, which Python 3.11 lacks."""
    left = iter(things)
    while batch := list(islice(left, size)):
        yield batch
