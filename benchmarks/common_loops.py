"""What is usually written to extract features: a seek for each clip, the forward pass, numpy.save.

The chosen frames alone are converted, and the encoder sees a clip at a time.
"""

import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from featurize.encoders import Encoder
from featurize.video.decode import Source
from featurize.video.frames import chosen

Frames = UInt8[np.ndarray, "T size size 3"]
Read = Callable[[Source, Encoder], Frames]


def loop(read: Read, clips: tuple[Source, ...], encoder: Encoder, folder: Path) -> float:
    """Run it; the seconds that `read` took."""
    reading = 0.0
    for number, clip in enumerate(clips):
        start = time.perf_counter()
        frames = read(clip, encoder)
        reading += time.perf_counter() - start
        for name, values in encoder.encode_clips(frames[None]).items():
            np.save(folder / f"{number}_{name}.npy", values[0].astype(np.float16))
    return reading


def with_pyav(clip: Source, encoder: Encoder) -> Frames:
    """Seek to the keyframe before the clip, decode to its end."""
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
    """The frames by their numbers."""
    from decord import VideoReader, cpu

    reader = VideoReader(clip.video, ctx=cpu(0), num_threads=1)
    rate = reader.get_avg_fps()
    first = int(np.ceil(clip.start * rate))
    behind = min(int(np.ceil(clip.end * rate)), len(reader))
    pictures = reader.get_batch((first + chosen(behind - first, encoder.frames)).tolist()).asnumpy()
    return np.stack([_square(picture, encoder) for picture in pictures])


def _square(picture: UInt8[np.ndarray, "h w 3"], encoder: Encoder) -> UInt8[np.ndarray, "size size 3"]:
    """Short side resized, centre cropped."""
    height, width = picture.shape[:2]
    short, size = min(height, width), encoder.size
    resized = Image.fromarray(picture).resize(
        (width * encoder.short_side // short, height * encoder.short_side // short), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))
