"""Files of collected answers: JSON lines, CSV, a Label Studio export, and `user_inputs.json` of
ConViS-Bench.

JSON lines have one answer a line, as `stepdiff.annotate.forms.form` describes it. The CSV is for
spreadsheets: one row for each pair, annotator and category; an answer without scores has one row
without a category, and an empty `rejected`, `left`, `seconds` or `submitted` is null. A text that a
spreadsheet would take for a formula has a quote before it.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from stepdiff.annotate.forms.form import Answer, Judgement, Kind, answer_of, read_text
from stepdiff.annotate.forms.label_studio import placed_answers
from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular, write_pieces, write_text
from stepdiff_core.io.jsonl import object_line, read_objects

FORMS = (
    "JSON lines or CSV of collected answers, a Label Studio export, or user_inputs.json of "
    "ConViS-Bench"
)
HEAD = (
    "pair",
    "reference",
    "candidate",
    "annotator",
    "kind",
    "submitted",
    "left",
    "seconds",
    "keystep",
    "rejected",
)
COLUMNS = (*HEAD, "category", "score", "text")
_CONVIS = {"user_id", "video_pair_id", "user_inputs"}
_VIDEO = ".mp4"
_DIFFERENCE = TypeAdapter(Judgement).validate_python


def latest(answers: Iterable[Answer]) -> list[Answer]:
    """Return the last answer of each person about each pair, by time and then by order in the
    file."""
    last: dict[tuple[str, str, Kind], Answer] = {}
    for answer in answers:
        key = (answer.pair, answer.annotator, answer.kind)
        if key not in last or answer.time >= last[key].time:
            last[key] = answer
    return list(last.values())


def read_collected(path: str | Path, refused: Callable[[str], None] | None = None) -> list[Answer]:
    """Return all answers of a file. StepDiffError: a file of no known form, a fault in it, or no
    answers.

    refused: receives one line for each annotation of a Label Studio export that breaks a rule of
    the form, which Label Studio does not check; the others are returned. None: the first one
    raises.
    """
    lines: list[str] = []
    answers = _read(path, None if refused is None else lines.append)
    if not answers and lines:
        raise StepDiffError(
            f"{path}: all its answers are refused ({len(lines):,}); the first: {lines[0]}"
        )
    if not answers:
        raise StepDiffError(f"{path}: has no answers; give {FORMS}")
    if refused is not None:
        for line in lines:
            refused(line)
    clips: dict[str, tuple[str, str]] = {}
    for answer in answers:
        both = (answer.reference, answer.candidate)
        if clips.setdefault(answer.pair, both) != both:
            raise StepDiffError(
                f"{path}: the pair {answer.pair!r:.80} has other clips in another answer; rename "
                "one"
            )
    return answers


def show_refused(record: dict[str, Any]) -> None:
    """Print the lines in a command's record about refused answers to standard error."""
    for line in record["failed"]:
        print(f"refused: {line}", file=sys.stderr)


def first_byte(path: str | Path) -> bytes:
    """Return the first byte that is not white space, empty if the file has none in its first
    MiB."""
    with open_regular(path) as file:
        return file.read(2**20).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _read(path: str | Path, refused: Callable[[str], None] | None) -> list[Answer]:
    first = first_byte(path)
    if first == b"{":
        return list(read_answers(path))
    if first != b"[":
        return read_table(path)
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: not JSON ({error}); give {FORMS}") from None
    if all(isinstance(row, dict) and _CONVIS <= row.keys() for row in rows):
        return _convis(path, rows)
    if not all(isinstance(row, dict) for row in rows):
        raise StepDiffError(f"{path}: a list of another form; give {FORMS}")
    return [answer for _, answer in placed_answers(rows, str(path), refused)]


def read_answers(path: str | Path) -> Iterator[Answer]:
    """Yield the answers of a file of JSON lines."""
    for place, keys in read_objects(path):
        yield answer_of(keys, f"{place}: ")


def write_answers(path: str | Path, answers: Iterable[Answer]) -> None:
    """Write one line an answer. The file appears whole or not at all."""
    write_pieces(Path(path), (object_line(asdict(answer)).encode() for answer in answers))


def write_table(path: str | Path, answers: Iterable[Answer]) -> None:
    from stepdiff_core.io.tables import escaped

    text = io.StringIO()
    # With another end of lines the module would not quote a text with a lone carriage return.
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for answer in answers:
        head = {
            name: escaped(value) if isinstance(value := getattr(answer, name), str) else value
            for name in HEAD
        }
        for category, one in answer.differences.items():
            writer.writerow(
                {
                    **head,
                    "category": escaped(category),
                    "score": one.score,
                    "text": escaped(one.text),
                }
            )
        if not answer.differences:
            writer.writerow(head)
    write_text(Path(path), text.getvalue())


def read_table(path: str | Path) -> list[Answer]:
    """Return the answers of a CSV, in the order of their first rows; rows may be in any order."""
    from stepdiff_core.io.tables import unescaped

    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise StepDiffError(
            f"{path}: row {reader.line_num}: not CSV ({error}); write the file again"
        ) from None
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise StepDiffError(
            f"{path}: no column {missing[0]!r}; a table of answers has {', '.join(COLUMNS)}"
        )
    answers: dict[tuple[str, ...], tuple[int, dict[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        place = f"{path}: row {number}"
        if None in row or None in row.values():
            raise StepDiffError(
                f"{place}: has other fields than the {len(reader.fieldnames or ())} columns"
            )
        row = {name: unescaped(text) for name, text in row.items()}
        _, differences = answers.setdefault(tuple(row[name] for name in HEAD), (number, {}))
        if row["category"] in differences:
            raise StepDiffError(
                f"{place}: {row['category']!r:.80} of this answer is in an earlier row; keep one"
            )
        if row["category"]:
            keys = {"text": row["text"], "score": _number(row["score"])}
            differences[row["category"]] = checked(_DIFFERENCE, keys, f"{place}: ")
    read = []
    for key, (number, differences) in answers.items():
        head: dict[str, Any] = dict(zip(HEAD, key, strict=True))
        head |= {name: head[name] or None for name in ("submitted", "left", "rejected")}
        head["seconds"] = _number(head["seconds"]) if head["seconds"] else None
        read.append(answer_of({**head, "differences": differences}, f"{path}: row {number}: "))
    return read


def _number(text: str) -> int | float | str:
    """Return the number in a field, or the field, which is refused later. A spreadsheet may write 5
    as 5.0."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


def _convis(path: str | Path, rows: Sequence[dict[str, Any]]) -> list[Answer]:
    """Return the answers of ConViS-Bench, whose scores have our direction. It has no texts, sides
    and times of day."""
    answers = []
    for number, row in enumerate(rows, 1):
        pair, scores, seconds = row["video_pair_id"], row["user_inputs"], row.get("execution_time")
        reference, middle, candidate = str(pair).partition(f"{_VIDEO}-")
        place = f"{path}: answer {number}: "
        if not middle or not isinstance(scores, dict):
            raise StepDiffError(
                f"{place}expects video_pair_id <clip>.mp4-<clip>.mp4, and user_inputs by concept"
            )
        numbers = {
            name: int(score) if str(score).isdecimal() else score for name, score in scores.items()
        }
        keys = {
            "pair": pair,
            "reference": reference,
            "candidate": candidate.removesuffix(_VIDEO),
            "annotator": row["user_id"],
            "keystep": "",
            "differences": {name: {"text": "", "score": score} for name, score in numbers.items()},
            # some of the published ones are negative
            "seconds": seconds if isinstance(seconds, int | float) and seconds >= 0 else None,
        }
        answers.append(answer_of(keys, place))
    return answers
