"""The speech of videos, in each form in which HowTo100M publishes it.

    a .json object by video   {"start": [s, ...], "end": [s, ...], "text": [str, ...]}: caption.json, raw_caption.json,
                              sentencified_htm_*.json
                              [[alignable, start, end, text], ...]: htm_align.json; only what is alignable counts
    a .csv file               vid, timestamp, text: htm_aa_v1.csv, a sentence at one second
    a folder                  VIDEO.csv of start, end, text for each video: raw_caption_csv

A JSON file may have any size. It is not read by ijson, which refuses HowTo100M's files: they contain NaN for missing
texts, control characters and bytes that are not UTF-8.

Guarantees
- all formats of one narration give the same speech, in order of time
- pieces without text or time are left out and counted; a video without speech is no error
- memory is bounded by the longest entry of a file; a damaged file is refused at the damage
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from stepdiff.common.errors import StepDiffError

PIECE = 2**22  # characters read at once
LONGEST = 2**28  # characters of an entry, at most: beyond them the file counts as damaged

_DECODER = json.JSONDecoder(strict=False)  # real captions contain control characters
_SPACES = re.compile(r"[ \t\r\n]*")


def entries(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each entry. StepDiffError: no such file, or not a JSON object."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from _entries(file, path)
    except OSError as error:
        raise StepDiffError(f"{path}: cannot be read ({error.strerror}); correct its path") from error


def _entries(file: TextIO, path: str | Path) -> Iterator[tuple[str, Any]]:
    text, at = _next("", 0, file)
    if text[at : at + 1] != "{":
        raise StepDiffError(f"{path}: not a JSON object; give a file that begins with {{")
    text, at = _next(text, at + 1, file)
    count = 0
    while count or text[at : at + 1] != "}":
        found = _entry(text, at)
        while found is None:
            text, at = text[at:], 0
            more = file.read(max(PIECE, len(text)))
            if not more or len(text) > LONGEST:
                raise StepDiffError(f"{path}: damaged after entry {count}: {text[:40]!r}; copy it again")
            text += more
            found = _entry(text, 0)
        name, value, at = found
        yield name, value
        count += 1
        if text[at] == "}":
            break
        text, at = _next(text, at + 1, file)
    text, at = _next(text, at + 1, file)
    if text:
        raise StepDiffError(f"{path}: damaged after entry {count}: {text[at : at + 40]!r}; copy it again")


def _next(text: str, at: int, file: TextIO) -> tuple[str, int]:
    """Return the buffer and the place of its next character that is not a space, after reading more if needed."""
    while True:
        at = _after_space(text, at)
        if at < len(text):
            return text, at
        text, at = file.read(PIECE), 0
        if not text:
            return "", 0


def _entry(text: str, at: int) -> tuple[str, Any, int] | None:
    """Return the entry at a place, and the place of the comma or brace after it; None if it is incomplete."""
    try:
        if text[at] != '"':
            return None
        name, at = scanstring(text, at + 1, False)
        at = _after_space(text, at)
        if text[at] != ":":
            return None
        value, at = _DECODER.raw_decode(text, _after_space(text, at + 1))
        at = _after_space(text, at)
        return (name, value, at) if text[at] in ",}" else None
    except (ValueError, IndexError, RecursionError):
        return None


def _after_space(text: str, at: int) -> int:
    return _SPACES.match(text, at).end()  # type: ignore[union-attr]


UNUSABLE, UNDECODED = "pieces without text or time", "pieces with bytes that are not UTF-8"
csv.field_size_limit(2**27)  # a field may hold hours of text


class Piece(NamedTuple):
    """One piece of speech; a piece of one moment has start = end."""

    start: float  # seconds
    end: float
    text: str


def read_narration(
    path: str | Path, videos: Collection[str], faults: Counter[str]
) -> Iterator[tuple[str, list[Piece]]]:
    """Yield video and speech, sorted by time, of those of `videos` that have any; `faults` counts what was left out."""
    path = Path(path)
    if path.is_dir():
        for video in videos:
            if (path / f"{video}.csv").exists():
                rows = (
                    (row["start"], row["end"], row["text"]) for row in rows_of(path / f"{video}.csv", "start", "end")
                )
                yield video, pieces_of(rows, faults)
    elif path.suffix == ".csv":
        said: dict[str, list[tuple[str, str, str]]] = {}
        for row in rows_of(path, "vid", "timestamp"):  # those of a video need not be consecutive
            if row["vid"] in videos:
                said.setdefault(row["vid"], []).append((row["timestamp"], row["timestamp"], row["text"]))
        for video, spoken in said.items():
            yield video, pieces_of(spoken, faults)
    else:
        for video, value in entries(path):
            if video in videos:
                yield video, pieces_of(listed(value, f"{path}: video {video}"), faults)


def heard(pieces: Iterable[Piece], start: float, end: float) -> str:
    """Return the speech that overlaps a clip from `start` to `end` seconds."""
    return " ".join(p.text for p in pieces if p.start < end and (p.end > start or p.start == p.end == start))


def listed(value: Any, place: str) -> Iterable[tuple[Any, Any, Any]]:
    """Return start, end and text of each piece of a JSON entry."""
    try:
        if isinstance(value, list):
            return [(start, end, text) for alignable, start, end, text in value if alignable]
        return list(zip(value["start"], value["end"], value["text"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        why = f"no lists start, end and text of one length ({error})"
        raise StepDiffError(f"{place} has {why}; copy it again") from error


def rows_of(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)
            missing = {*columns, "text"}.difference(reader.fieldnames or ())
            if missing:
                raise StepDiffError(f"{path}: no column {min(missing)}; it needs {', '.join((*columns, 'text'))}")
            yield from reader
    except (OSError, csv.Error) as error:
        raise StepDiffError(f"{path}: cannot be read ({error}); copy it again") from error


def pieces_of(rows: Iterable[tuple[Any, Any, Any]], faults: Counter[str]) -> list[Piece]:
    pieces = []
    for start, end, text in rows:
        piece = _piece(start, end, text)
        if piece is None:
            faults[UNUSABLE] += 1
            continue
        faults[UNDECODED] += "\ufffd" in piece.text
        pieces.append(piece)
    return sorted(pieces, key=lambda piece: piece.start)


def _piece(start: Any, end: Any, text: Any) -> Piece | None:
    try:
        piece = Piece(float(start), float(end), " ".join(text.split()))
    except (TypeError, ValueError, AttributeError):  # a text that is NaN, a time that is not a number
        return None
    return piece if piece.text and 0 <= piece.start <= piece.end < math.inf else None
