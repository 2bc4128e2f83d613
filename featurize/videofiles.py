"""Video files without a manifest: each is one clip, `<stem>_0_<duration>`.

Guarantees
- two files of the same stem are refused
- a file that cannot be opened still is a clip, so that its failure is recorded
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from featurize.errors import FeaturizeError
from featurize.manifest import Manifest
from featurize.media_file import why
from featurize.timeline import from_packets
from featurize.video import opened


def as_manifest(files: Sequence[Path]) -> Manifest:
    """One clip a file, over its whole length. FeaturizeError on a missing file or equal stems."""
    seen: dict[str, Path] = {}
    rows: list[tuple[str, str, float | None, float | None]] = []
    failures: dict[str, str] = {}
    for file in files:
        if not file.exists():
            raise FeaturizeError(f"no video {file}: correct its path")
        if file.stem in seen:
            raise FeaturizeError(
                f"{seen[file.stem]} and {file} have the same stem, so their clips the same id: write a manifest"
            )
        seen[file.stem] = file
        try:
            end = _length(file)
            rows.append((f"{file.stem}_0_{end:.3f}", str(file.absolute()), 0.0, end))
        except Exception as error:  # whatever FFmpeg or PyAV raises, the file fails alone
            rows.append((f"{file.stem}_0_{0:.3f}", str(file.absolute()), None, None))
            failures[rows[-1][0]] = why(file, error)
    schema = {"key": pl.String, "video": pl.String, "start": pl.Float64, "end": pl.Float64}
    frame = pl.DataFrame(rows, schema, orient="row")
    return Manifest("clips", frame, {video: Path(video) for video in frame["video"]}, failures)


def _length(file: Path) -> float:
    """Seconds by the header, else by the frames; 1 for a still image."""
    with opened(file) as video:
        if video.is_still:
            return 1.0
        if video.promised > 0:
            return video.promised
    return from_packets(file).end
