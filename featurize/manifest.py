"""What is asked for: clips of videos, or texts, from a file.

A manifest (csv, parquet, jsonl) that has a column `video` is one of clips, with `clip`, `video`
(relative to the manifest's folder), `start` and `end` in seconds (or as durations of Parquet), and any
others, which the catalog keeps. Any other, or one whose column of texts is named, is one of texts: a
text or a list of texts a row. How the file is written is read from it (see manifest_file.py).

Video files without a manifest: each is one clip, `<stem>_0_<duration>`, or `<path>_0_<duration>`.

Guarantees
- a manifest that cannot be trusted (unreadable, a column missing, a clip twice) is refused whole,
  in one line, before anything is written
- one bad row (no text, an interval that is none) fails alone, with its reason
- clips are in video order: videos as they first appear, their clips by start; texts by length, so
  that a batch holds few tokens that only fill it
- two files of the same stem are refused, unless ids are made from paths
- a folder, and a path where nothing is, are refused
- a file that cannot be opened still is a clip, so that its failure is recorded
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from common.errors import StepDiffError
from featurize.manifest_file import folded, nearest, read_file, refuse_twins, renamed
from featurize.options import IdFrom
from featurize.video.media_file import BYTES, DIGEST, why
from featurize.video.stream import opened
from featurize.video.timeline import from_packets
from store import text_key

_CLIP_COLUMNS = ("clip", "video", "start", "end")
_OWN = ("key", "row", BYTES, DIGEST)  # the catalog's own columns
_TEXT = "text"  # the column of texts by default
_MEANT = 3  # so many of the four columns, or alike, make a manifest one of clips
_UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3}  # of a duration, in a second

"""what the id of a video file's clip is made from"""


@dataclass(frozen=True)
class Manifest:
    """The rows asked for, of one entity."""

    entity: str
    """clips or texts"""
    rows: pl.DataFrame
    """what the catalog keeps: key, and for clips video, start, end (null where unusable) and the
    manifest's other columns; for texts text"""
    paths: dict[str, Path]
    """video, as the manifest writes it -> its absolute path"""
    failures: dict[str, str]
    """key -> why that row cannot be featurized"""


def read_manifest(path: Path, column: str | None = None) -> Manifest:
    """Read a manifest; of one of clips too, `column` asks for the texts in it.

    Raises StepDiffError where it is refused whole.
    """
    frame = read_file(path, (*_CLIP_COLUMNS, _TEXT) if column is None else (column,))
    if not frame.height:
        raise StepDiffError(f"{path} has no row: write one for each clip or text")
    if column is None and _is_of_clips(frame.columns):
        return _clips(frame, path)
    return _texts(frame, path, column or _TEXT)


def _is_of_clips(names: Sequence[str]) -> bool:
    """Whether columns are those of clips, or are meant to be: an exact name counts more than one in another case."""
    if "video" in names or _TEXT in names:
        return "video" in names
    there = {folded(name) for name in names}
    if "video" in there or _TEXT in there:
        return "video" in there
    return sum(nearest(name, names) is not None for name in _CLIP_COLUMNS) >= _MEANT


def _clips(frame: pl.DataFrame, path: Path) -> Manifest:
    frame = renamed(frame, _CLIP_COLUMNS, path)
    _check_names(frame, path)
    frame = frame.rename({"clip": "key"}).with_columns(pl.col("video").str.strip_chars())
    frame = frame.with_columns(_in_seconds(frame[name]) for name in ("start", "end"))
    seconds = frame.select(pl.col("start", "end").cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False))
    failures: dict[str, str] = {}
    written = zip(frame["key"], frame["start"], frame["end"], strict=True)
    for row, ((key, *times), numbers) in enumerate(zip(written, seconds.iter_rows(), strict=True), 1):
        if reason := _unusable(*times, *numbers):
            failures[key] = f"{reason}: correct row {row} of {path}"
    usable = ~pl.col("key").is_in(list(failures))
    frame = frame.with_columns(pl.when(usable).then(seconds[time]).alias(time) for time in ("start", "end"))
    seen = frame["video"].unique(maintain_order=True)
    order = pl.col("video").replace_strict(seen, pl.int_range(len(seen), eager=True))
    frame = frame.sort(order, "start", "end", nulls_last=True, maintain_order=True)
    folder = path.absolute().parent
    return Manifest("clips", frame, {video: folder / video for video in seen}, failures)


def _check_names(frame: pl.DataFrame, path: Path) -> None:
    """StepDiffError on a column that is there twice or the store's own, a row without a name, a clip twice."""
    refuse_twins(frame.columns, path)
    for name in frame.columns:
        if folded(name) in _OWN:
            raise StepDiffError(f"column {name!r} of {path} is the store's own: rename it")
    for name in ("clip", "video"):
        if frame[name].dtype != pl.String:
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write text")
        empty = frame[name].fill_null("").str.strip_chars() == ""
        if empty.any():
            raise StepDiffError(f"row {empty.arg_true()[0] + 1} of {path} has no {name}: give it one")
    for name in ("start", "end"):
        if frame[name].dtype.is_nested() or frame[name].dtype in (pl.Binary, pl.Time, pl.Datetime, pl.Date):
            raise StepDiffError(f"column {name!r} of {path} holds {frame[name].dtype}: write seconds")
    twice = frame.filter(pl.col("clip").is_duplicated())["clip"]
    if len(twice):
        raise StepDiffError(f"clip {twice[0]!r} is in {path} twice: clip ids are unique")


def _in_seconds(times: pl.Series) -> pl.Series:
    """A column of durations as numbers of seconds; any other is left as it is."""
    return times.to_physical() / _UNITS[times.dtype.time_unit] if isinstance(times.dtype, pl.Duration) else times


def _unusable(start: object, end: object, first: float | None, last: float | None) -> str | None:
    """Why an interval is none, in words."""
    for name, written, number in (("start", start, first), ("end", end, last)):
        if number is None or not abs(number) < float("inf"):
            return f"{name} {written!r} is not a number of seconds"
    assert first is not None and last is not None
    if first < 0:
        return f"start {first:g} is before the video"
    if last <= first:
        return f"end {last:g} is not after start {first:g}"
    return None


def _texts(frame: pl.DataFrame, path: Path, column: str) -> Manifest:
    texts = renamed(frame, (column,), path).select(pl.col(column).alias("text"))
    while isinstance(texts["text"].dtype, pl.List | pl.Array):
        texts = texts.filter(pl.col("text").list.len() > 0).explode("text")
    if texts["text"].dtype not in (pl.String, pl.Null):
        raise StepDiffError(
            f"column {column!r} of {path} holds {texts['text'].dtype}: give a column of texts with --column"
        )
    texts = texts.select(pl.col("text").cast(pl.String).fill_null("")).unique(maintain_order=True)
    keys = pl.Series("key", [text_key(text) for text in texts["text"]], dtype=pl.String)
    rows = texts.with_columns(keys).select("key", "text").sort(pl.col("text").str.len_chars(), maintain_order=True)
    blank = rows.filter(pl.col("text").str.strip_chars() == "")["key"]
    return Manifest("texts", rows, {}, {key: f"a text of {path} is empty: write one" for key in blank})


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
            end = _length(file)
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


def refuse_all_unreadable(asked: Manifest, keys: Sequence[str]) -> None:
    """Raise StepDiffError if none of the clips `keys` can be computed: bad intervals, or files that do not open.

    The files are opened in turn until one is a video.
    """
    reasons: dict[str, str] = {}
    tried: set[str] = set()
    videos = dict(asked.rows.select("key", "video").iter_rows())
    for key in keys:
        if reason := asked.failures.get(key):
            reasons[key] = reason
        elif videos[key] not in tried:
            tried.add(videos[key])
            found = unreadable(asked.paths[videos[key]])
            if found is None:
                return
            reasons[key] = found
    if keys:
        first = next(iter(reasons.values()))
        many = f"none of {len(keys)} clips can be computed; the first: " if len(keys) > 1 else ""
        raise StepDiffError(many + first)


def _twice(first: Path, second: Path) -> str:
    """Why two files cannot both be clips."""
    if first.absolute() == second.absolute():
        return f"{second} is given twice: give it once"
    return (
        f"{first} and {second} have the same stem, so their clips the same id: make ids from paths with "
        "--id-from path, or write a manifest"
    )


def _length(file: Path) -> float:
    """Seconds by the header, else by the frames; 1 for a still image."""
    with opened(file) as video:
        if video.is_still:
            return 1.0
        if video.promised > 0:
            return video.promised
    return from_packets(file).end
