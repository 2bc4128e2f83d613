"""Videos to measure on: rendered kitchen videos of a few clips each, and one long video of many clips.

Made once in a folder and found there again.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import polars as pl
from av.video.frame import PictureType

from featurize.video.decode import Source

_WIDTH, _HEIGHT, _RATE = 640, 360, 24
_SECONDS = 4.0  # of a clip of the long video
_KITCHEN_GOP = 24
_CLIPS = 4  # of a kitchen video, about


@dataclass(frozen=True)
class Footage:
    """Clips of videos."""

    name: str
    gop: int
    """frames from keyframe to keyframe"""
    clips: tuple[Source, ...]
    """in the order of the videos"""

    @property
    def videos(self) -> list[str]:
        """Each video once."""
        return list(dict.fromkeys(clip.video for clip in self.clips))


def kitchen(folder: Path, count: int) -> Footage:
    """`count` clips of kitchen videos as `python -m kitchen` renders them: 384 x 288, 12 frames/s."""
    from kitchen.__main__ import Options, run

    videos = -(-count // _CLIPS) + 2
    out = folder / f"kitchen_{videos}"
    run(Options(out, videos=videos))
    table = pl.read_csv(out / "clips.csv").head(count)
    clips = [Source(str(out / row["video"]), row["start"], row["end"]) for row in table.iter_rows(named=True)]
    return Footage("kitchen videos", _KITCHEN_GOP, tuple(clips))


def long_video(folder: Path, count: int, gop: int) -> Footage:
    """One video of `count` clips back to back, 640 x 360, 24 frames/s, a keyframe every `gop` frames."""
    path = folder / f"long_{count}_{gop}.mp4"
    if not path.exists():
        _write(path, kitchen(folder, count).videos, round(count * _SECONDS * _RATE), gop)
    clips = [Source(str(path), i * _SECONDS, (i + 1) * _SECONDS) for i in range(count)]
    return Footage("one long video", gop, tuple(clips))


def _write(path: Path, videos: list[str], frames: int, gop: int) -> None:
    temporary = path.with_suffix(".part")
    fixed = {"crf": "20", "preset": "veryfast", "g": str(gop), "sc_threshold": "0"}
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_RATE, options=fixed)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for number, frame in enumerate(islice(_frames(videos), frames)):
            picture = frame.reformat(_WIDTH, _HEIGHT)
            picture.pts, picture.time_base = number, Fraction(1, _RATE)
            picture.pict_type = PictureType.NONE  # else the encoder makes keyframes where the source had them
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    os.replace(temporary, path)


def _frames(videos: list[str]) -> Iterator[av.VideoFrame]:
    """Frames of the videos, again and again."""
    for video in cycle(videos):
        with av.open(video) as container:
            yield from container.decode(video=0)
