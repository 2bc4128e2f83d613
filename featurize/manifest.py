"""What is asked for: clips of videos, or texts, from a file.

A manifest (csv, parquet, jsonl) that has a column `video` is one of clips, with `clip`, `video`
(relative to the manifest's folder), `start` and `end` in seconds (or as durations of Parquet), and any
others, which the catalog keeps. Any other, or one whose column of texts is named, is one of texts: a
text or a list of texts a row. How the file is written is read from it (see manifest_file.py).

Video files without a manifest: each is one clip, `<stem>_0_<duration>`, or `<path>_0_<duration>`.

Guarantees
- a manifest that cannot be trusted (unreadable, a column missing, a clip twice, two files of one stem) is refused
  whole, in one line, before anything is written; one bad row, or a file that cannot be opened, fails alone
- clips are in video order: videos as they first appear, their clips by start; texts by length, so that a batch holds
  few tokens that only fill it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from featurize.manifest_file import folded, nearest, read_file, refuse_twins, renamed
from featurize.options import IdFrom
from featurize.video.media_file import BYTES, DIGEST, why
from featurize.video.stream import opened
from featurize.video.timeline import from_packets
from stepdiff.common.errors import StepDiffError
from store import text_key
from store.catalog.catalog import MOST_SECONDS, check_rows

CLIP_COLUMNS = ("clip", "video", "start", "end")
_OWN = ("key", "row", BYTES, DIGEST)  # the catalog's own columns
_TEXT = "text"  # the column of texts by default
_MEANT = 3  # so many of the four columns, or alike, make a manifest one of clips
_UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3}  # of a duration, in a second


@dataclass(frozen=True)
class Manifest:
    """The rows asked for, of one entity: all of them, or one window (see windows.py)."""

    entity: str
    """clips or texts"""
    rows: pl.DataFrame
    """what the catalog keeps: key, and for clips video, start, end (null where unusable) and the
    manifest's other columns; for texts text"""
    paths: dict[str, Path]
    """video, as the manifest writes it -> its absolute path"""
    failures: dict[str, str]
    """key -> why that row cannot be featurized"""
    last: bool = True
    """whether no other window follows"""


def read_manifest(path: Path, column: str | None = None) -> Manifest:
    """Read a manifest; of one of clips too, `column` asks for the texts in it.

    Raises StepDiffError where it is refused whole.
    """
    return parsed(read_file(path, columns_of_interest(column)), path, column)


def columns_of_interest(column: str | None) -> tuple[str, ...]:
    """Return the columns of a file that are read as text; `column` is that of the texts, if the user named one."""
    return (*CLIP_COLUMNS, _TEXT) if column is None else (column,)


def parsed(frame: pl.DataFrame, path: Path, column: str | None) -> Manifest:
    """Return the manifest of all rows of the file `path`. StepDiffError where it is refused whole."""
    if not frame.height:
        raise StepDiffError(f"{path} has no row: write one for each clip or text")
    if of_clips(frame.columns, column):
        frame = renamed(frame, CLIP_COLUMNS, path)
        check_clips(frame, path)
        return clips_of(frame, path)
    return texts_of(texts_in(frame, path, column), path)


def of_clips(names: Sequence[str], column: str | None) -> bool:
    """Whether a file with these columns is one of clips, where `column` is not asked for its texts."""
    return column is None and _is_of_clips(names)


def _is_of_clips(names: Sequence[str]) -> bool:
    """Whether columns are those of clips, or are meant to be: an exact name counts more than one in another case."""
    if "video" in names or _TEXT in names:
        return "video" in names
    there = {folded(name) for name in names}
    if "video" in there or _TEXT in there:
        return "video" in there
    return sum(nearest(name, names) is not None for name in CLIP_COLUMNS) >= _MEANT


def clips_of(frame: pl.DataFrame, path: Path, last: bool = True) -> Manifest:
    """Return rows of a manifest of clips that `check_clips` accepted, in video order.

    `frame` may have a column `row`, the place of each row in the file.
    """
    if "row" not in frame.columns:
        frame = frame.with_row_index("row")
    frame = frame.rename({"clip": "key"}).with_columns(pl.col("video").str.strip_chars())
    start, end = (in_seconds(frame[name]) for name in ("start", "end"))
    frame, seconds = frame.with_columns(start, end), pl.DataFrame([numbers(start), numbers(end)])
    good = seconds.select(usable("start", "end"))[:, 0]
    columns = (frame["row"], frame["key"], start, end, *seconds)
    failures = {
        key: f"{_unusable(*times)}: correct row {row + 1} of {path}"
        for row, key, *times in zip(*(column.filter(~good) for column in columns), strict=True)
    }
    frame = frame.with_columns(pl.when(good).then(seconds[time]).alias(time) for time in ("start", "end"))
    seen = frame["video"].unique(maintain_order=True)
    order = pl.col("video").replace_strict(seen, pl.int_range(len(seen), eager=True))
    frame = frame.sort(order, "start", "end", nulls_last=True, maintain_order=True).drop("row")
    folder = path.absolute().parent
    return Manifest("clips", frame, {video: folder / video for video in seen}, failures, last)


def usable(start: str, end: str) -> pl.Expr:
    """Whether an interval in two columns of numbers can be featurized."""
    ordered = (pl.col(start) >= 0) & (pl.col(end) > pl.col(start)) & (pl.col(end) < MOST_SECONDS)
    return ordered.fill_null(False)


def check_clips(frame: pl.DataFrame, path: Path) -> None:
    """Refuse columns that occur twice, are the store's own or of another type, and what `check_names` refuses.

    Raises StepDiffError.
    """
    refuse_twins(frame.columns, path)
    for name in frame.columns:
        if folded(name) in _OWN:
            raise StepDiffError(f"column {name!r} of {path} is the store's own: rename it")
    check_names(frame, path)
    for name in ("start", "end"):
        if frame[name].dtype.is_nested() or frame[name].dtype in (pl.Binary, pl.Time, pl.Datetime, pl.Date):
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write seconds")
    refuse_twice(frame["clip"], path)


def check_names(frame: pl.DataFrame, path: Path, first: int = 0) -> None:
    """Raise StepDiffError on a row without a clip or video, or with one that no catalog takes.

    `first` is the place of the first row in the file.
    """
    for name in ("clip", "video"):
        if frame[name].dtype != pl.String:
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write text")
        empty = frame[name].fill_null("").str.strip_chars() == ""
        if empty.any():
            raise StepDiffError(f"row {first + empty.arg_true()[0] + 1} of {path} has no {name}: give it one")
    check_rows(frame.select("clip", "video"), str(path), first + 1)


def refuse_twice(clips: pl.Series, path: Path) -> None:
    """Raise StepDiffError if a clip occurs twice."""
    twice = clips.filter(clips.is_duplicated())
    if len(twice):
        raise StepDiffError(f"clip {twice[0]!r} is in {path} twice: clip ids are unique")


def in_seconds(times: pl.Series) -> pl.Series:
    """A column of durations as numbers of seconds; any other is left as it is."""
    return times.to_physical() / _UNITS[times.dtype.time_unit] if isinstance(times.dtype, pl.Duration) else times


def numbers(times: pl.Series) -> pl.Series:
    """Times as numbers, null where one is not written as a number."""
    if times.dtype == pl.Float64 or times.dtype.is_integer():
        return times.cast(pl.Float64)
    return times.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _unusable(start: object, end: object, first: float | None, last: float | None) -> str | None:
    """Why an interval is none, in words."""
    for name, written, number in (("start", start, first), ("end", end, last)):
        if number is None or not abs(number) < MOST_SECONDS:
            return f"{name} {written!r} is not a number of seconds below {MOST_SECONDS:,.0f}"
    assert first is not None and last is not None
    if first < 0:
        return f"start {first:g} is before the video"
    if last <= first:
        return f"end {last:g} is not after start {first:g}"
    return None


def texts_in(frame: pl.DataFrame, path: Path, column: str | None) -> pl.Series:
    """Return the texts of a file in its order, repeated ones too; null is an empty text."""
    column = column or _TEXT
    texts = renamed(frame, (column,), path).select(pl.col(column).alias("text"))
    while isinstance(texts["text"].dtype, pl.List | pl.Array):
        texts = texts.filter(pl.col("text").list.len() > 0).explode("text")
    if texts["text"].dtype not in (pl.String, pl.Null):
        raise StepDiffError(
            f"column {column!r} of {path} holds {texts['text'].dtype}: give a column of texts with --column"
        )
    return texts["text"].cast(pl.String).fill_null("")


def texts_of(texts: pl.Series, path: Path, last: bool = True) -> Manifest:
    """Return each text once, by length."""
    texts = texts.unique(maintain_order=True)
    keys = pl.Series("key", [text_key(text) for text in texts], dtype=pl.String)
    rows = pl.DataFrame([keys, texts.alias("text")]).sort(pl.col("text").str.len_chars(), maintain_order=True)
    blank = rows.filter(pl.col("text").str.strip_chars() == "")["key"]
    return Manifest("texts", rows, {}, {key: f"a text of {path} is empty: write one" for key in blank}, last)


def as_manifest(files: Sequence[Path], id_from: IdFrom = "stem") -> Manifest:
    """Return one clip a file, over its whole length.

    Args:
        files: the video files.
        id_from: `stem` is the file's name without its suffix, `path` the absolute path with it.

    Raises:
        StepDiffError: a path where no file is, or two files of one id.
    """
    seen: dict[str, Path] = {}
    rows: list[tuple[str, str, float | None, float | None]] = []
    failures: dict[str, str] = {}
    for file in files:
        if not file.exists():
            raise StepDiffError(f"no video {file}: correct its path")
        if not file.is_file():
            what = "folder: give the video files in it" if file.is_dir() else "device or pipe: give a video file"
            raise StepDiffError(f"{file} is a {what}")
        name = file.stem if id_from == "stem" else str(file.absolute())
        if name in seen:
            raise StepDiffError(_twice(seen[name], file))
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


def unreadable(path: Path) -> str | None:
    """Return why a file does not open as a video, None if it does."""
    try:
        with opened(path):
            return None
    except Exception as error:  # whatever FFmpeg or PyAV raises, the file is no video
        return why(path, error)


def unreadable_reason(asked: Manifest, keys: pl.Series, tried: set[str]) -> str | None:
    """Return why the first of the clips `keys` cannot be computed; None if one of them can.

    The files are opened in turn until one is a video. `tried` are videos that do not open.
    """
    first = ""
    videos = asked.rows.filter(pl.col("key").is_in(keys.implode()))
    for key, video in videos.select("key", "video").iter_rows():
        if reason := asked.failures.get(key):
            first = first or reason
        elif video not in tried:
            tried.add(video)
            found = unreadable(asked.paths[video])
            if found is None:
                return None
            first = first or found
    return first


def _twice(first: Path, second: Path) -> str:
    """Why two files cannot both be clips."""
    if first.absolute() == second.absolute():
        return f"{second} is given twice: give it once"
    return (
        f"{first} and {second} have the same stem, so their clips the same id: make ids from paths with "
        "--id-from path, or write a manifest"
    )


def length(file: Path) -> float:
    """Return the seconds of a video by its header, else by its frames; 1 for a still image."""
    with opened(file) as video:
        if video.is_still:
            return 1.0
        if video.promised > 0:
            return video.promised
    return from_packets(file).end
