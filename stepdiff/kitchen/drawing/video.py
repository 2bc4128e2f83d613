"""One planned video as H.264, and stills of its training clips.

Guarantees
- the same plan gives the same bytes (one encoder thread, no time stamps of the day);
- a video file appears whole or not at all, and only after its stills.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stepdiff.kitchen.drawing.pen import HEIGHT, SCALE, WIDTH
from stepdiff.kitchen.drawing.scenes import backdrop, frame, moment
from stepdiff.kitchen.drawing.voice import RATE, Voice, frames, sound
from stepdiff.kitchen.steps import MAIN
from stepdiff.kitchen.world import FPS, Clip, Video
from stepdiff_core.io.files import whole

_X264 = {"crf": "20", "preset": "veryfast", "threads": "1", "g": "24"}
STILLS = (0.3, 0.75)
"""Fractions of the step's own action at which stills are taken; only every second clip gives
both."""


def stills(video: Video) -> list[tuple[str, Clip, float]]:
    """Return name, clip and seconds into the clip of every still of a training video."""
    if video.split != "train":
        return []
    moments = []
    for i, clip in enumerate(video.clips):
        for letter, share in zip("ab", STILLS[: 1 + (i % 2)], strict=False):
            moments.append((f"{video.uid}-{i}{letter}", clip, _own_time(clip, share)))
    return moments


def _own_time(clip: Clip, share: float) -> float:
    """Return the seconds into the clip at which its own action is `share` done."""
    length = clip.end - clip.start
    times = [k / FPS for k in range(round(length * FPS))]
    truth = clip.truth
    action_times = [
        t for t in times if moment(truth.sequence, truth.speed, length, t).action == MAIN
    ]
    return action_times[int(share * len(action_times))]


def draw(clip: Clip, video: Video, now: float, base: Image.Image | None = None) -> Image.Image:
    """Draw the picture `now` seconds into a clip, at full size."""
    truth = clip.truth
    image = (base or backdrop(truth, video.look, clip.id)).copy()
    at = moment(truth.sequence, truth.speed, clip.end - clip.start, now)
    frame(image, truth, video.look, at, clip.id)
    return image.reduce(SCALE)


def montage(videos: Sequence[Video]) -> Image.Image:
    """Return one picture of the middle of the first clips of four videos, or fewer."""
    shown = [(video.clips[0], video) for video in videos[:4]]
    whole_picture = Image.new("RGB", (2 * WIDTH, HEIGHT * -(-len(shown) // 2)))
    for number, (clip, video) in enumerate(shown):
        picture = draw(clip, video, _own_time(clip, 0.5))
        whole_picture.paste(picture, (number % 2 * WIDTH, number // 2 * HEIGHT))
    return whole_picture


def pictures(video: Video, fps: int = FPS) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield every frame of a video in order; frames between clips show the scene of the next
    one."""
    done = 0
    for clip in video.clips:
        base = backdrop(clip.truth, video.look, clip.id)
        rest = np.asarray(base.reduce(SCALE))
        yield from repeat(rest, round(clip.start * fps) - done)
        for k in range(round((clip.end - clip.start) * fps)):
            yield np.asarray(draw(clip, video, k / fps, base))
        done = round(clip.end * fps)
    yield from repeat(rest, round(video.duration * fps) - done)


def render(video: Video, out: Path, fps: int = FPS, voice: Voice | None = None) -> int:
    """Write stills and the video below `out`, with its narration as sound if there is a `voice`;
    returns the number of frames."""
    for name, clip, now in stills(video):
        with whole(out / "images" / f"{name}.jpg") as temporary, temporary.open("wb") as file:
            draw(clip, video, now).save(file, "JPEG", quality=90)
    count = 0
    with (
        whole(out / "videos" / f"{video.uid}.mp4") as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=fps, options=_X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        if voice is not None:
            track = container.add_stream("aac", rate=RATE, layout="mono")
            for frame_of_sound in frames(sound(video, voice)):
                container.mux(track.encode(frame_of_sound))
            container.mux(track.encode(None))
        for picture in pictures(video, fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            count += 1
        container.mux(stream.encode(None))
    return count
