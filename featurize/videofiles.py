"""Video files without a manifest: each is one clip, `<stem>_0_<duration>`, or `<path>_0_<duration>`.

Guarantees
- two files of the same stem are refused, unless ids are made from paths
- a folder, and a path where nothing is, are refused
- a file that cannot be opened still is a clip, so that its failure is recorded
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from common.errors import StepDiffError
from featurize.manifest import Manifest
from featurize.options import IdFrom
from featurize.video.media_file import why
from featurize.video.stream import opened
from featurize.video.timeline import from_packets


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
