"""Sentences of aligned speech as clips: each sentence with its times is a clip, and the sentence its narration.

    sentencified_htm_*.json, caption.json   a sentence from start to end
    htm_align.json                          the same; sentences that are not alignable are left out
    htm_aa_v1.csv                           a sentence at one second: a clip of `seconds` around it

Sentences are not merged: neither HTM-AA nor the recipe of VCLM does so. Sentences of one interval, as HTM-AA has them,
are one clip. A .csv file may name its videos in any order; it is divided by video into temporary files first.

Guarantees
- sentences of one interval are one clip; those that cannot be aligned are counted
- sentences of a .csv file are read in bounded memory
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from featurize.scratch import Buckets
from stepdiff.annotate.sources.blocks import ROWS
from stepdiff.annotate.sources.narration import Piece, entries, listed, pieces_of, read_narration, rows_of

SECONDS = 3.2
"""of a clip around a moment: 16 frames at 5 a second, as the authors of HTM-AA train on it"""
UNALIGNED = "sentences that are not alignable"
MOMENT = "sentences of no length"
Clip = tuple[str, str, float, float, str, str]
"""clip, video, start, end (seconds), split, narration"""
_SAID = {"video": pl.String, "second": pl.String, "text": pl.String}
_TOGETHER = 16  # blocks that are divided together
_PART = 2**27  # bytes of a .csv file in one temporary part, about


def read_sentences(path: Path, seconds: float, faults: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yield blocks of clips with narration; `faults` counts the sentences that were left out."""
    clips: list[Clip] = []
    for video, pieces in _videos(path, faults):
        clips += _clips(video, pieces, seconds if path.suffix == ".csv" else None, faults)
        if len(clips) >= ROWS:
            yield _block(clips)
            clips = []
    if clips:
        yield _block(clips)


def _block(clips: list[Clip]) -> pl.DataFrame:
    kinds = {"clip": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
    return pl.DataFrame(clips, {**kinds, "split": pl.String, "narration": pl.String}, orient="row")


def _videos(path: Path, faults: Counter[str]) -> Iterator[tuple[str, list[Piece]]]:
    """Yield video and sentences, sorted by time."""
    if path.is_dir():
        yield from read_narration(path, sorted(file.stem for file in path.glob("*.csv")), faults)
    elif path.suffix == ".csv":
        yield from _of_csv(path, faults)
    else:
        for video, value in entries(path):
            if isinstance(value, list):
                faults[UNALIGNED] += sum(
                    not sentence[0] for sentence in value if isinstance(sentence, list) and sentence
                )
            yield video, pieces_of(listed(value, f"{path}: video {video}"), faults)


def _of_csv(path: Path, faults: Counter[str]) -> Iterator[tuple[str, list[Piece]]]:
    buckets = Buckets()
    parts = np.uint64(path.stat().st_size // _PART + 1) if path.exists() else np.uint64(1)
    read = rows_of(path, "vid", "timestamp")
    frames = (
        pl.DataFrame([(row["vid"], row["timestamp"], row["text"]) for row in rows], _SAID, orient="row")
        for rows in iter(lambda: list(islice(read, ROWS)), [])
    )
    while some := list(islice(frames, _TOGETHER)):  # few large files
        frame = pl.concat(some)
        buckets.add(frame, (frame["video"].hash().to_numpy() % parts).astype(np.int64))
    for bucket in buckets:
        for (video,), own in buckets.read(bucket).group_by("video", maintain_order=True):
            yield str(video), pieces_of(zip(own["second"], own["second"], own["text"], strict=True), faults)


def _clips(video: str, pieces: list[Piece], around: float | None, faults: Counter[str]) -> Iterator[Clip]:
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
