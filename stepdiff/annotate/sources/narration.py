"""The speech of videos, in each form in which HowTo100M publishes it, and its sentences as clips.

    a .json object by video   {"start": [s, ...], "end": [s, ...], "text": [str, ...]}:
                              caption.json, raw_caption.json, sentencified_htm_*.json
                              [[alignable, start, end, text], ...]: htm_align.json; only alignable
                              sentences count
    a .csv file               vid, timestamp, text: htm_aa_v1.csv, a sentence at one second, videos
                              in any order
    a folder                  VIDEO.csv of start, end, text for each video: raw_caption_csv

Memory is bounded by the longest entry of a file. A JSON file is not read by ijson, which refuses
HowTo100M's files: they contain NaN for missing texts, control characters and bytes that are not
UTF-8. Sentences are not merged, as neither HTM-AA nor the recipe of VCLM does so; sentences of one
interval are one clip.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from featurize.scratch import Buckets
from stepdiff.annotate.sources.blocks import ROWS, Clip, in_blocks
from stepdiff_core.errors import StepDiffError

PIECE = 2**22  # characters read at once
LONGEST = 2**28  # characters of an entry, at most: beyond them the file counts as damaged

_DECODER = json.JSONDecoder(strict=False)  # real captions contain control characters
_BLANK = " \t\r\n"
_SPACES = re.compile(f"[{_BLANK}]*")


def entries(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each entry of a JSON object of any size.

    StepDiffError: no such file, not a JSON object, or damaged; entries before the damage are
    yielded.
    """
    try:
        file = open(path, encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise StepDiffError(
            f"{path}: cannot be read ({error.strerror}); correct its path"
        ) from error
    with file:
        text, at, count = file.read(PIECE).lstrip(_BLANK), 0, 0
        if not text.startswith("{"):
            raise StepDiffError(f"{path}: not a JSON object; give a file that begins with {{")
        if text[1:].lstrip(_BLANK).startswith("}"):
            at = text.index("}")
        while text[at] != "}":  # the mark before an entry
            while (entry := _entry(text, at + 1)) is None:
                text, at = text[at:], 0
                more = file.read(max(PIECE, len(text)))
                if not more or len(text) > LONGEST:
                    start = text[1:].lstrip(_BLANK)[:40]
                    raise StepDiffError(
                        f"{path}: damaged after entry {count}: {start!r}; copy it again"
                    )
                text += more
            name, value, at = entry
            yield name, value
            count += 1
        if rest := (text[at + 1 :] + file.read(PIECE)).strip(_BLANK):
            raise StepDiffError(
                f"{path}: damaged after entry {count}: {rest[:40]!r}; copy it again"
            )


def _entry(text: str, at: int) -> tuple[str, Any, int] | None:
    """Return the entry at a place, and the place of the comma or brace after it; None if it is
    incomplete."""
    try:
        name, at = _DECODER.raw_decode(text, _after_space(text, at))
        at = _after_space(text, at)
        if not isinstance(name, str) or text[at] != ":":
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


class SpeechPiece(NamedTuple):
    """One piece of speech; a piece of one moment has start = end."""

    start: float  # seconds
    end: float
    text: str


def read_narration(
    path: str | Path, videos: Collection[str], faults: Counter[str]
) -> Iterator[tuple[str, list[SpeechPiece]]]:
    """Yield each of `videos` that has speech with its speech, sorted by time; `faults` counts
    omitted pieces."""
    path = Path(path)
    if path.is_dir():
        for video in videos:
            if (file := path / f"{video}.csv").exists():
                rows = (
                    (row["start"], row["end"], row["text"]) for row in rows_of(file, "start", "end")
                )
                yield video, pieces_of(rows, faults)
    elif path.suffix == ".csv":
        yield from _of_csv(path, faults, videos)
    else:
        for video, value in entries(path):
            if video in videos:
                yield video, pieces_of(listed(value, f"{path}: video {video}"), faults)


def heard(pieces: Iterable[SpeechPiece], start: float, end: float) -> str:
    return " ".join(
        p.text for p in pieces if p.start < end and (p.end > start or p.start == p.end == start)
    )


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
                raise StepDiffError(
                    f"{path}: no column {min(missing)}; it needs {', '.join((*columns, 'text'))}"
                )
            yield from reader
    except (OSError, csv.Error) as error:
        raise StepDiffError(f"{path}: cannot be read ({error}); copy it again") from error


def pieces_of(rows: Iterable[tuple[Any, Any, Any]], faults: Counter[str]) -> list[SpeechPiece]:
    pieces = []
    for start, end, text in rows:
        piece: SpeechPiece | None
        try:
            piece = SpeechPiece(float(start), float(end), " ".join(text.split()))
        except (TypeError, ValueError, AttributeError):
            # a text that is NaN, a time that is not a number
            piece = None
        if piece is None or not piece.text or not 0 <= piece.start <= piece.end < math.inf:
            faults[UNUSABLE] += 1
        else:
            faults[UNDECODED] += "\ufffd" in piece.text
            pieces.append(piece)
    return sorted(pieces, key=lambda piece: piece.start)


# of a clip around a moment: 16 frames at 5 a second, as the authors of HTM-AA train on it
SECONDS = 3.2
UNALIGNED = "sentences that are not alignable"
MOMENT = "sentences of no length"
_SAID = {"video": pl.String, "second": pl.String, "text": pl.String}
_TOGETHER = 16  # blocks that are divided together
_PART = 2**27  # bytes of a .csv file in one temporary part, about


def read_sentences(path: Path, seconds: float, faults: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yield blocks of clips with narration; `faults` counts the sentences that were left out."""
    around = seconds if path.suffix == ".csv" else None
    return in_blocks(
        (_clips(video, pieces, around, faults) for video, pieces in spoken_videos(path, faults)),
        "narration",
    )


def spoken_videos(
    path: Path, faults: Counter[str]
) -> Iterator[tuple[str, list[SpeechPiece]]]:
    """Yield every video of a file with its speech, sorted by time; `faults` counts omitted
    pieces."""
    if path.is_dir():
        yield from read_narration(path, sorted(file.stem for file in path.glob("*.csv")), faults)
    elif path.suffix == ".csv":
        yield from _of_csv(path, faults)
    else:
        for video, value in entries(path):
            for sentence in value if isinstance(value, list) else ():
                faults[UNALIGNED] += (
                    isinstance(sentence, list) and bool(sentence) and not sentence[0]
                )
            yield video, pieces_of(listed(value, f"{path}: video {video}"), faults)


def _of_csv(
    path: Path, faults: Counter[str], videos: Collection[str] | None = None
) -> Iterator[tuple[str, list[SpeechPiece]]]:
    """Yield each of `videos` (None: all) that has speech with its speech; rows of a video may be
    anywhere."""
    buckets = Buckets()
    parts = np.uint64(path.stat().st_size // _PART + 1) if path.exists() else np.uint64(1)
    read = (
        row for row in rows_of(path, "vid", "timestamp") if videos is None or row["vid"] in videos
    )
    frames = (
        pl.DataFrame(
            [(row["vid"], row["timestamp"], row["text"]) for row in rows], _SAID, orient="row"
        )
        for rows in iter(lambda: list(islice(read, ROWS)), [])
    )
    while batch := list(islice(frames, _TOGETHER)):  # few large files
        frame = pl.concat(batch)
        buckets.add(frame, (frame["video"].hash().to_numpy() % parts).astype(np.int64))
    for bucket in buckets:
        for (video,), rows in buckets.read(bucket).group_by("video", maintain_order=True):
            yield (
                str(video),
                pieces_of(zip(rows["second"], rows["second"], rows["text"], strict=True), faults),
            )


def _clips(
    video: str, pieces: list[SpeechPiece], around: float | None, faults: Counter[str]
) -> Iterator[Clip]:
    """Yield the clips of a video; `around`: seconds of a clip around a sentence of one moment."""
    texts: dict[tuple[float, float], list[str]] = {}
    for piece in pieces:
        start, end = piece.start, piece.end
        if around is not None:
            start, end = max(round(start - around / 2, 3), 0.0), round(end + around / 2, 3)
        if start < end:
            texts.setdefault((start, end), []).append(piece.text)
        else:
            faults[MOMENT] += 1
    for start, end in sorted(texts):
        yield f"{video}_{start!r}_{end!r}", video, start, end, "train", " ".join(texts[start, end])
