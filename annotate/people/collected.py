"""Collections of answers in any known form: our JSON lines, our CSV, a Label Studio export, and `user_inputs.json` of
ConViS-Bench.

Guarantees
- a file is recognised by its content, not by its name
- two answers that give one pair different clips are refused
- a file of no known form gives one line that lists the forms
- an annotation that breaks a rule of the form is refused in one line, and the others are read: Label Studio has no such
  rules
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from annotate.people.answers import Answer, answer_of, read_answers
from annotate.people.files import first_byte, read_text
from common.errors import StepDiffError

FORMS = "JSON lines or CSV of collected answers, a Label Studio export, or user_inputs.json of ConViS-Bench"
_CONVIS = {"user_id", "video_pair_id", "user_inputs"}
_VIDEO = ".mp4"


def read_collected(path: str | Path, refused: Callable[[str], None] | None = None) -> list[Answer]:
    """Return all answers of a file.

    Args:
        path: A file in one of the known forms.
        refused: Receives one line for each answer of a Label Studio export that is refused. None: the first one raises.

    Raises:
        StepDiffError: A file of no known form, a fault in it, or no answers.
    """
    lines: list[str] = []
    answers = _read(path, None if refused is None else lines.append)
    if not answers:
        if lines:
            raise StepDiffError(f"{path}: all its answers are refused ({len(lines):,}); the first: {lines[0]}")
        raise StepDiffError(f"{path}: has no answers; give {FORMS}")
    if refused is not None:
        for line in lines:
            refused(line)
    clips: dict[str, tuple[str, str]] = {}
    for answer in answers:
        own = (answer.reference, answer.candidate)
        if clips.setdefault(answer.pair, own) != own:
            raise StepDiffError(f"{path}: the pair {answer.pair!r:.80} has other clips in another answer; rename one")
    return answers


def show_refused(record: dict[str, Any]) -> None:
    """Print the lines in a command's record about refused answers to standard error."""
    for line in record["failed"]:
        print(f"refused: {line}", file=sys.stderr)


def _read(path: str | Path, refused: Callable[[str], None] | None) -> list[Answer]:
    first = first_byte(path)
    if first == b"{":
        return list(read_answers(path))
    if first != b"[":
        from annotate.people.long_form import read_table

        return read_table(path)
    rows = parse_list(path)
    if all(isinstance(row, dict) and _CONVIS <= row.keys() for row in rows):
        return list(_convis(path, rows))
    from annotate.people.label_studio import answers_of

    return answers_of(rows, str(path), refused)


def parse_list(path: str | Path) -> list[Any]:
    """Return the list that a JSON file is. StepDiffError: not JSON, or not a list."""
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: not JSON ({error}); give {FORMS}") from None
    if not isinstance(found, list):
        raise StepDiffError(f"{path}: not a list; give {FORMS}")
    return found


def _convis(path: str | Path, rows: Sequence[dict[str, Any]]) -> Iterator[Answer]:
    """Yield the answers of ConViS-Bench, whose scores have our direction. It has no texts, sides and times of day."""
    for number, row in enumerate(rows, 1):
        try:
            yield _convis_answer(row)
        except StepDiffError as error:
            raise StepDiffError(f"{path}: answer {number}: {error}") from None


def _convis_answer(row: dict[str, Any]) -> Answer:
    pair, scores, seconds = row["video_pair_id"], row["user_inputs"], row.get("execution_time")
    one, found, two = str(pair).partition(f"{_VIDEO}-")
    if not found or not isinstance(scores, dict):
        raise StepDiffError("expects video_pair_id <clip>.mp4-<clip>.mp4, and user_inputs by concept")
    numbers = {name: int(score) if str(score).isdecimal() else score for name, score in scores.items()}
    known = isinstance(seconds, int | float) and seconds >= 0  # some of the published ones are negative
    given = {
        "pair": pair,
        "reference": one,
        "candidate": two.removesuffix(_VIDEO),
        "annotator": row["user_id"],
        "keystep": "",
        "differences": {name: {"text": "", "score": score} for name, score in numbers.items()},
        "seconds": seconds if known else None,
    }
    return answer_of({"rejected": None, "left": None, "submitted": None, "kind": "work", **given})
