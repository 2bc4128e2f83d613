"""A clip as a file that browsers play, and as still pictures.

Guarantees
- a cut clip has exactly the frames with start <= time < end at their times in the video
- a cut clip is never larger than MOST_PIXELS on its long side
"""

from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from PIL import Image

from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Whole, pixels_of
from featurize.video.stream import Video, opened
from stepdiff.common.errors import StepDiffError

MOST_PIXELS = 960
"""of the long side of a cut clip"""
MOST_SECONDS = 600.0
"""of a clip that is cut"""
_EVERY = 12
"""frames between keyframes: a player that seeks decodes at most so many"""
_QUALITY = "23"
_SLACK = 1e-6  # seconds; times of the catalog are rounded


def cut(path: Path, start: float, end: float, out: Path) -> None:
    """Write the part of a video between two times, in seconds, as H.264 with AAC sound in MP4.

    Raises:
        StepDiffError: The video cannot be read, has no frame there, or the clip is too long.
    """
    if not 0 < end - start <= MOST_SECONDS:
        raise StepDiffError(
            f"a clip of {end - start:g} s is not shown: it must have more than 0 and at most {MOST_SECONDS:g} s"
        )
    with opened(path) as video, av.open(str(out), "w", options={"movflags": "+faststart"}) as target:
        try:
            _Cut(video, target, start, end).run()
        except av.error.FFmpegError as error:
            raise StepDiffError(f"{path.name} cannot be cut from {start:g} to {end:g} s ({error})") from error


class _Cut:
    """One cut: decoded frames and sound go to the encoders."""

    def __init__(self, video: Video, target: av.container.OutputContainer, start: float, end: float) -> None:
        self._video, self._target = video, target
        self._start, self._end = start, end
        self._picture = target.add_stream("libx264", rate=round(video.rate) or 25)
        self._picture.options = {"crf": _QUALITY, "preset": "veryfast", "bf": "0", "g": str(_EVERY)}
        self._picture.pix_fmt = "yuv420p"
        self._picture.time_base = video.tick
        self._picture.codec_context.time_base = video.tick
        self._sound = next(iter(video.container.streams.audio), None)
        self._target_sound: AudioStream | None = None
        if self._sound is not None and self._sound.codec_context is not None:
            self._target_sound = target.add_stream("aac", rate=self._sound.codec_context.sample_rate or 44100)
            self._target_sound.layout = "stereo"
        self._zero = float(self._video.zero * self._video.tick)  # seconds
        self._frames = 0

    def run(self) -> None:
        """Decode from the keyframe before the start until both streams are past the end."""
        container, stream = self._video.container, self._video.stream
        container.seek(self._video.zero + int(Fraction(self._start) / self._video.tick), stream=stream)
        streams = [stream] if self._target_sound is None else [stream, self._sound]
        done: set[int] = set()
        for packet in container.demux(*streams):
            if packet.stream.index in done:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                time = float(frame.time or 0.0) - self._zero
                if time >= self._end - _SLACK:
                    done.add(packet.stream.index)
                    break
                if isinstance(frame, av.VideoFrame):
                    if time >= self._start - _SLACK:
                        self._show(frame)
                elif time >= self._start:
                    self._hear(frame)
            if len(done) == len(streams):
                break
        if not self._frames:
            raise StepDiffError(f"{self._video.path.name} has no frame from {self._start:g} to {self._end:g} s")
        self._target.mux(self._picture.encode(None))
        if self._target_sound is not None and self._target_sound.codec_context.is_open:
            self._target.mux(self._target_sound.encode(None))

    def _show(self, frame: av.VideoFrame) -> None:
        pixels = _even(pixels_of(frame, Whole(10**6)))
        if not self._frames:
            self._picture.height, self._picture.width = pixels.shape[:2]
        new = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if frame.pts is not None:
            new.pts = frame.pts - self._video.zero - round(Fraction(self._start) / self._video.tick)
            new.pts = max(new.pts, self._frames)
            new.time_base = self._video.tick
        self._frames += 1
        self._target.mux(self._picture.encode(new))

    def _hear(self, frame: av.AudioFrame) -> None:
        assert self._target_sound is not None and self._sound is not None
        base = Fraction(frame.time_base or 1)
        if frame.pts is not None:
            frame.pts -= round((Fraction(self._start) + self._video.zero * self._video.tick) / base)
        self._target.mux(self._target_sound.encode(frame))


def _even(pixels: np.ndarray) -> np.ndarray:
    """Return a picture not larger than MOST_PIXELS, with even sides, as H.264 needs them."""
    height, width = pixels.shape[:2]
    scale = min(1.0, MOST_PIXELS / max(height, width))
    size = (max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2))
    if size != (width, height):
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return pixels


def filmstrip(path: Path, start: float, end: float, frames: int, height: int, out: Path) -> None:
    """Write `frames` pictures from the middles of equal parts of a clip, side by side, as JPEG.

    Raises:
        StepDiffError: The clip cannot be decoded.
    """
    found = next(iter(read_clips(path, [(start, end)], frames, Whole(height), sampling="segment-centres")))
    if not isinstance(found, Clip):
        raise StepDiffError(found.reason)
    Image.fromarray(np.concatenate(list(found.frames), axis=1)).save(out, "JPEG", quality=80)
