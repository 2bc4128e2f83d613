"""The requested rows: clips of videos, or texts, from a file of any size, a window of rows at a
time.

A manifest (csv, parquet, jsonl) with a column `video` is one of clips, with `clip`, `video`
(relative to the manifest's folder), `start` and `end` in seconds (or as durations of Parquet), and
any others, which the catalog keeps. Any other, or one whose column of texts is named, is one of
texts: a text or a list of texts a row. A video file without a manifest is one clip.

A window has about WINDOW rows. A file of more is first copied to the disk, into buckets of whole
videos, or of texts of one length. Memory of the whole manifest: 8 bytes a clip, for ids that occur
twice, and 40 bytes a video.

Guarantees
- a manifest that cannot be trusted (unreadable, a column missing, a clip twice, two files of one
  stem) is refused whole, in one line, before its first window; one bad row, or a file that cannot
  be opened, fails alone
- clips are in video order: videos as they first appear, their clips by start; texts by length, so
  that a batch holds few tokens that only fill it. Windows together have that order too
- a file that changes while it is read is refused; all windows come from one version of it
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from featurize.manifest_file import folded, nearest, open_file, readable, refuse_twins, renamed
from featurize.options import IdFrom
from featurize.scratch import Buckets, Scratch
from featurize.video.media_file import BYTES, DIGEST, why
from featurize.video.stream import from_packets, opened
from stepdiff_core.errors import StepDiffError
from store import text_key
from store.catalog.catalog import MOST_SECONDS, check_rows

CLIP_COLUMNS = ("clip", "video", "start", "end")
# rows of a window: few enough that the video files of the first one are compared within a minute
WINDOW = 2**17
_BATCH = 2**19  # rows that are looked at together
_OWN = ("key", "row", BYTES, DIGEST)  # the catalog's own columns
_TEXT = "text"  # the column of texts by default
_MEANT = 3  # so many of the four columns, or alike, make a manifest one of clips
# in a folder
_VIDEOS = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv".split())
_UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3}  # of a duration, in a second


@dataclass(frozen=True)
class Manifest:
    """The rows asked for, of one entity: all of them, or one window."""

    entity: str  # clips or texts
    rows: pl.DataFrame
    """columns that the catalog keeps: key, and for clips video, start, end (null if unusable) and
    the manifest's other columns; for texts text"""
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


def cut(source: Windows, seconds: float) -> Windows:
    """Return consecutive clips of `seconds` within each clip; the last includes a rest below half
    of that.

    A clip whose id ends in its interval, as `whisk_0_12.500`, makes `whisk_0.000_2.000`; the clip
    `a` makes `a_0.000_2.000`. One that is not cut keeps its id. StepDiffError: texts, no length, or
    two videos get one id.
    """
    if source.entity != "clips":
        raise StepDiffError("--windows is for clips, not for texts: leave it out")
    if not 0.01 <= seconds < MOST_SECONDS:
        raise StepDiffError(
            f"--windows {seconds:g} is no length of a clip: give 0.01 seconds or more"
        )

    def windows() -> Iterator[Manifest]:
        for manifest in source:
            parts, long = _parts(manifest.rows, seconds)
            why = f"it is more than {WINDOW:,} windows long: correct its end"
            failures = manifest.failures | dict.fromkeys(manifest.rows["key"].filter(long), why)
            places = np.unique((parts.cum_sum() - parts).to_numpy() // WINDOW, return_index=True)[
                1
            ].tolist()
            for first, end in zip(places, [*places[1:], len(parts)], strict=True):
                rows = _cut(manifest.rows[first:end], parts[first:end], seconds)
                here = {key: failures[key] for key in rows["key"] if key in failures}
                yield replace(
                    manifest, rows=rows, failures=here, last=manifest.last and end == len(parts)
                )

    return Windows(
        "clips", sum(int(_parts(manifest.rows, seconds)[0].sum()) for manifest in source), windows
    )


def _parts(rows: pl.DataFrame, seconds: float) -> tuple[pl.Series, pl.Series]:
    """Return how many windows each clip has, and which have too many; 1 for these, and where an
    interval is unknown."""
    parts = ((rows["end"] - rows["start"]) / seconds + 0.5).floor().fill_null(1)
    long = parts > WINDOW
    return parts.set(long, 1).clip(1).cast(pl.Int64), long


def _cut(rows: pl.DataFrame, parts: pl.Series, seconds: float) -> pl.DataFrame:
    """Return the windows of some clips, each clip cut into its number of `parts`, in the order of
    videos and starts."""
    start, end, part = (pl.col(name) for name in ("start", "end", "_part"))
    rows = (
        rows.with_columns(_parts=parts).with_columns(_part=pl.int_ranges("_parts")).explode("_part")
    )
    interval = pl.col("key").str.extract_groups(r"^(?<stem>.+)_(?<first>[0-9.]+)_(?<last>[0-9.]+)$")
    named = [
        interval.struct.field(name).cast(pl.Float64, strict=False).round(3) == time.round(3)
        for name, time in (("first", start), ("last", end))
    ]
    stem = pl.when(*named).then(interval.struct.field("stem")).otherwise("key")
    # windows of clips that overlap are the same to the bit
    first = (start + part * seconds).round(6)
    last = (
        pl.when(part + 1 < pl.col("_parts"))
        .then((start + (part + 1) * seconds).round(6))
        .otherwise(end)
    )
    key = pl.format("{}_{}_{}", stem, _milliseconds(first), _milliseconds(last))
    whole = pl.col("_parts") == 1
    rows = rows.with_columns(
        key=pl.when(whole).then("key").otherwise(key),
        start=pl.when(whole).then(start).otherwise(first),
        end=last,
    )
    rows = rows.unique(["key", "video"], keep="first", maintain_order=True).drop("_part", "_parts")
    if (twice := rows["key"].filter(rows["key"].is_duplicated())).len():
        raise StepDiffError(
            f"--windows makes two clips {twice[0]!r}: give clips of different videos other ids"
        )
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

    Raises StepDiffError if it is refused whole.
    """
    file = _File(path, column)
    clips = file.column is None
    parts, parse, first_look = (
        (_clips_of, _clips, _checked) if clips else (_texts_of, _texts, _texts_of)
    )
    groups = pl.DataFrame(schema={"group": pl.UInt64, "order": pl.Int64, "rows": pl.Int64})
    for _, seen in first_look(file):
        counts = seen.group_by("group").agg(pl.col("order").min(), rows=pl.len())
        both = pl.concat([groups, counts], how="vertical_relaxed").group_by("group")
        groups = both.agg(pl.col("order").min(), pl.col("rows").sum())
    total = int(groups["rows"].sum())
    if total <= window:
        return one_window(parse(pl.concat([rows for rows, _ in parts(file)]), path))
    groups = groups.sort("order").with_columns(
        bucket=(pl.col("rows").cum_sum() - pl.col("rows")) // window
    )
    buckets = Buckets()
    for rows, seen in parts(file):
        buckets.add(
            rows, seen["group"].replace_strict(groups["group"], groups["bucket"]).to_numpy()
        )

    def windows() -> Iterator[Manifest]:
        for number, bucket in enumerate(buckets, 1):
            yield parse(buckets.read(bucket), path, number == len(buckets))

    return Windows("clips" if clips else "texts", total, windows)


class _File:
    """The file of a manifest, read part by part. StepDiffError if it changes meanwhile.

    column: of its texts; None of a manifest of clips.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self.path, self._scratch = path, Scratch()
        with readable(path):
            self._seen = self._identity()
            rows = open_file(
                path, (*CLIP_COLUMNS, _TEXT) if column is None else (column,), self._scratch
            )
            head = rows.head(0).collect()
            self.count: int = rows.select(pl.len()).collect().item()
        if not self.count:
            raise StepDiffError(f"{path} has no row: write one for each clip or text")
        self.column = None if _of_clips(head.columns, column) else column or _TEXT
        names = renamed(head, CLIP_COLUMNS if self.column is None else (self.column,), path)
        if self.column is None:
            _check_clips(names, path)
        changed = {
            old: new for old, new in zip(head.columns, names.columns, strict=True) if old != new
        }
        self._rows = rows.rename(changed)

    def batches(self, columns: Sequence[str] = ()) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield all rows, or some columns of them, with the number of the first, _BATCH at a
        time."""
        for first in range(0, self.count, _BATCH):
            rows = self._rows.slice(first, _BATCH)
            with readable(self.path):
                self._check_unchanged()
                batch = (rows.select(columns) if columns else rows).collect()
                self._check_unchanged()
            yield first, batch

    def _check_unchanged(self) -> None:
        if self._identity() != self._seen:
            raise StepDiffError(
                f"manifest {self.path} changed while it was read: run the same command again"
            )

    def _identity(self) -> tuple[int, int, int]:
        state = os.stat(self.path)
        return state.st_ino, state.st_mtime_ns, state.st_size


_Parts = Iterator[tuple[pl.DataFrame, pl.DataFrame]]
"""rows, and of each `group`, whose rows are in one window, and `order`, whose least is the place of
the group"""


def _clips_of(file: _File, columns: Sequence[str] = ()) -> _Parts:
    """Yield clips with their places in the file. Videos of one hash are one group: no row is
    lost."""
    for first, batch in file.batches(columns):
        batch = batch.with_row_index("row", first)
        yield batch, batch.select(group=pl.col("video").str.strip_chars().hash(), order="row")


def _checked(file: _File) -> _Parts:
    """Yield ids and videos of clips. StepDiffError: a row has none of these, or an id occurs
    twice."""
    hashes = np.empty(file.count, np.uint64)
    for batch, seen in _clips_of(file, ("clip", "video")):
        first = batch["row"][0]
        for name in ("clip", "video"):
            empty = batch[name].fill_null("").str.strip_chars() == ""
            if empty.any():
                raise StepDiffError(
                    f"row {first + empty.arg_true()[0] + 1} of {file.path} has no {name}: give it "
                    "one"
                )
        check_rows(batch.drop("row"), str(file.path), first + 1)
        hashes[first : first + batch.height] = batch["clip"].hash().to_numpy()
        yield batch, seen
    hashes.sort()
    if len(again := pl.Series(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]), dtype=pl.UInt64)):
        alike = (
            batch["clip"].filter(batch["clip"].hash().is_in(again.implode()))
            for _, batch in file.batches(["clip"])
        )
        clips = pl.concat(alike)  # of equal hashes the ids are compared
        if len(twice := clips.filter(clips.is_duplicated())):
            raise StepDiffError(f"clip {twice[0]!r} is in {file.path} twice: clip ids are unique")


def _texts_of(file: _File) -> _Parts:
    """Yield texts, repeated ones too, by length; null is an empty text."""
    for _, batch in file.batches([str(file.column)]):
        texts = batch.to_series().alias("text")
        while isinstance(texts.dtype, pl.List):
            texts = texts.filter(texts.list.len() > 0).explode()
        if texts.dtype not in (pl.String, pl.Null):
            raise StepDiffError(
                f"column {file.column!r} of {file.path} holds {texts.dtype}: give a column of "
                "texts with --column"
            )
        rows = texts.cast(pl.String).fill_null("").to_frame()
        length = pl.col("text").str.len_chars()
        yield rows, rows.select(group=length, order=length)


def _of_clips(names: Sequence[str], column: str | None) -> bool:
    """Return whether columns describe clips, or are meant to: an exact name comes before one in
    another case."""
    if column is not None:
        return False
    for there in (set(names), {folded(name) for name in names}):
        if there & {"video", _TEXT}:
            return "video" in there
    return sum(nearest(name, names) is not None for name in CLIP_COLUMNS) >= _MEANT


def _check_clips(frame: pl.DataFrame, path: Path) -> None:
    """Raise StepDiffError if columns of clips have unusable names or types."""
    refuse_twins(frame.columns, path)
    for name in frame.columns:
        if folded(name) in _OWN:
            raise StepDiffError(f"column {name!r} of {path} is the store's own: rename it")
    for name in ("clip", "video"):
        if frame[name].dtype != pl.String:
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write text")
    for name in ("start", "end"):
        if frame[name].dtype.is_nested() or frame[name].dtype in (
            pl.Binary,
            pl.Time,
            pl.Datetime,
            pl.Date,
        ):
            raise StepDiffError(
                f"column {name!r} of {path} holds {frame[name].dtype}: write seconds"
            )


def _clips(frame: pl.DataFrame, path: Path, last: bool = True) -> Manifest:
    """Return rows that were checked, in video order; column `row` is the place of each in the
    file."""
    frame = frame.rename({"clip": "key"}).with_columns(pl.col("video").str.strip_chars())
    for name in ("start", "end"):
        if isinstance(dtype := frame[name].dtype, pl.Duration):
            frame = frame.with_columns(frame[name].to_physical() / _UNITS[dtype.time_unit])
    start, end = frame["start"], frame["end"]
    seconds = pl.DataFrame([_numbers(start), _numbers(end)])
    good = seconds.select(_USABLE)[:, 0]
    columns = (frame["row"], frame["key"], start, end, *seconds)
    failures = {
        key: f"{_fault(*times)}: correct row {row + 1} of {path}"
        for row, key, *times in zip(*(column.filter(~good) for column in columns), strict=True)
    }
    frame = frame.with_columns(
        pl.when(good).then(seconds[time]).alias(time) for time in ("start", "end")
    )
    folder = path.absolute().parent
    paths = {video: folder / video for video in frame["video"].unique(maintain_order=True)}
    return Manifest("clips", _in_video_order(frame).drop("row"), paths, failures, last)


def _in_video_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return clips by video, as these first appear, and by start and end."""
    seen = frame["video"].unique(maintain_order=True)
    order = pl.col("video").replace_strict(seen, pl.int_range(len(seen), eager=True))
    return frame.sort(order, "start", "end", nulls_last=True, maintain_order=True)


_USABLE = (
    (pl.col("start") >= 0) & (pl.col("end") > pl.col("start")) & (pl.col("end") < MOST_SECONDS)
).fill_null(False)  # whether an interval in numbers can be featurized


def _numbers(times: pl.Series) -> pl.Series:
    """Return times as numbers, null if one is not written as a number."""
    if times.dtype == pl.Float64 or times.dtype.is_integer():
        return times.cast(pl.Float64)
    return times.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _fault(start: object, end: object, first: float | None, last: float | None) -> str:
    """Return in words why an interval, as it is written and as numbers, is not usable."""
    for name, written, number in (("start", start, first), ("end", end, last)):
        if number is None or not abs(number) < MOST_SECONDS:
            return f"{name} {written!r} is not a number of seconds below {MOST_SECONDS:,.0f}"
    assert first is not None and last is not None
    return (
        f"start {first:g} is before the video"
        if first < 0
        else f"end {last:g} is not after start {first:g}"
    )


def _texts(rows: pl.DataFrame, path: Path, last: bool = True) -> Manifest:
    """Return each text once, by length."""
    texts = rows["text"].unique(maintain_order=True)
    keys = pl.Series("key", [text_key(text) for text in texts], dtype=pl.String)
    rows = pl.DataFrame([keys, texts.alias("text")]).sort(
        pl.col("text").str.len_chars(), maintain_order=True
    )
    blank = rows.filter(pl.col("text").str.strip_chars() == "")["key"]
    return Manifest(
        "texts", rows, {}, {key: f"a text of {path} is empty: write one" for key in blank}, last
    )


def as_manifest(files: Sequence[Path], id_from: IdFrom = "stem") -> Manifest:
    """Return one clip a file, over its whole length, `<id>_0_<duration>`.

    files: of a folder, all videos below it. id_from: `stem` is the file's name without its suffix,
    `path` the absolute path with it. StepDiffError: a path without a file, a folder without a
    video, or two files of one id.
    """
    seen: dict[str, Path] = {}
    rows: list[tuple[str, str, float | None, float | None]] = []
    failures: dict[str, str] = {}
    for file in chain.from_iterable(map(video_files, files)):
        name = file.stem if id_from == "stem" else str(file.absolute())
        if name in seen:
            if seen[name].absolute() == file.absolute():
                raise StepDiffError(f"{file} is given twice: give it once")
            raise StepDiffError(
                f"{seen[name]} and {file} have the same stem, so their clips the same id: make ids "
                "from paths with --id-from path, or write a manifest"
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


def video_files(path: Path) -> list[Path]:
    """Return the file, or the videos below the folder, by their suffixes, in the order of their
    paths."""
    if not path.exists():
        raise StepDiffError(f"no video {path}: correct its path")
    if not path.is_dir():
        return [path]
    below = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in _VIDEOS)
    files = [file for file in below if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise StepDiffError(
            f"{path} is a folder without a video: give a folder of video files, or the files"
        )
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
