"""What is asked for: clips of videos, or texts, from a file of any size, a window of rows at a time.

A manifest (csv, parquet, jsonl) with a column `video` is one of clips, with `clip`, `video` (relative to the manifest's
folder), `start` and `end` in seconds (or as durations of Parquet), and any others, which the catalog keeps. Any other,
or one whose column of texts is named, is one of texts: a text or a list of texts a row. A video file without a manifest
is one clip.

A window has about WINDOW rows. A file in video order is read where it is; any other is first sorted into buckets on
disk. Memory of the whole manifest: 8 bytes a clip, for ids that occur twice, and 40 bytes a video.

Guarantees
- a manifest that cannot be trusted (unreadable, a column missing, a clip twice, two files of one stem) is refused
  whole, in one line, before its first window; one bad row, or a file that cannot be opened, fails alone
- clips are in video order: videos as they first appear, their clips by start; texts by length, so that a batch holds
  few tokens that only fill it. Windows together have that order too
- windows of a file that changes between two of them are refused
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, UInt64

from featurize.manifest_file import folded, nearest, open_file, readable, refuse_twins, renamed
from featurize.options import IdFrom
from featurize.scratch import Buckets, Scratch
from featurize.video.media_file import BYTES, DIGEST, why
from featurize.video.stream import from_packets, opened
from stepdiff_core.errors import StepDiffError
from store import text_key
from store.catalog.catalog import MOST_SECONDS, check_rows

CLIP_COLUMNS = ("clip", "video", "start", "end")
WINDOW = 2**17  # rows of a window: few enough that the video files of the first one are compared within a minute
_BATCH = 2**20  # rows that are looked at together
_OWN = ("key", "row", BYTES, DIGEST)  # the catalog's own columns
_TEXT = "text"  # the column of texts by default
_MEANT = 3  # so many of the four columns, or alike, make a manifest one of clips
_VIDEOS = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())  # in a folder
_UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3}  # of a duration, in a second


@dataclass(frozen=True)
class Manifest:
    """The rows asked for, of one entity: all of them, or one window."""

    entity: str  # clips or texts
    rows: pl.DataFrame
    """what the catalog keeps: key, and for clips video, start, end (null where unusable) and the
    manifest's other columns; for texts text"""
    paths: dict[str, Path]  # video, as the manifest writes it -> its absolute path
    failures: dict[str, str]  # key -> why that row cannot be featurized
    last: bool = True  # whether no other window follows


@dataclass(frozen=True)
class Windows:
    """The rows asked for, of one entity. Each iteration yields the windows from the first on."""

    entity: str
    rows: int  # of all windows; of texts, which may repeat, at most
    make: Callable[[], Iterator[Manifest]]

    def __iter__(self) -> Iterator[Manifest]:
        return self.make()


def one_window(manifest: Manifest) -> Windows:
    """Return a manifest as its only window."""
    return Windows(manifest.entity, manifest.rows.height, lambda: iter([manifest]))


def cut(asked: Windows, seconds: float) -> Windows:
    """Return clips of so many seconds that follow one another within each clip; the last has a rest below half of that.

    A clip whose id ends in its interval, as `whisk_0_12.500`, makes `whisk_0.000_2.000`; the clip `a` makes
    `a_0.000_2.000`. One that is not cut keeps its id. StepDiffError: texts, no length, or two videos get one id.
    """
    if asked.entity != "clips":
        raise StepDiffError("--windows is for clips, not for texts: leave it out")
    if not 0.01 <= seconds < MOST_SECONDS:
        raise StepDiffError(f"--windows {seconds:g} is no length of a clip: give 0.01 seconds or more")

    def windows() -> Iterator[Manifest]:
        for manifest in asked:
            parts, long = _parts(manifest.rows, seconds)
            why = f"it is more than {WINDOW:,} windows long: correct its end"
            failures = manifest.failures | dict.fromkeys(manifest.rows["key"].filter(long), why)
            places = np.unique((parts.cum_sum() - parts).to_numpy() // WINDOW, return_index=True)[1].tolist()
            for first, end in zip(places, [*places[1:], len(parts)], strict=True):
                rows = _cut(manifest.rows[first:end], parts[first:end], seconds)
                here = {key: failures[key] for key in rows["key"] if key in failures}
                yield replace(manifest, rows=rows, failures=here, last=manifest.last and end == len(parts))

    return Windows("clips", sum(int(_parts(manifest.rows, seconds)[0].sum()) for manifest in asked), windows)


def _parts(rows: pl.DataFrame, seconds: float) -> tuple[pl.Series, pl.Series]:
    """Return how many windows each clip has, and which have too many; 1 for these, and where an interval is unknown."""
    parts = ((rows["end"] - rows["start"]) / seconds + 0.5).floor().fill_null(1)
    long = parts > WINDOW
    return parts.set(long, 1).clip(1).cast(pl.Int64), long


def _cut(rows: pl.DataFrame, parts: pl.Series, seconds: float) -> pl.DataFrame:
    """Return the windows of some clips, each clip in so many parts, in the order of videos and starts."""
    start, end, part = (pl.col(name) for name in ("start", "end", "_part"))
    rows = rows.with_columns(_parts=parts).with_columns(_part=pl.int_ranges("_parts")).explode("_part")
    interval = pl.col("key").str.extract_groups(r"^(?<stem>.+)_(?<first>[0-9.]+)_(?<last>[0-9.]+)$")
    named = [
        interval.struct.field(name).cast(pl.Float64, strict=False).round(3) == time.round(3)
        for name, time in (("first", start), ("last", end))
    ]
    stem = pl.when(*named).then(interval.struct.field("stem")).otherwise("key")
    first = (start + part * seconds).round(6)  # windows of clips that overlap are the same to the bit
    last = pl.when(part + 1 < pl.col("_parts")).then((start + (part + 1) * seconds).round(6)).otherwise(end)
    key = pl.format("{}_{}_{}", stem, _milliseconds(first), _milliseconds(last))
    whole = pl.col("_parts") == 1
    rows = rows.with_columns(
        key=pl.when(whole).then("key").otherwise(key), start=pl.when(whole).then(start).otherwise(first), end=last
    )
    rows = rows.unique(["key", "video"], keep="first", maintain_order=True).drop("_part", "_parts")
    if (twice := rows["key"].filter(rows["key"].is_duplicated())).len():
        raise StepDiffError(f"--windows makes two clips {twice[0]!r}: give clips of different videos other ids")
    return _in_video_order(rows)


def _milliseconds(seconds: pl.Expr) -> pl.Expr:
    """Return seconds as text with three digits after the point."""
    return seconds.map_elements(lambda number: f"{number:.3f}", return_dtype=pl.String)


def read_manifest(path: Path, column: str | None = None) -> Manifest:
    """Read a manifest as one window; see `read_windows`."""
    (manifest,) = read_windows(path, column, sys.maxsize)
    return manifest


def read_windows(path: Path, column: str | None = None, window: int = WINDOW) -> Windows:
    """Read a manifest; of one of clips too, `column` asks for the texts in it.

    Raises StepDiffError where it is refused whole.
    """
    file = _File(path, column)
    if file.count <= window:
        return one_window(parsed(file.read(0, file.count), path, column))
    if not _of_clips(file.head.columns, column):
        return _text_windows(file, column or _TEXT, window)
    head = renamed(file.head, CLIP_COLUMNS, path)
    _check_clips(head, path)
    return _clip_windows(file, dict(zip(file.head.columns, head.columns, strict=True)), window)


def parsed(frame: pl.DataFrame, path: Path, column: str | None) -> Manifest:
    """Return the manifest of all rows of the file `path`. StepDiffError where it is refused whole."""
    if not frame.height:
        raise StepDiffError(f"{path} has no row: write one for each clip or text")
    if _of_clips(frame.columns, column):
        frame = renamed(frame, CLIP_COLUMNS, path)
        _check_clips(frame, path)
        _refuse_twice(frame["clip"], path)
        return _clips(frame.with_row_index("row"), path)
    return _texts(_texts_in(frame, path, column or _TEXT), path)


class _File:
    """The file of a manifest, read part by part. StepDiffError where it changes after it was opened."""

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        self._scratch = Scratch()
        with readable(path):
            self._seen = self._identity()
            self._rows = open_file(path, columns_of_interest(column), self._scratch)
            self.head = self._rows.head(0).collect()
            self.count: int = self._rows.select(pl.len()).collect().item()

    def read(self, first: int, count: int, columns: list[str] | None = None) -> pl.DataFrame:
        """Return `count` rows from `first` on."""
        rows = self._rows.slice(first, count)
        with readable(self.path):
            self._check_unchanged()
            frame = (rows if columns is None else rows.select(columns)).collect()
            self._check_unchanged()
        return frame

    def batches(self, columns: list[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield all rows with the number of the first, _BATCH at a time."""
        for first in range(0, self.count, _BATCH):
            yield first, self.read(first, _BATCH, columns)

    def _check_unchanged(self) -> None:
        if self._identity() != self._seen:
            raise StepDiffError(f"manifest {self.path} changed while it was read: run the same command again")

    def _identity(self) -> tuple[int, int, int]:
        state = os.stat(self.path)
        return state.st_ino, state.st_mtime_ns, state.st_size


def columns_of_interest(column: str | None) -> tuple[str, ...]:
    """Return the columns of a file that are read as text; `column` is that of the texts, if the user named one."""
    return (*CLIP_COLUMNS, _TEXT) if column is None else (column,)


def _of_clips(names: Sequence[str], column: str | None) -> bool:
    """Return whether columns are those of clips, or are meant to be: an exact name comes before one in another case."""
    if column is not None:
        return False
    for there in (set(names), {folded(name) for name in names}):
        if there & {"video", _TEXT}:
            return "video" in there
    return sum(nearest(name, names) is not None for name in CLIP_COLUMNS) >= _MEANT


def _check_clips(frame: pl.DataFrame, path: Path) -> None:
    refuse_twins(frame.columns, path)
    for name in frame.columns:
        if folded(name) in _OWN:
            raise StepDiffError(f"column {name!r} of {path} is the store's own: rename it")
    _check_names(frame, path)
    for name in ("start", "end"):
        if frame[name].dtype.is_nested() or frame[name].dtype in (pl.Binary, pl.Time, pl.Datetime, pl.Date):
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write seconds")


def _check_names(frame: pl.DataFrame, path: Path, first: int = 0) -> None:
    """Refuse a row without a usable clip or video; `first` is the place of the first row."""
    for name in ("clip", "video"):
        if frame[name].dtype != pl.String:
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write text")
        empty = frame[name].fill_null("").str.strip_chars() == ""
        if empty.any():
            raise StepDiffError(f"row {first + empty.arg_true()[0] + 1} of {path} has no {name}: give it one")
    check_rows(frame.select("clip", "video"), str(path), first + 1)


def _refuse_twice(clips: pl.Series, path: Path) -> None:
    if len(twice := clips.filter(clips.is_duplicated())):
        raise StepDiffError(f"clip {twice[0]!r} is in {path} twice: clip ids are unique")


def _clips(frame: pl.DataFrame, path: Path, last: bool = True) -> Manifest:
    """Return rows that were checked, in video order; column `row` is the place of each in the file."""
    frame = frame.rename({"clip": "key"}).with_columns(pl.col("video").str.strip_chars())
    start, end = (_in_seconds(frame[name]) for name in ("start", "end"))
    frame, seconds = frame.with_columns(start, end), pl.DataFrame([_numbers(start), _numbers(end)])
    good = seconds.select(_USABLE)[:, 0]
    columns = (frame["row"], frame["key"], start, end, *seconds)
    failures = {
        key: f"{_fault(*times)}: correct row {row + 1} of {path}"
        for row, key, *times in zip(*(column.filter(~good) for column in columns), strict=True)
    }
    frame = frame.with_columns(pl.when(good).then(seconds[time]).alias(time) for time in ("start", "end"))
    folder = path.absolute().parent
    paths = {video: folder / video for video in frame["video"].unique(maintain_order=True)}
    return Manifest("clips", _in_video_order(frame).drop("row"), paths, failures, last)


def _in_video_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return clips by video, as these first appear, and by start and end."""
    seen = frame["video"].unique(maintain_order=True)
    order = pl.col("video").replace_strict(seen, pl.int_range(len(seen), eager=True))
    return frame.sort(order, "start", "end", nulls_last=True, maintain_order=True)


_USABLE = ((pl.col("start") >= 0) & (pl.col("end") > pl.col("start")) & (pl.col("end") < MOST_SECONDS)).fill_null(
    False
)  # whether an interval in numbers can be featurized


def _in_seconds(times: pl.Series) -> pl.Series:
    """Return durations as numbers of seconds, any other column as it is."""
    return times.to_physical() / _UNITS[times.dtype.time_unit] if isinstance(times.dtype, pl.Duration) else times


def _numbers(times: pl.Series) -> pl.Series:
    """Return times as numbers, null where one is not written as a number."""
    if times.dtype == pl.Float64 or times.dtype.is_integer():
        return times.cast(pl.Float64)
    return times.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _fault(start: object, end: object, first: float | None, last: float | None) -> str:
    """Return in words why an interval, as it is written and as numbers, is not usable."""
    for name, written, number in (("start", start, first), ("end", end, last)):
        if number is None or not abs(number) < MOST_SECONDS:
            return f"{name} {written!r} is not a number of seconds below {MOST_SECONDS:,.0f}"
    assert first is not None and last is not None
    return f"start {first:g} is before the video" if first < 0 else f"end {last:g} is not after start {first:g}"


def _clip_windows(file: _File, names: dict[str, str], window: int) -> Windows:
    """Return the windows of a manifest of clips; `names` are its columns by their names in the file."""
    columns = [name for name, known in names.items() if known in CLIP_COLUMNS]
    ids, order = np.empty(file.count, np.uint64), _Order()
    for first, batch in file.batches(columns):
        batch = batch.rename({name: names[name] for name in columns})
        _check_names(batch, file.path, first)
        ids[first : first + batch.height] = batch["clip"].hash().to_numpy()
        times = pl.DataFrame([_numbers(_in_seconds(batch[name])).alias(name) for name in ("start", "end")])
        times = times.select(pl.when(_USABLE).then(pl.col("start", "end")).otherwise(float("inf")))
        order.add(_video_hashes(batch["video"]), times["start"].to_numpy(), times["end"].to_numpy())
    ids.sort()
    twice = pl.Series(np.unique(ids[1:][ids[1:] == ids[:-1]]), dtype=pl.UInt64)
    if len(twice):  # of equal hashes the ids are compared
        column = next(name for name in columns if names[name] == "clip")
        suspects = (clips[column] for _, clips in file.batches([column]))
        _refuse_twice(pl.concat([clips.filter(clips.hash().is_in(twice.implode())) for clips in suspects]), file.path)
    del ids  # 8 bytes a clip
    buckets = None if order.is_kept() else _sorted_by_video(file, names, window)

    def windows() -> Iterator[Manifest]:
        if buckets is None:
            for first in range(0, file.count, window):
                frame = file.read(first, window).rename(names).with_row_index("row", first)
                yield _clips(frame, file.path, last=first + window >= file.count)
            return
        for number, bucket in enumerate(buckets, 1):
            yield _clips(buckets.read(bucket), file.path, last=number == len(buckets))

    return Windows("clips", file.count, windows)


def _video_hashes(videos: pl.Series) -> UInt64[np.ndarray, " rows"]:
    """Return a number for each video. Clips of two videos with one number are sorted as of one: no row is lost."""
    return videos.str.strip_chars().hash().to_numpy()


class _Order:
    """Whether the rows are in video order: each video's clips one after another, by start and end."""

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, ...] | None = None
        self._videos: list[UInt64[np.ndarray, " some"]] = []  # of each run of one video
        self._ascending = True

    def add(self, *rows: UInt64[np.ndarray, " rows"] | Float64[np.ndarray, " rows"]) -> None:
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
        """Return whether the rows so far are in order."""
        videos = np.concatenate(self._videos)
        return self._ascending and len(np.unique(videos)) == len(videos)


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


def _texts_in(frame: pl.DataFrame, path: Path, column: str) -> pl.Series:
    """Return the texts of a file in its order, repeated ones too; null is an empty text."""
    texts = renamed(frame, (column,), path).select(pl.col(column).alias("text"))
    while isinstance(texts["text"].dtype, pl.List | pl.Array):
        texts = texts.filter(pl.col("text").list.len() > 0).explode("text")
    if texts["text"].dtype not in (pl.String, pl.Null):
        raise StepDiffError(
            f"column {column!r} of {path} holds {texts['text'].dtype}: give a column of texts with --column"
        )
    return texts["text"].cast(pl.String).fill_null("")


def _texts(texts: pl.Series, path: Path, last: bool = True) -> Manifest:
    """Return each text once, by length."""
    texts = texts.unique(maintain_order=True)
    keys = pl.Series("key", [text_key(text) for text in texts], dtype=pl.String)
    rows = pl.DataFrame([keys, texts.alias("text")]).sort(pl.col("text").str.len_chars(), maintain_order=True)
    blank = rows.filter(pl.col("text").str.strip_chars() == "")["key"]
    return Manifest("texts", rows, {}, {key: f"a text of {path} is empty: write one" for key in blank}, last)


def _text_windows(file: _File, name: str, window: int) -> Windows:
    """Return the windows of a manifest of texts: buckets of lengths, so that equal texts are in one."""
    column = file.head.columns[renamed(file.head, (name,), file.path).columns.index(name)]
    counts = np.zeros(_BATCH + 1, np.int64)
    for _, batch in file.batches([column]):
        counts += np.bincount(_lengths(_texts_in(batch, file.path, name)), minlength=len(counts))
    bucket = (np.cumsum(counts) - counts) // window
    buckets = Buckets()
    for _, batch in file.batches([column]):
        texts = _texts_in(batch, file.path, name)
        if len(texts):
            buckets.add(texts.to_frame("text"), bucket[_lengths(texts)])

    def windows() -> Iterator[Manifest]:
        for number, one in enumerate(buckets, 1):
            yield _texts(buckets.read(one)["text"], file.path, last=number == len(buckets))

    return Windows("texts", int(counts.sum()), windows)


def _lengths(texts: pl.Series) -> Int64[np.ndarray, " texts"]:
    """Return the characters of each text, at most _BATCH."""
    return texts.str.len_chars().clip(upper_bound=_BATCH).to_numpy().astype(np.int64)


def as_manifest(files: Sequence[Path], id_from: IdFrom = "stem") -> Manifest:
    """Return one clip a file, over its whole length, `<id>_0_<duration>`.

    files: of a folder, all videos below it. id_from: `stem` is the file's name without its suffix, `path` the
    absolute path with it. StepDiffError: a path where no file is, a folder without a video, or two files of one id.
    """
    seen: dict[str, Path] = {}
    rows: list[tuple[str, str, float | None, float | None]] = []
    failures: dict[str, str] = {}
    for file in chain.from_iterable(map(_videos, files)):
        name = file.stem if id_from == "stem" else str(file.absolute())
        if name in seen:
            if seen[name].absolute() == file.absolute():
                raise StepDiffError(f"{file} is given twice: give it once")
            raise StepDiffError(
                f"{seen[name]} and {file} have the same stem, so their clips the same id: make ids from paths with "
                "--id-from path, or write a manifest"
            )
        seen[name] = file
        try:
            end = length(file)
            rows.append((f"{name}_0_{end:.3f}", str(file.absolute()), 0.0, end))
        except Exception as error:  # whatever FFmpeg or PyAV raises, the file fails alone
            rows.append((f"{name}_0_{0:.3f}", str(file.absolute()), None, None))
            failures[rows[-1][0]] = why(file, error)
    schema = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
    frame = pl.DataFrame(rows, schema, orient="row")
    return Manifest("clips", frame, {video: Path(video) for video in frame["video"]}, failures)


def _videos(path: Path) -> list[Path]:
    """Return the file, or the videos below the folder, by their suffixes, in the order of their paths."""
    if not path.exists():
        raise StepDiffError(f"no video {path}: correct its path")
    if not path.is_dir():
        return [path]
    below = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in _VIDEOS)
    files = [file for file in below if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise StepDiffError(f"{path} is a folder without a video: give a folder of video files, or the files")
    return files


def unreadable(path: Path) -> str | None:
    """Return why a file does not open as a video, None if it does."""
    try:
        with opened(path):
            return None
    except Exception as error:  # whatever FFmpeg or PyAV raises, the file is no video
        return why(path, error)


def length(file: Path) -> float:
    """Return the seconds of a video by its header, else by its frames; 1 for a still image."""
    with opened(file) as video:
        if video.is_still:
            return 1.0
        if video.promised > 0:
            return video.promised
    return from_packets(file).end
