"""The chosen frames of clips: each video is decoded in one pass, several videos by threads at the
same time.

Guarantees
- the frames are those that decoding the whole video and choosing among all frames would give:
  B-frames, variable frame rates, edit lists and missing timestamps included
- every clip is yielded once, as its frames or as the reason why it has none, whatever is raised
  while its file is decoded
- only groups of frames with a chosen one are decoded, once; only a file whose packets do not
  identify its frames is decoded twice. Damage to H.264 frames that are neither chosen nor
  references is not noticed
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from featurize.video.frames import Sampling, chosen
from featurize.video.media_file import why
from featurize.video.picture import Picture, pixels_of
from featurize.video.stream import Timeline, Video, by_decoding, decoded, from_packets, opened
from stepdiff_core.io.files import shown
from stepdiff_core.threads import prefetched

# seconds by which a clip may end past its video: annotations are often in whole seconds
PAST_END = 1.0
# seconds by which a video may end before what its header promises; no clip may end past it then
CUT_SHORT = 0.5
QUEUED = 16  # finished clips that wait to be encoded, at most


@dataclass(frozen=True)
class Source:
    """The place of a clip."""

    video: str  # absolute path
    start: float  # seconds
    end: float  # seconds


@dataclass(frozen=True)
class Clip:
    """A clip that was decoded."""

    index: int  # its place among the intervals
    frames: UInt8[np.ndarray, "frames height width 3"]  # RGB
    repeats: bool  # whether it shows fewer frames than asked for; a still image is no such case
    seconds: Float64[np.ndarray, " frames"]  # of each frame from the start of the clip


@dataclass(frozen=True)
class Failure:
    """A clip that was not decoded."""

    index: int  # its place among the intervals asked for
    reason: str  # one line: what, where, what to do


def decoded_clips(
    clips: Mapping[int, Source],
    count: int,
    crop: Picture,
    threads: int = 1,
    sampling: Sampling = "linspace",
) -> Iterator[tuple[int, Clip | Failure]]:
    """Yield row and clip, or failure, as they become complete; video by video in the order of
    rows."""
    by_video: dict[str, list[int]] = defaultdict(list)
    for row in sorted(clips):
        by_video[clips[row].video].append(row)

    def decode(video: str, rows: list[int]) -> Iterator[tuple[int, Clip | Failure]]:
        intervals = [(clips[row].start, clips[row].end) for row in rows]
        for done in read_clips(Path(video), intervals, count, crop, sampling):
            yield rows[done.index], done

    yield from prefetched((decode(*video) for video in by_video.items()), threads, QUEUED)


def read_clips(
    path: Path,
    intervals: Sequence[tuple[float, float]],
    count: int,
    crop: Picture,
    sampling: Sampling = "linspace",
) -> Iterator[Clip | Failure]:
    """Yield `count` frames of each interval (start, end in seconds) of a video, as each becomes
    complete."""
    remaining = set(range(len(intervals)))
    reason = f"{shown(path)} shows other frames when it is read again: convert it"
    try:
        # the second if packets do not identify the frames
        for timeline in (from_packets, by_decoding):
            line = timeline(path)
            if timeline is from_packets and not line.exact:
                continue
            with suppress(_PacketsDisagree):
                for done in _read(
                    path,
                    line,
                    {clip: intervals[clip] for clip in sorted(remaining)},
                    count,
                    crop,
                    sampling,
                ):
                    remaining.discard(done.index)
                    yield done
                break
    except Exception as error:
        # FFmpeg, PyAV and Pillow raise anything on odd files, which must not fail their shard
        reason = why(path, error)
    yield from (Failure(index, reason) for index in sorted(remaining))


class _PacketsDisagree(Exception):
    """Decoding gave other frames than the packets announced."""


def _read(
    path: Path,
    line: Timeline,
    intervals: Mapping[int, tuple[float, float]],
    count: int,
    crop: Picture,
    sampling: Sampling,
) -> Iterator[Clip | Failure]:
    picked: dict[int, list[tuple[int, int]]] = defaultdict(list)  # frame -> (clip, place in it)
    missing: dict[int, int] = {}  # clip -> places still to fill
    repeats: dict[int, bool] = {}
    seconds: dict[int, Float64[np.ndarray, " frames"]] = {}
    for clip, interval in intervals.items():
        frames = _frames_of(path, line, *interval, count, sampling)
        if isinstance(frames, str):
            yield Failure(clip, frames)
            continue
        missing[clip] = count
        seconds[clip] = line.times[frames] - interval[0]
        repeats[clip] = not line.still and sampling != "centre" and len(np.unique(frames)) < count
        for place, frame in enumerate(frames.tolist()):
            picked[frame].append((clip, place))
    pictures: dict[int, UInt8[np.ndarray, "frames height width 3"]] = {}
    for index, frame in _pick(path, line, sorted(picked)):
        pixels = pixels_of(frame, crop)
        for clip, place in picked[index]:
            if clip not in pictures:
                pictures[clip] = np.empty((count, *pixels.shape), np.uint8)
            pictures[clip][place] = pixels
            missing[clip] -= 1
            if not missing[clip]:
                yield Clip(clip, pictures.pop(clip), repeats[clip], seconds[clip])


def _frames_of(
    path: Path, line: Timeline, start: float, end: float, count: int, sampling: Sampling
) -> Int64[np.ndarray, " count"] | str:
    """Return the numbers of a clip's frames, or the reason why it has none."""
    slack, remedy = PAST_END, "correct the clip's times"
    if line.promised > line.end + CUT_SHORT:
        slack, remedy = (
            0.0,
            f"its header promises {line.promised:.2f} s, so it is cut short; copy it again",
        )
    if not line.still and start > line.times[-1]:
        return (
            f"the clip begins at {start:g} s but {shown(path)} ends at {line.end:.2f} s: {remedy}"
        )
    if not line.still and end > line.end + slack:
        return f"the clip ends at {end:g} s but {shown(path)} ends at {line.end:.2f} s: {remedy}"
    first, end_frame = map(int, np.searchsorted(line.times, [start, end]))  # start <= time < end
    if first == end_frame:
        return f"{shown(path)} shows no frame from {start:g} to {end:g} s: lengthen the clip"
    if any(first <= frame < end_frame for frame in line.damaged):
        return f"{shown(path)} is damaged between {start:g} and {end:g} s: copy or convert it again"
    return first + chosen(end_frame - first, count, sampling)


def _pick(path: Path, line: Timeline, picked: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames (ascending numbers), in the order in which they are decoded."""
    if not picked:
        return
    with opened(path) as video:
        if line.exact:
            decoder = _Decoder(video, line, picked)
            for index in picked:
                yield index, decoder.frame(index)
            return
        ask = {int(line.pts[index]): index for index in picked}
        last = max(ask)
        frames = (frame for frame in decoded(video) if frame is not None)
        for number, frame in enumerate(frames):
            if number in ask:
                yield ask[number], frame
            if number == last:
                return


class _Decoder:
    """Goes forward through a video, entering it at keyframes."""

    def __init__(self, video: Video, line: Timeline, picked: list[int]) -> None:
        self._video = video
        self._line = line
        self._picked_pts = set(line.pts[picked].tolist())
        self._skips = video.stream.codec_context.name == "h264"
        self._keys = np.flatnonzero(line.keyframes)
        self._fed = -1  # the latest keyframe given to the decoder
        self._entry = 0  # where decoding last began
        self._next = 0  # the frame that comes next
        self._frames: Iterator[av.VideoFrame] = iter(())

    def frame(self, index: int) -> av.VideoFrame:
        """Return the frame of that number, which is past every one asked for before."""
        at = int(np.searchsorted(self._keys, index, side="right")) - 1
        if at < 0:  # no keyframe comes before it
            raise _PacketsDisagree
        if self._keys[at] > self._fed:
            self._enter(int(self._keys[at]))
        try:
            for frame in self._frames:
                number = self._number(frame)
                if number < self._entry == self._next:
                    continue  # shown before the keyframe, but leaning on what came before it
                expected = self._next <= number <= index if self._skips else number == self._next
                if not expected or frame.is_corrupt:
                    raise _PacketsDisagree
                self._next = number + 1
                if number == index:
                    return frame
        except av.error.FFmpegError:
            pass
        raise _PacketsDisagree

    def _enter(self, key: int) -> None:
        if key != self._keys[0]:
            try:
                self._video.container.seek(int(self._line.dts[key]), stream=self._video.stream)
            except av.error.FFmpegError:
                raise _PacketsDisagree from None
        self._entry = self._next = key
        self._frames = self._decode(key)

    def _decode(self, key: int) -> Iterator[av.VideoFrame]:
        """Decode from a keyframe on; packets in front of it are passed over."""
        pts, entered = self._line.pts, False
        for packet in self._video.packets():
            if packet.is_keyframe and packet.pts is not None:
                if not entered and packet.pts > pts[key]:
                    raise _PacketsDisagree
                entered = entered or packet.pts == pts[key]
                self._fed = max(self._fed, int(np.searchsorted(pts, packet.pts)))
            if entered:
                if self._skips:
                    unwanted = packet.size > 0 and packet.pts not in self._picked_pts
                    self._video.stream.codec_context.skip_frame = (
                        "NONREF" if unwanted else "DEFAULT"
                    )
                yield from packet.decode()  # type: ignore[misc]

    def _number(self, frame: av.VideoFrame) -> int:
        """Return the frame's place in the timeline."""
        if frame.pts is None:
            raise _PacketsDisagree
        at = int(np.searchsorted(self._line.pts, frame.pts))
        if at == len(self._line.pts) or self._line.pts[at] != frame.pts:
            raise _PacketsDisagree
        return at
