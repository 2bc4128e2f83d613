"""A DiffCap test set as pairs of clips, and DiffMCQ questions as lines of a file.

    DiffCap  {"reference": clip, "candidate": clip, "category": str, "text": [str, ...]}
    DiffMCQ  {"difference": str, "category": str, "options": [[clip, clip], ...4], "answer": [clip, clip]}

Guarantees:
- order_of_first_appearance: pairs and clips keep the order in which the file names them first.
- whole_or_not_at_all: a questions file appears complete, under its name, or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from retrieval.files import whole

Pair = tuple[str, str]  # reference, candidate


@dataclass(frozen=True)
class Difference:
    """One annotated difference: what `text` says of the pair, in one category."""

    pair: Pair
    category: str
    text: str


@dataclass(frozen=True)
class Question:
    """One DiffMCQ row: which of four pairs shows the difference?"""

    difference: str
    category: str
    options: tuple[Pair, ...]
    answer: Pair


@dataclass(frozen=True)
class TestSet:
    """What a DiffCap file holds, its differences one by one in the file's order."""

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    pairs: list[Pair]
    clips: list[str]
    texts: list[str]
    differences: list[Difference]

    @classmethod
    def of(cls, differences: Sequence[Difference]) -> TestSet:
        return cls(
            pairs=list(dict.fromkeys(one.pair for one in differences)),
            clips=list(dict.fromkeys(clip for one in differences for clip in one.pair)),
            texts=list(dict.fromkeys(one.text for one in differences)),
            differences=list(differences),
        )


def read_test_set(path: Path) -> TestSet:
    """Reads a DiffCap file. StepDiffError names the line that is not a DiffCap row."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StepDiffError(f"cannot read the test set {path}: {error}") from error
    differences: list[Difference] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            differences.extend(_differences(line, f"{path} line {number}"))
    if not differences:
        raise StepDiffError(f"the test set {path} holds no difference text: name a DiffCap file")
    return TestSet.of(differences)


def _differences(line: str, where: str) -> list[Difference]:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise StepDiffError(f"{where} is not JSON: {error}") from error
    names = ("reference", "candidate", "category")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise StepDiffError(f"{where} is no DiffCap row: it needs the texts {', '.join(names)}")
    texts = row.get("text")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise StepDiffError(f"{where} is no DiffCap row: `text` has to be a list of texts")
    reference, candidate, category = (row[name] for name in names)
    if reference == candidate:
        raise StepDiffError(f"{where} pairs {reference} with itself: take the row out")
    return [Difference((reference, candidate), category, text) for text in texts]


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Writes a DiffMCQ file, one question a line, UTF-8."""
    with whole(path) as temporary, open(temporary, "x", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(asdict(question), ensure_ascii=False) + "\n")
