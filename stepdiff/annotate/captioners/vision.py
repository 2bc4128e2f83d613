"""What captioners and detectors of every kind share: pictures of clips, and the form of captions.

Guarantees
- pictures are uncropped and upright, as featurize's own decoder returns them
- a clip that cannot be decoded fails alone, with its reason
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import polars as pl
from PIL import Image

from featurize.video.decode import Clip, Source, decoded_clips
from featurize.video.frames import Sampling
from featurize.video.media_file import shown
from featurize.video.picture import Whole
from stepdiff.annotate.qa.prompts import CaptionKind
from stepdiff.annotate.stages.job import Answer, Failure, Item, plain
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.tars import is_regular

FRAMES: dict[CaptionKind, int] = {"action": 8, "objects": 1}  # of a clip that a model sees (S1)
SHORT_SIDE = 480  # pixels of a picture's short side at most: models see smaller ones
T = TypeVar("T")


def caption(kind: CaptionKind, text: str) -> Answer:
    """Return the answer of a caption, which may be empty: an action in one line, objects one a line."""
    lines = [" ".join(line.split()) for line in plain(text).splitlines()]
    return {kind: (" " if kind == "action" else "\n").join(filter(None, lines))}


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield lists of at most `size`: itertools.batched, which Python 3.11 lacks."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def with_videos(items: pl.DataFrame, folder: str) -> pl.DataFrame:
    """Return the items with absolute paths in the column `video`."""
    root = Path(folder).expanduser().absolute()
    paths = [None if video is None else str(root / video) for video in items["video"]]
    return items.with_columns(video=pl.Series(paths, dtype=pl.String))


def check_videos(blocks: Iterable[pl.DataFrame], folder: str) -> None:
    """Raise StepDiffError if the first video of some items, given in blocks, does not exist in `folder`."""
    known = (items.filter(pl.col("video").is_not_null()).head(1) for items in blocks)
    first = next((with_videos(items, folder)["video"][0] for items in known if items.height), None)
    if first is None or not is_regular(Path(first)):
        missing = "the video of every clip" if first is None else shown(Path(first))
        raise StepDiffError(f"{missing} does not exist: give --videos, the folder that the manifest's paths begin in")


def pictures(
    items: Sequence[Item], count: int, threads: int, failed: dict[str, Failure]
) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield key and `count` pictures of each clip, in the order of their videos; `failed` receives the others.

    items: key, video (path), start, end (seconds). A single picture is that of the clip's centre.
    """
    clips = {}
    for place, item in enumerate(items):
        if item["start"] is None or item["end"] is None:  # featurize could not read them
            failed[item["key"]] = Failure("its start or end is not known: correct the manifest and featurize again")
        elif item["video"] is None:
            failed[item["key"]] = Failure("its video is not known: correct the manifest and featurize again")
        else:
            clips[place] = Source(item["video"], item["start"], item["end"])
    sampling: Sampling = "centre" if count == 1 else "linspace"
    for place, done in decoded_clips(clips, count, Whole(SHORT_SIDE), threads, sampling):
        if isinstance(done, Clip):
            yield items[place]["key"], [Image.fromarray(frame) for frame in done.frames]
        else:
            failed[items[place]["key"]] = Failure(done.reason)
