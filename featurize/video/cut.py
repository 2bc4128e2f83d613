"""Clips cut out of videos: as a video file that browsers play, and as pictures side by side."""

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
from stepdiff_core.errors import StepDiffError

MOST_PIXELS = 960
"""of the long side of a cut clip"""
MOST_SECONDS = 600.0
"""of a clip that is cut"""
# a player that seeks decodes at most 12 frames
_ENCODER = {"crf": "23", "preset": "veryfast", "bf": "0", "g": "12"}
_FRAME_SLACK = 1e-3  # seconds; a player's time is rounded too
_SLACK = 1e-6  # seconds; times of the catalog are rounded


def filmstrip(path: Path, start: float, end: float, frames: int, height: int, out: Path) -> None:
    """Write `frames` pictures from the middles of equal parts of a clip, side by side, as JPEG."""
    clip = next(read_clips(path, [(start, end)], frames, Whole(height), sampling="segment-centres"))
    if not isinstance(clip, Clip):
        raise StepDiffError(clip.reason)
    Image.fromarray(np.concatenate(list(clip.frames), axis=1)).save(out, "JPEG", quality=80)


def frame(path: Path, start: float, end: float, second: float, height: int, out: Path) -> None:
    """Write what a player shows of a clip at a second of its file, as JPEG: the last frame that is
    not later."""
    # a clip may begin before its first frame
    spans = [(start, second + _FRAME_SLACK), (start, end)]
    clips = {clip.index: clip for clip in read_clips(path, spans, 2, Whole(height))}
    earlier, whole = clips[0], clips[1]
    if not isinstance(whole, Clip):
        raise StepDiffError(whole.reason)
    pixels = earlier.frames[-1] if isinstance(earlier, Clip) else whole.frames[0]
    Image.fromarray(pixels).save(out, "JPEG", quality=85)


def cut(path: Path, start: float, end: float, out: Path) -> None:
    """Write the frames with start <= time < end, in seconds, as H.264 with AAC sound in MP4.

    StepDiffError: the video cannot be read, has no frame there, or the clip is too long.
    """
    if not 0 < end - start <= MOST_SECONDS:
        raise StepDiffError(
            f"a clip of {end - start:g} s is not shown: it must have more than 0 and at most "
            f"{MOST_SECONDS:g} s"
        )
    with (
        opened(path) as video,
        av.open(str(out), "w", options={"movflags": "+faststart"}) as target,
    ):
        try:
            frames = _transcode(video, target, start, end)
        except av.error.FFmpegError as error:
            raise StepDiffError(
                f"{path.name} cannot be cut from {start:g} to {end:g} s ({error})"
            ) from error
        if not frames:
            raise StepDiffError(f"{path.name} has no frame from {start:g} to {end:g} s")


def _transcode(video: Video, target: av.container.OutputContainer, start: float, end: float) -> int:
    """Decode from the keyframe before `start` until both streams are past `end`; return the number
    of frames."""
    picture = target.add_stream("libx264", rate=round(video.rate) or 25)
    picture.options, picture.pix_fmt = dict(_ENCODER), "yuv420p"
    picture.time_base = picture.codec_context.time_base = video.tick
    sound = next(iter(video.container.streams.audio), None)
    encoded_sound: AudioStream | None = None
    if sound is not None and sound.codec_context is not None:
        encoded_sound = target.add_stream("aac", rate=sound.codec_context.sample_rate or 44100)
        encoded_sound.layout = "stereo"
    streams = [video.stream] if encoded_sound is None else [video.stream, sound]
    first, zero = Fraction(start), video.zero * video.tick
    frames, done = 0, set[int]()
    early: list[av.AudioFrame] = []  # before the first picture, whose size must be known first
    video.container.seek(video.zero + int(first / video.tick), stream=video.stream)
    for packet in video.container.demux(*streams):
        if packet.stream.index in done:
            continue
        for frame in packet.decode():
            assert isinstance(frame, av.VideoFrame | av.AudioFrame)
            time = float(frame.time or 0.0) - float(zero)
            if time >= end - _SLACK:
                done.add(packet.stream.index)
                break
            if isinstance(frame, av.VideoFrame) and time >= start - _SLACK:
                pixels = _even(pixels_of(frame, Whole(10**6)))
                if not frames:
                    picture.height, picture.width = pixels.shape[:2]
                new = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                if frame.pts is not None:
                    new.pts = max(frame.pts - video.zero - round(first / video.tick), frames)
                    new.time_base = video.tick
                frames += 1
                target.mux(picture.encode(new))
                for heard in early:
                    assert encoded_sound is not None
                    target.mux(encoded_sound.encode(heard))
                early.clear()
            elif isinstance(frame, av.AudioFrame) and time >= start:
                assert encoded_sound is not None
                if frame.pts is not None:
                    frame.pts -= round((first + zero) / Fraction(frame.time_base or 1))
                if frames:
                    target.mux(encoded_sound.encode(frame))
                else:
                    early.append(frame)
        if len(done) == len(streams):
            break
    if frames:
        target.mux(picture.encode(None))
        if encoded_sound is not None and encoded_sound.codec_context.is_open:
            target.mux(encoded_sound.encode(None))
    return frames


def _even(pixels: np.ndarray) -> np.ndarray:
    """Return a picture not larger than MOST_PIXELS, with even sides, as H.264 needs them."""
    height, width = pixels.shape[:2]
    scale = min(1.0, MOST_PIXELS / max(height, width))
    size = (max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2))
    if size != (width, height):
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return pixels
