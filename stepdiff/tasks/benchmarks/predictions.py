"""Files of predictions for a benchmark: a line names its row by key, so lines may be in any order.

    {"key": str, "scores": [float, ...]}, or for texts {"key": str, "generated_text": str}

Guarantees
- a_line_of_an_unknown_row_or_a_second_one_of_a_row_is_refused
- rows_without_a_line_are_left_out_and_counted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import write_text
from stepdiff.common.io.jsonl import read_objects
from stepdiff.tasks.benchmarks.rows import BenchmarkRow, Writing
from stepdiff.tasks.testsets import DiffCap, Form, Prediction, prediction_line, prediction_of


@dataclass(frozen=True)
class Answered:
    """The rows that a file answers, in the order of the benchmark."""

    rows: list[Any]
    predictions: list[Prediction]


def form_of(row: Any) -> Form:
    """Return the form of the prediction of a row, of a benchmark or of a published task."""
    return "text" if isinstance(row, Writing | DiffCap) else "scores"


def read_answers(path: str | Path, rows: Sequence[BenchmarkRow]) -> Answered:
    """Read predictions for rows of a benchmark.

    Raises:
        StepDiffError: A fault in the file, or no lines.
    """
    known = {row.key: row for row in rows}
    by_key: dict[str, Prediction] = {}
    for place, line in read_objects(path):
        key = line.get("key")
        if not isinstance(key, str) or key not in known:
            raise StepDiffError(f"{place}: no row of the benchmark has the key {key!r}; is it of another benchmark?")
        if key in by_key:
            raise StepDiffError(f"{place}: a second line of the row {key!r}; remove one of them")
        try:
            by_key[key] = prediction_of(form_of(known[key]), known[key], line)
        except StepDiffError as error:
            raise StepDiffError(f"{place}: {error}") from error
    if not by_key:
        raise StepDiffError(f"{path}: has no predictions")
    answered = [row for row in rows if row.key in by_key]
    return Answered(answered, [by_key[row.key] for row in answered])


def write_answers(path: Path, rows: Sequence[BenchmarkRow], predictions: Sequence[Prediction]) -> None:
    """Write one line for each row. StepDiffError: a prediction of another form, NaN or infinity."""
    lines = [
        prediction_line(form_of(row), prediction, {"key": row.key})
        for row, prediction in zip(rows, predictions, strict=True)
    ]
    write_text(path, "".join(lines))
