"""Clips of many videos, decoded by threads before they are encoded.

Guarantees
- every row is returned once
- at most QUEUED finished clips wait; a caller who stops early stops the threads
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from common.threads import prefetched
from featurize.task import Source
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.frames import Sampling
from featurize.video.picture import Picture

QUEUED = 16


def decoded_clips(
    clips: Mapping[int, Source], count: int, crop: Picture, threads: int = 1, sampling: Sampling = "linspace"
) -> Iterator[tuple[int, Clip | Failure]]:
    """Yield row and clip, or failure, as they become complete; video by video in the order of rows."""
    by_video: dict[str, list[int]] = {}
    for row in sorted(clips):
        by_video.setdefault(clips[row].video, []).append(row)

    def decode(video: str, rows: list[int]) -> Iterator[tuple[int, Clip | Failure]]:
        intervals = [(clips[row].start, clips[row].end) for row in rows]
        for done in read_clips(Path(video), intervals, count, crop, sampling=sampling):
            yield rows[done.index], done

    yield from prefetched((decode(*video) for video in by_video.items()), threads, QUEUED)
