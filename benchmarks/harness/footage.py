"""Videos to measure on, and the loop that is usually written to extract features of their clips.

The videos are rendered kitchen videos of a few clips each, and one long video of many clips. They are made once in a
folder, and reused. The loop seeks each clip, converts only the chosen frames, and encodes one clip at a time.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
import polars as pl
from av.video.frame import PictureType
from jaxtyping import UInt8
from PIL import Image

from featurize.encoders import Encoder
from featurize.video.decode import Source
from featurize.video.frames import chosen

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
        """Return each video once."""
        return list(dict.fromkeys(clip.video for clip in self.clips))


def kitchen(folder: Path, count: int) -> Footage:
    """Render `count` clips of kitchen videos as `stepdiff kitchen` renders them: 384 x 288, 12 frames/s."""
    from stepdiff.kitchen.__main__ import Options, run

    videos = -(-count // _CLIPS) + 2
    out = folder / f"kitchen_{videos}"
    run(Options(out, videos=videos))
    table = pl.read_csv(out / "clips.csv").head(count)
    clips = [Source(str(out / row["video"]), row["start"], row["end"]) for row in table.iter_rows(named=True)]
    return Footage("kitchen videos", _KITCHEN_GOP, tuple(clips))


def long_video(folder: Path, count: int, gop: int) -> Footage:
    """Encode one video of `count` clips in a row, 640 x 360, 24 frames/s, a keyframe every `gop` frames."""
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
    """Yield the frames of the videos, again and again."""
    for video in cycle(videos):
        with av.open(video) as container:
            yield from container.decode(video=0)


Frames = UInt8[np.ndarray, "T size size 3"]
Read = Callable[[Source, Encoder], Frames]


def loop(read: Read, clips: tuple[Source, ...], encoder: Encoder, folder: Path) -> None:
    """Read and encode every clip, and save its features with numpy."""
    for number, clip in enumerate(clips):
        for name, values in encoder.encode_clips(read(clip, encoder)[None]).items():
            np.save(folder / f"{number}_{name}.npy", values[0].astype(np.float16))


def with_pyav(clip: Source, encoder: Encoder) -> Frames:
    """Seek to the keyframe before the clip, and decode to its end."""
    with av.open(clip.video) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(clip.start / stream.time_base), stream=stream)
        inside = []
        for frame in container.decode(stream):
            if frame.time >= clip.end:
                break
            if frame.time >= clip.start:
                inside.append(frame)
    return np.stack(
        [_square(inside[i].to_ndarray(format="rgb24"), encoder) for i in chosen(len(inside), encoder.frames)]
    )


def with_decord(clip: Source, encoder: Encoder) -> Frames:
    """Read the frames by their numbers."""
    from decord import VideoReader, cpu

    reader = VideoReader(clip.video, ctx=cpu(0), num_threads=1)
    rate = reader.get_avg_fps()
    first = int(np.ceil(clip.start * rate))
    past = min(int(np.ceil(clip.end * rate)), len(reader))
    pictures = reader.get_batch((first + chosen(past - first, encoder.frames)).tolist()).asnumpy()
    return np.stack([_square(picture, encoder) for picture in pictures])


def _square(picture: UInt8[np.ndarray, "h w 3"], encoder: Encoder) -> UInt8[np.ndarray, "size size 3"]:
    """Resize the short side and crop the centre."""
    height, width = picture.shape[:2]
    short, size = min(height, width), encoder.size
    resized = Image.fromarray(picture).resize(
        (width * encoder.short_side // short, height * encoder.short_side // short), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))
