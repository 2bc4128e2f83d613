"""A manifest of any size, a window of rows at a time.

A window is a `Manifest` of about WINDOW rows. Together the windows have the rows of the whole manifest, in the order
that a manifest read in one piece has. A file that is in that order already, as those that list one video after another
are, is read where it is; any other is first sorted into buckets on disk.

Memory of the whole manifest: 8 bytes a clip, for ids that occur twice, and 40 bytes a video.

Guarantees
- a manifest that cannot be trusted is refused whole before its first window is made
- windows of a file that changes between two of them are refused
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, UInt64

from featurize.manifest import (
    CLIP_COLUMNS,
    Manifest,
    check_clips,
    check_names,
    clips_of,
    columns_of_interest,
    in_seconds,
    numbers,
    of_clips,
    parsed,
    refuse_twice,
    texts_in,
    texts_of,
    usable,
)
from featurize.manifest_file import open_file, readable, renamed
from featurize.scratch import Buckets, Scratch
from stepdiff.common.errors import StepDiffError

WINDOW = 2**17
"""rows of a window: few enough that the video files of the first one are compared within a minute"""
_BATCH = 2**20
"""rows that are looked at together"""


class Windows:
    """The rows asked for, of one entity. Each iteration yields the windows from the first on."""

    def __init__(self, entity: str, rows: int, make: Callable[[], Iterator[Manifest]]) -> None:
        self.entity = entity
        """clips or texts"""
        self.rows = rows
        """rows of all windows; of texts, which may repeat, at most"""
        self._make = make

    def __iter__(self) -> Iterator[Manifest]:
        return self._make()


def one_window(manifest: Manifest) -> Windows:
    """Return a manifest as its only window."""
    return Windows(manifest.entity, manifest.rows.height, lambda: iter([manifest]))


def read_windows(path: Path, column: str | None = None, window: int = WINDOW) -> Windows:
    """Read a manifest; of one of clips too, `column` asks for the texts in it.

    Raises StepDiffError where it is refused whole.
    """
    file = _File(path, column)
    if file.count <= window:
        return one_window(parsed(file.read(0, file.count), path, column))
    if not of_clips(file.head.columns, column):
        return _texts(file, column, window)
    head = renamed(file.head, CLIP_COLUMNS, path)
    check_clips(head, path)
    return _clips(file, dict(zip(file.head.columns, head.columns, strict=True)), window)


class _File:
    """The file of a manifest, read part by part."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        self._scratch = Scratch()
        with readable(path):
            self._seen = self._identity()
            self._rows = open_file(path, columns_of_interest(column), self._scratch)
            self.head = self._rows.head(0).collect()
            self.count: int = self._rows.select(pl.len()).collect().item()

    def read(self, first: int, count: int, columns: list[str] | None = None) -> pl.DataFrame:
        """Return `count` rows from `first` on. StepDiffError where the file has changed since it was opened."""
        rows = self._rows.slice(first, count)
        with readable(self.path):
            self._check_unchanged()
            frame = (rows if columns is None else rows.select(columns)).collect()
            self._check_unchanged()
        return frame

    def _check_unchanged(self) -> None:
        if self._identity() != self._seen:
            raise StepDiffError(f"manifest {self.path} changed while it was read: run the same command again")

    def batches(self, columns: list[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield all rows with the number of the first, _BATCH at a time."""
        for first in range(0, self.count, _BATCH):
            yield first, self.read(first, _BATCH, columns)

    def _identity(self) -> tuple[int, int, int]:
        found = os.stat(self.path)
        return found.st_ino, found.st_mtime_ns, found.st_size


def _clips(file: _File, names: dict[str, str], window: int) -> Windows:
    """Return the windows of a manifest of clips; `names` are its columns by their names in the file."""
    columns = [name for name, known in names.items() if known in CLIP_COLUMNS]
    ids, order = np.empty(file.count, np.uint64), _Order()
    for first, batch in file.batches(columns):
        batch = batch.rename({name: names[name] for name in columns})
        check_names(batch, file.path, first)
        ids[first : first + batch.height] = batch["clip"].hash().to_numpy()
        order.add(*_places(batch))
    _refuse_twice(ids, file, {known: name for name, known in names.items()}["clip"])
    del ids  # 8 bytes a clip
    buckets = None if order.is_kept() else _sorted_by_video(file, names, window)

    def windows() -> Iterator[Manifest]:
        if buckets is None:
            for first in range(0, file.count, window):
                frame = file.read(first, window).rename(names).with_row_index("row", first)
                yield clips_of(frame, file.path, last=first + window >= file.count)
            return
        for number, bucket in enumerate(buckets, 1):
            yield clips_of(buckets.read(bucket), file.path, last=number == len(buckets))

    return Windows("clips", file.count, windows)


def _places(
    batch: pl.DataFrame,
) -> tuple[UInt64[np.ndarray, " rows"], Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Return the hash of each row's video, and its interval: infinity twice where it cannot be used."""
    times = pl.DataFrame([numbers(in_seconds(batch[name])).alias(name) for name in ("start", "end")])
    times = times.select(pl.when(usable("start", "end")).then(pl.col("start", "end")).otherwise(float("inf")))
    return _video_hashes(batch["video"]), times["start"].to_numpy(), times["end"].to_numpy()


def _video_hashes(videos: pl.Series) -> UInt64[np.ndarray, " rows"]:
    """Return a number for each video. Of two videos with one number, which is one case in 10,000 manifests, the clips
    are sorted as if they were of one: no row is lost."""
    return videos.str.strip_chars().hash().to_numpy()


def _refuse_twice(hashes: UInt64[np.ndarray, " rows"], file: _File, column: str) -> None:
    """Raise StepDiffError if a clip occurs twice: of equal hashes, which are sorted here, the ids are compared."""
    hashes.sort()
    twice = pl.Series(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]), dtype=pl.UInt64)
    if len(twice):
        suspects = [
            clips[column].filter(clips[column].hash().is_in(twice.implode())) for _, clips in file.batches([column])
        ]
        refuse_twice(pl.concat(suspects), file.path)


class _Order:
    """Whether the rows are in video order: each video's clips one after another, by start and end."""

    def __init__(self) -> None:
        self._last: tuple[UInt64[np.ndarray, " 1"], ...] | None = None
        self._videos: list[UInt64[np.ndarray, " some"]] = []  # of each run of one video
        self._ascending = True

    def add(self, *rows: np.ndarray) -> None:
        """Add the videos, starts and ends of more rows."""
        video, start, end = rows if self._last is None else map(np.concatenate, zip(self._last, rows, strict=True))
        same = video[1:] == video[:-1]
        later = (start[1:] > start[:-1]) | ((start[1:] == start[:-1]) & (end[1:] >= end[:-1]))
        self._ascending &= bool((later | ~same).all())
        if self._last is None:
            self._videos.append(video[:1])
        self._videos.append(video[1:][~same])
        self._last = video[-1:], start[-1:], end[-1:]

    def is_kept(self) -> bool:
        """Return whether the rows so far are in order. Ends the object's use."""
        videos, self._videos = np.concatenate(self._videos), []
        videos.sort()
        return self._ascending and not bool((videos[1:] == videos[:-1]).any())


def _sorted_by_video(file: _File, names: dict[str, str], window: int) -> Buckets:
    """Return the rows in buckets of whole videos, which are in the order of their first rows."""
    (column,) = (name for name, known in names.items() if known == "video")
    known = pl.DataFrame(schema={"video": pl.UInt64, "first": pl.Int64, "rows": pl.Int64})
    for first, batch in file.batches([column]):
        rows = pl.DataFrame({"video": _video_hashes(batch[column])}).with_row_index("first", first)
        new = rows.group_by("video").agg(pl.col("first").min().cast(pl.Int64), rows=pl.len().cast(pl.Int64))
        known = pl.concat([known, new]).group_by("video").agg(pl.col("first").min(), pl.col("rows").sum())
    known = known.sort("first").with_columns(bucket=(pl.col("rows").cum_sum() - pl.col("rows")) // window).sort("video")
    videos, bucket = known["video"].to_numpy(), known["bucket"].to_numpy()
    buckets = Buckets()
    for first, batch in file.batches():
        batch = batch.rename(names).with_row_index("row", first)
        buckets.add(batch, bucket[np.searchsorted(videos, _video_hashes(batch["video"]))])
    return buckets


def _texts(file: _File, column: str | None, window: int) -> Windows:
    """Return the windows of a manifest of texts: buckets of lengths, so that equal texts are in one."""
    name = column or "text"
    wanted = _found(file, name)
    counts = np.zeros(1, np.int64)
    for _, batch in file.batches([wanted]):
        new = np.bincount(_lengths(texts_in(batch, file.path, name)), minlength=len(counts))
        new[: len(counts)] += counts
        counts = new
    bucket = (np.cumsum(counts) - counts) // window
    buckets = Buckets()
    for _, batch in file.batches([wanted]):
        texts = texts_in(batch, file.path, name)
        if len(texts):
            buckets.add(texts.to_frame("text"), bucket[_lengths(texts)])

    def windows() -> Iterator[Manifest]:
        for number, one in enumerate(buckets, 1):
            yield texts_of(buckets.read(one)["text"], file.path, last=number == len(buckets))

    return Windows("texts", int(counts.sum()), windows)


def _found(file: _File, name: str) -> str:
    """Return the column `name` of a file as it is written there."""
    head = renamed(file.head, (name,), file.path)
    return file.head.columns[head.columns.index(name)]


def _lengths(texts: pl.Series) -> Int64[np.ndarray, " texts"]:
    """Return the characters of each text, at most _BATCH."""
    return texts.str.len_chars().clip(upper_bound=_BATCH).to_numpy().astype(np.int64)
