"""When each frame of a video is shown.

Guarantees
- a timeline read from packets decodes nothing; where its packets do not name frames (timestamps
  missing or equal), `exact` is false
- a timeline read by decoding holds every frame that can be decoded, and where it is damaged
- both tell the same times where timestamps go backwards; equal ones stand in the order decoded; of a
  broadcast whose clock starts again, and where timestamps are missing, frames are counted instead
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from jaxtyping import Bool, Float64, Int64

from featurize.video.media_file import MAX_PIXELS, shown
from featurize.video.stream import Video, opened
from stepdiff.common.errors import StepDiffError


@dataclass(frozen=True)
class Timeline:
    """The n frames of a video, in the order in which they are shown."""

    times: Float64[np.ndarray, " n"]
    """seconds at which each is shown"""
    end: float
    """seconds at which the last frame ends"""
    promised: float
    """seconds at which the header says that the video ends; 0 where it says nothing"""
    still: bool
    """an image file: its one frame lasts for ever"""
    exact: bool
    """whether pts names every frame"""
    pts: Int64[np.ndarray, " n"]
    """their timestamps, ascending where exact; else their numbers in the order in which they are decoded"""
    dts: Int64[np.ndarray, " n"]
    """timestamps by which a keyframe is sought"""
    keyframes: Bool[np.ndarray, " n"]
    """frames at which decoding can begin"""
    damaged: tuple[int, ...] = ()
    """frames that are damaged, or before which something could not be decoded"""


def from_packets(path: Path) -> Timeline:
    """The timeline by the file's packets. StepDiffError where there are none."""
    with opened(path) as video:
        packets = [
            (packet.pts, packet.dts, packet.duration, packet.is_keyframe)
            for packet in video.packets()
            if packet.size and not packet.is_discard
        ]
        if not packets:
            raise StepDiffError(f"{shown(path)} is cut short, no frame is left: copy it again")
        known = [pts for pts, *_ in packets if pts is not None]
        pts = np.array(known if len(known) == len(packets) else range(len(packets)), np.int64)
        order = np.argsort(pts, kind="stable")
        steps = np.diff(pts[order])
        last = packets[order[-1]][2] or (int(np.median(steps)) if len(steps) else 0)
        return Timeline(
            times=_seconds(pts[order], video),
            end=float(_seconds(pts[order[-1:]] + last, video)[0]),
            promised=video.promised,
            still=video.is_still,
            exact=len(known) == len(packets) and bool((steps > 0).all()) and video.tells_order,
            pts=pts[order],
            dts=np.where([p[1] is None for p in packets], pts, [p[1] or 0 for p in packets])[order],
            keyframes=np.array([keyframe for *_, keyframe in packets])[order],
        )


def by_decoding(path: Path) -> Timeline:
    """The timeline by decoding every frame. StepDiffError where none can be decoded."""
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
                f"{shown(path)} has no frame that can be decoded (damaged, or of more than {limit}): convert it"
            )
        order = np.arange(len(pts))
        times = order / float(video.rate)
        if None not in pts:
            known = np.array(pts, np.int64)
            if (np.diff(known) > 0).all() or (video.tells_order and not video.is_broadcast):
                order = np.argsort(known, kind="stable")
                times = _seconds(known[order], video)
        places = np.append(np.argsort(order), len(order))  # the place of each decoded frame, and of the end
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
    """Every frame from the start, in the order shown; None where something cannot be decoded."""
    for packet in video.packets():
        try:
            yield from packet.decode()  # type: ignore[misc]
        except av.error.FFmpegError:
            yield None


def _seconds(pts: Int64[np.ndarray, " n"], video: Video) -> Float64[np.ndarray, " n"]:
    """Seconds of timestamps; one correctly rounded division, so that 49152 / 15360 is 3.2."""
    tick = video.tick
    return (pts - video.zero) * tick.numerator / tick.denominator
