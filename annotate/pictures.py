"""Pictures of clips, out of their videos.

Guarantees
- pictures are whole and upright, those of featurize's own decoder
- a clip that cannot be decoded fails alone, with its reason
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import UInt8
from PIL import Image

from annotate.stages.job import Failure, Item
from common.errors import StepDiffError
from featurize.task import Source
from featurize.video.decode import Clip
from featurize.video.frames import Sampling
from featurize.video.media_file import shown
from featurize.video.picture import Whole
from featurize.video.threads import decoded_clips

SHORT_SIDE = 480
"""pixels of a picture's short side at most: what models see is smaller"""


def with_videos(items: pl.DataFrame, folder: str) -> pl.DataFrame:
    """Absolute paths in the column `video`. StepDiffError where the first is not there."""
    root = Path(folder).expanduser().absolute()
    paths = [None if video is None else str(root / video) for video in items["video"]]
    found = items.with_columns(video=pl.Series(paths, dtype=pl.String))
    first = next(filter(None, paths), None)
    if first is None or not os.path.exists(first):
        missing = "the video of every clip" if first is None else shown(Path(first))
        raise StepDiffError(f"{missing} does not exist: give --videos, the folder that the manifest's paths begin in")
    return found


def pictures(items: Sequence[Item], count: int, threads: int) -> Iterator[tuple[str, list[Image.Image] | Failure]]:
    """Key and `count` pictures of each clip, or why there are none, in the order of their videos.

    items: key, video (path), start, end (seconds). One picture is that of the clip's centre.
    """
    clips = {}
    for place, item in enumerate(items):
        if item["start"] is None or item["end"] is None:  # what featurize could not read
            yield item["key"], Failure("its start or end is not known: correct it in the manifest and featurize again")
        elif item["video"] is None:
            yield item["key"], Failure("its video is not known: correct it in the manifest and featurize again")
        else:
            clips[place] = Source(item["video"], item["start"], item["end"])
    sampling: Sampling = "centre" if count == 1 else "linspace"
    for place, done in decoded_clips(clips, count, Whole(SHORT_SIDE), threads, sampling):
        key = items[place]["key"]
        yield key, _images(done.frames) if isinstance(done, Clip) else Failure(done.reason)


def _images(frames: UInt8[np.ndarray, "frames height width 3"]) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]
