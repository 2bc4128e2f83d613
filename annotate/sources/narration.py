"""The speech of videos, in each form in which HowTo100M publishes it.

    a .json object by video   {"start": [s, ...], "end": [s, ...], "text": [str, ...]}: caption.json, raw_caption.json,
                              sentencified_htm_*.json
                              [[alignable, start, end, text], ...]: htm_align.json; only what is alignable counts
    a .csv file               vid, timestamp, text: htm_aa_v1.csv, a sentence at one second
    a folder                  VIDEO.csv of start, end, text for each video: raw_caption_csv

Guarantees
- speech of a clip is what overlaps it in time, in order of time
- all formats of one narration give the same speech
- pieces without text or time are left out and counted
- a byte that is not UTF-8 becomes U+FFFD and is counted; a video without speech is no error
"""

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from annotate.sources.json_object import entries
from common.errors import StepDiffError

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
                rows = ((row["start"], row["end"], row["text"]) for row in _rows(path / f"{video}.csv", "start", "end"))
                yield video, _pieces(rows, faults)
    elif path.suffix == ".csv":
        said: dict[str, list[tuple[str, str, str]]] = {}
        for row in _rows(path, "vid", "timestamp"):  # those of a video need not be consecutive
            if row["vid"] in videos:
                said.setdefault(row["vid"], []).append((row["timestamp"], row["timestamp"], row["text"]))
        for video, spoken in said.items():
            yield video, _pieces(spoken, faults)
    else:
        for video, value in entries(path):
            if video in videos:
                yield video, _pieces(_listed(value, f"{path}: video {video}"), faults)


def heard(pieces: Iterable[Piece], start: float, end: float) -> str:
    """Return the speech that overlaps a clip from `start` to `end` seconds."""
    return " ".join(p.text for p in pieces if p.start < end and (p.end > start or p.start == p.end == start))


def _listed(value: Any, place: str) -> Iterable[tuple[Any, Any, Any]]:
    """Return start, end and text of each piece of a JSON entry."""
    try:
        if isinstance(value, list):
            return [(start, end, text) for alignable, start, end, text in value if alignable]
        return list(zip(value["start"], value["end"], value["text"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        why = f"no lists start, end and text of one length ({error})"
        raise StepDiffError(f"{place} has {why}; copy it again") from error


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)
            missing = {*columns, "text"}.difference(reader.fieldnames or ())
            if missing:
                raise StepDiffError(f"{path}: no column {min(missing)}; it needs {', '.join((*columns, 'text'))}")
            yield from reader
    except (OSError, csv.Error) as error:
        raise StepDiffError(f"{path}: cannot be read ({error}); copy it again") from error


def _pieces(rows: Iterable[tuple[Any, Any, Any]], faults: Counter[str]) -> list[Piece]:
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
