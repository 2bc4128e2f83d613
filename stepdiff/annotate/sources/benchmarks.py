"""The clips of a benchmark and the videos of them that are on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from featurize.manifest import length
from featurize.video.media_file import why
from stepdiff.annotate.sources.blocks import place_of
from stepdiff.common.progress import progress
from stepdiff.tasks.spec import ClipFile


@dataclass
class OnDisk:
    """What of a benchmark can be featurized."""

    frame: pl.DataFrame
    """clip, video (path from the folder of the manifest), start, end, further columns, split"""
    clips: int
    """of the benchmark"""
    videos: int
    missing: list[str] = field(default_factory=list)
    """videos that are not on disk"""
    unreadable: dict[str, str] = field(default_factory=dict)
    """video -> why its file does not open"""


def on_disk(clips: Iterable[ClipFile], pattern: str, folder: Path) -> OnDisk:
    """Return the clips whose videos are on disk.

    Args:
        clips: Those of a benchmark.
        pattern: Path of a video from `folder`, with {video} in the place of the benchmark's own path.
        folder: That of the manifest.
    """
    asked = list(clips)
    ends: dict[str, float] = {}
    found = OnDisk(pl.DataFrame(), len(asked), len({clip.video for clip in asked}))
    rows: list[dict[str, Any]] = []
    with progress("videos on disk", found.videos, "videos") as advance:
        for video in dict.fromkeys(clip.video for clip in asked):
            file = folder / place_of(pattern, video)
            if not file.exists():
                found.missing.append(video)
            else:
                try:
                    ends[video] = length(file)
                except Exception as error:  # whatever FFmpeg or PyAV raises, the file is not a video
                    found.unreadable[video] = why(file, error)
            advance(1)
    for clip in asked:
        if clip.video in ends:
            end = ends[clip.video] if clip.end is None else clip.end
            place = {"clip": clip.clip, "video": place_of(pattern, clip.video)}
            rows.append({**place, "start": clip.start or 0.0, "end": end, **clip.metadata, "split": "test"})
    found.frame = pl.DataFrame(rows, infer_schema_length=None)
    return found
