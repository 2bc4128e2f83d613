"""Collected answers as CSV in long form, for spreadsheets: one row for each pair, annotator and category.

An answer without scores has one row without a category. An empty `rejected`, `left`, `seconds` or `submitted` is null.
Scores: 5 = not different, 1 = very different. A text that a spreadsheet would take for a formula has a quote before it.

Guarantees
- a written table reads back equal, also if its rows are sorted in another way
- no text is a formula of a spreadsheet
- an error names the row
"""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from annotate.people.answers import Answer, answer_of
from annotate.people.files import read_text
from annotate.people.task import HIGHEST, LOWEST
from common.errors import StepDiffError
from common.io.files import write_text
from common.io.tables import escaped, unescaped

HEAD = ("pair", "reference", "candidate", "annotator", "kind", "submitted", "left", "seconds", "keystep", "rejected")
COLUMNS = (*HEAD, "category", "score", "text")


def rows_of(answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table."""
    for answer in answers:
        head = {name: escaped(own) if isinstance(own := getattr(answer, name), str) else own for name in HEAD}
        for category, difference in answer.differences.items():
            yield {**head, "category": escaped(category), "score": difference.score, "text": escaped(difference.text)}
        if not answer.differences:
            yield head


def write_table(path: str | Path, answers: Iterable[Answer]) -> None:
    """Write the table; null is an empty field."""
    text = io.StringIO()
    # With another end of lines the module would not quote a text with a lone carriage return.
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows_of(answers))
    write_text(Path(path), text.getvalue())


def read_table(path: str | Path) -> list[Answer]:
    """Return the answers of a table, in the order of their first rows.

    Raises:
        StepDiffError: A missing column, or a row that is no part of an answer; the line names the row.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise StepDiffError(f"{path}: row {reader.line_num}: not CSV ({error}); write the file again") from None
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise StepDiffError(f"{path}: no column {missing[0]!r}; a table of answers has {', '.join(COLUMNS)}")
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    places: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        place = f"{path}: row {number}"
        if None in row or None in row.values():
            raise StepDiffError(f"{place}: has other fields than the {len(reader.fieldnames or ())} columns")
        row = {name: unescaped(text) for name, text in row.items()}
        key = tuple(row[name] for name in HEAD)
        places.setdefault(key, number)
        own = found.setdefault(key, {})
        if row["category"] in own:
            raise StepDiffError(f"{place}: {row['category']!r:.80} of this answer is in an earlier row; keep one")
        if row["category"]:
            score = _number(row["score"], int)
            if type(score) is not int or not LOWEST <= score <= HIGHEST:
                raise StepDiffError(
                    f"{place}: score: expects a whole number from {LOWEST} to {HIGHEST}, not {score!r:.80}"
                )
            own[row["category"]] = {"text": row["text"], "score": score}
    return [_answer(f"{path}: row {places[key]}", key, differences) for key, differences in found.items()]


def _answer(place: str, key: tuple[str, ...], differences: dict[str, Any]) -> Answer:
    head: dict[str, Any] = dict(zip(HEAD, key, strict=True))
    head |= {name: head[name] or None for name in ("submitted", "left", "rejected")}
    head["seconds"] = _number(head["seconds"], float) if head["seconds"] else None
    try:
        return answer_of({**head, "differences": differences})
    except StepDiffError as error:
        raise StepDiffError(f"{place}: {error}") from None


def _number(text: str, kind: type[int] | type[float]) -> Any:
    """Return the number in a field, or the field, which is refused later. A spreadsheet may write 5 as 5.0."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if kind is int and value.is_integer() else value
