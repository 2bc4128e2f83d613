"""A video file, opened: its pictures' stream, its packets, its clock, and when each frame is shown
(`Timeline`).

Seconds follow the file's clock; a broadcast format (MPEG-TS, MPEG-PS, ...) counts from the start of
its clock.

Guarantees
- a file that cannot be read as a video raises StepDiffError with one reason
- a timeline read from packets decodes nothing; where its packets do not name frames (timestamps
  missing or equal), `exact` is false. One read by decoding holds every frame that can be decoded,
  and where it is damaged
- both have the same times where timestamps go backwards; equal ones keep the order decoded; of a
  broadcast whose clock starts again, and where timestamps are missing, frames are counted instead
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import numpy as np
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import Bool, Float64, Int64

from featurize.video.media_file import MAX_PIXELS, content, opened_alone
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import shown

_CUT_SHORT = "is cut short: copy it again"
_NO_VIDEO = (
    "is not a video in a known format (playlists and other lists of files are refused): give a "
    "video file"
)


@dataclass(frozen=True)
class Video:
    """An open video file."""

    path: Path
    container: av.container.InputContainer
    stream: VideoStream

    @property
    def is_still(self) -> bool:
        """Whether the file is an image, whose one frame lasts for ever."""
        name = self.container.format.name
        return name == "image2" or name.endswith("_pipe")

    @property
    def is_broadcast(self) -> bool:
        """Whether the format's clock starts anywhere, and may start again."""
        return bool(Flags(self.container.format.flags) & Flags.ts_discont)

    @property
    def rate(self) -> Fraction:
        """Frames a second by the header, 25 if it states none."""
        return self.stream.average_rate or self.stream.guessed_rate or Fraction(25)

    @property
    def tick(self) -> Fraction:
        """Seconds of one unit of a timestamp."""
        if self.stream.time_base is None:
            return 1 / self.rate
        return self.stream.time_base

    @property
    def zero(self) -> int:
        """The timestamp of second 0."""
        if not self.is_broadcast:
            return 0
        return round(Fraction(self.container.start_time or 0, av.time_base) / self.tick)

    @property
    def tells_order(self) -> bool:
        """Whether timestamps say when a frame is shown: AVI's say when it is decoded."""
        return self.container.format.name != "avi" or not self.stream.codec_context.has_b_frames

    @property
    def promised(self) -> float:
        """Seconds at which the header says that the video ends; 0 if it says nothing."""
        if self.is_still:
            return 0.0
        if self.stream.duration:
            ticks = (self.stream.start_time or 0) - self.zero + self.stream.duration
            return float(ticks * self.tick)
        if tag := self.stream.metadata.get("DURATION"):  # Matroska's, HH:MM:SS.fraction
            with suppress(ValueError):  # anybody may write anything there
                hours, minutes, seconds = tag.split(":")
                return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        alone = len(self.container.streams) == 1  # sound may last longer
        return (self.container.duration or 0) / av.time_base if alone else 0.0

    def packets(self) -> Iterator[Packet]:
        """The packets that hold frames, until the file breaks off, and the one that flushes."""
        try:
            for packet in self.container.demux(self.stream):
                if not packet.is_corrupt:
                    yield packet
        except av.error.FFmpegError:  # the timeline then ends before what the header promises
            return


@contextmanager
def opened(path: Path) -> Iterator[Video]:
    """Open a video file to be decoded by one thread. StepDiffError: missing, empty, cut short, no
    video, or audio."""
    with ExitStack() as stack:
        try:
            container = stack.enter_context(opened_alone(path))
        except OSError as error:
            raise StepDiffError(_unreadable(path, error)) from None
        except av.error.FFmpegError:
            raise StepDiffError(
                f"{shown(path)} {_CUT_SHORT if _begins_well(path) else _NO_VIDEO}"
            ) from None
        stream = _pictures(container, path)
        stream.codec_context.thread_count = 1
        stream.thread_type = "AUTO"
        yield Video(path, container, stream)


def _pictures(container: av.container.InputContainer, path: Path) -> VideoStream:
    """The video stream; the cover picture of a song is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise StepDiffError(
                    f"{shown(path)} has a codec that FFmpeg cannot decode: convert it"
                )
            return stream
    what = "audio but no pictures" if container.streams.audio else "no pictures"
    raise StepDiffError(f"{shown(path)} holds {what}: give a file with a video stream")


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{shown(path)} does not exist: put it there or correct its path"
    if isinstance(error, IsADirectoryError):
        return f"{shown(path)} is a folder: give a video file"
    return f"{shown(path)} cannot be read ({error.strerror}): make it readable"


def _begins_well(path: Path) -> bool:
    """Whether the file begins with the signature of a common video format."""
    with content(path) as file:
        head = file.read(12) or b""
    return head[4:8] in (b"ftyp", b"moov", b"mdat") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF")


@dataclass(frozen=True)
class Timeline:
    """The n frames of a video, in the order in which they are shown."""

    times: Float64[np.ndarray, " n"]  # seconds at which each is shown
    end: float  # seconds at which the last frame ends
    promised: float  # seconds at which the header says that the video ends; 0 where it says nothing
    still: bool  # an image file: its one frame lasts for ever
    exact: bool  # whether pts names every frame
    pts: Int64[np.ndarray, " n"]
    """their timestamps, ascending where exact; else their numbers in the order in which they are
    decoded"""
    dts: Int64[np.ndarray, " n"]  # timestamps by which a keyframe is sought
    keyframes: Bool[np.ndarray, " n"]  # frames at which decoding can begin
    # frames that are damaged, or before which something could not be decoded
    damaged: tuple[int, ...] = ()


def from_packets(path: Path) -> Timeline:
    """The timeline by the file's packets. StepDiffError if there are none."""
    with opened(path) as video:
        packets = [
            (packet.pts, packet.dts, packet.duration, packet.is_keyframe)
            for packet in video.packets()
            if packet.size and not packet.is_discard
        ]
        if not packets:
            raise StepDiffError(f"{shown(path)} is cut short, no frame is left: copy it again")
        timestamps = [pts for pts, *_ in packets if pts is not None]
        pts = np.array(
            timestamps if len(timestamps) == len(packets) else range(len(packets)), np.int64
        )
        order = np.argsort(pts, kind="stable")
        steps = np.diff(pts[order])
        last = packets[order[-1]][2] or (int(np.median(steps)) if len(steps) else 0)
        return Timeline(
            times=_seconds(pts[order], video),
            end=float(_seconds(pts[order[-1:]] + last, video)[0]),
            promised=video.promised,
            still=video.is_still,
            exact=len(timestamps) == len(packets) and bool((steps > 0).all()) and video.tells_order,
            pts=pts[order],
            dts=np.where([p[1] is None for p in packets], pts, [p[1] or 0 for p in packets])[order],
            keyframes=np.array([keyframe for *_, keyframe in packets])[order],
        )


def by_decoding(path: Path) -> Timeline:
    """The timeline by decoding every frame. StepDiffError if none can be decoded."""
    pts: list[int | None] = []
    damaged: list[int] = []
    with opened(path) as video:
        for frame in decoded(video):
            if frame is None or frame.is_corrupt:
                damaged.append(len(pts))
            if frame is not None:
                pts.append(frame.pts)
        if not pts:
            limit = f"{MAX_PIXELS:,} pixels"
            raise StepDiffError(
                f"{shown(path)} has no frame that can be decoded (damaged, or of more than "
                f"{limit}): convert it"
            )
        order = np.arange(len(pts))
        times = order / float(video.rate)
        if None not in pts:
            timestamps = np.array(pts, np.int64)
            if (np.diff(timestamps) > 0).all() or (video.tells_order and not video.is_broadcast):
                order = np.argsort(timestamps, kind="stable")
                times = _seconds(timestamps[order], video)
        # the place of each decoded frame, and of the end
        places = np.append(np.argsort(order), len(order))
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / float(video.rate)
        return Timeline(
            times=times,
            end=float(times[-1]) + step,
            promised=video.promised,
            still=video.is_still,
            exact=False,
            pts=order,
            dts=order,
            keyframes=np.zeros(len(pts), bool),
            damaged=tuple(places[damaged].tolist()),
        )


def decoded(video: Video) -> Iterator[av.VideoFrame | None]:
    """Every frame from the start, in the order shown; None if something cannot be decoded."""
    for packet in video.packets():
        try:
            yield from packet.decode()  # type: ignore[misc]
        except av.error.FFmpegError:
            yield None


def _seconds(pts: Int64[np.ndarray, " n"], video: Video) -> Float64[np.ndarray, " n"]:
    """Seconds of timestamps; one correctly rounded division, so that 49152 / 15360 is 3.2."""
    tick = video.tick
    return (pts - video.zero) * tick.numerator / tick.denominator
