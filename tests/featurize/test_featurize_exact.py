"""Files whose playback differs from their stored frames, compared with a full decode for both sampling rules."""

import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.frames import Sampling
from featurize.video.picture import Crop, square
from featurize.video.timeline import by_decoding, from_packets

Writer = Callable[..., Path]
CROP = Crop(None, 32, "bilinear")
UNEVEN = np.cumsum(np.random.default_rng(1).integers(5, 200, 60)).tolist()


def full_decode(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return seconds and pixels of every frame that a player shows, ordered by time."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        times = [float(frame.pts * stream.time_base) for frame in frames]
        shown = [(seconds, square(frame, CROP)) for seconds, frame in zip(times, frames, strict=True)]
        return sorted(shown, key=lambda frame: frame[0])


def check(path: Path, frames: list[tuple[float, np.ndarray]], sampling: Sampling, count: int) -> None:
    """Check for clips of every length that the frames are sampled from all frames in the interval."""
    draw = random.Random(0)
    end = max(seconds for seconds, _ in frames)
    starts = [draw.uniform(0, end) for _ in range(8)]
    asked = [(0.0, end), *((start, min(start + draw.choice([0.1, 0.5, 2]), end)) for start in starts)]
    got = {done.index: done for done in read_clips(path, asked, count, CROP, sampling=sampling)}
    assert sorted(got) == list(range(len(asked)))
    for index, (start, behind) in enumerate(asked):
        inside = [pixels for seconds, pixels in frames if start <= seconds < behind]
        done, n = got[index], len(inside)
        if not inside:
            assert isinstance(done, Failure) and "no frame" in done.reason
            continue
        places = np.linspace(0, n - 1, count).astype(int).tolist()
        if sampling == "segment-centres":
            places = [int((i + Fraction(1, 2)) * n / count) for i in range(count)]
        assert isinstance(done, Clip)
        np.testing.assert_array_equal(done.frames, [inside[place] for place in places])


VIDEOS: dict[str, dict[str, object]] = {
    "uneven.mp4": {"milliseconds": UNEVEN, "frames": 60, "g": 7, "bf": 2},
    "b-frames.mkv": {"g": 12, "bf": 3, "sc_threshold": 0},
    "turned.mp4": {"rotation": {"degrees": 90}, "g": 9, "bf": 2},
    "mirrored.mp4": {"rotation": {"degrees": 180, "hflip": True}, "g": 9, "bf": 2},
}


@pytest.mark.parametrize("sampling, count", [("linspace", 8), ("segment-centres", 8), ("segment-centres", 1)])
@pytest.mark.parametrize("name", VIDEOS)
def test_frames_equal_those_of_a_full_decode(name: str, sampling: Sampling, count: int, video: Writer) -> None:
    path = video(f"exact-{name}", **VIDEOS[name])
    check(path, full_decode(path), sampling, count)


def test_a_rotated_video_gives_the_rotated_frames(video: Writer) -> None:
    """Compare every sampled frame with the same file without the rotation."""
    plain, turned = video("plain.mp4", g=9, bf=2), video("exact-turned.mp4", **VIDEOS["turned.mp4"])
    (upright,) = read_clips(turned, [(0.0, 1.5)], 8, CROP)
    (lying,) = read_clips(plain, [(0.0, 1.5)], 8, CROP)
    assert isinstance(upright, Clip) and isinstance(lying, Clip)
    difference = upright.frames.astype(int) - np.rot90(lying.frames, 1, axes=(1, 2))
    assert np.abs(difference).max() <= 2  # a resize rounds each axis separately


def edited(source: Path, path: Path, entries: list[tuple[int, int]]) -> Path:
    """Return the file with another edit list: (duration, first tick of the media), -1 for a pause.

    The duration is in ticks of the file (1/1000 s), the first tick in those of the stream. The list is stored
    after the frames, so nothing else moves.
    """
    data = source.read_bytes()
    begin = data.index(b"elst") - 4
    (size,) = struct.unpack(">I", data[begin : begin + 4])
    body = b"elst" + struct.pack(">II", 0, len(entries))
    body += b"".join(struct.pack(">IiI", duration, media, 1 << 16) for duration, media in entries)
    made = struct.pack(">I", len(body) + 4) + body
    parents = []
    for name in (b"moov", b"trak", b"edts"):
        at = data.index(name) - 4
        parents.append((at, struct.unpack(">I", data[at : at + 4])[0] + len(made) - size))
    assert data.index(b"mdat") < parents[0][0]
    out = bytearray(data[:begin] + made + data[begin + size :])
    for at, length in parents:
        out[at : at + 4] = struct.pack(">I", length)
    path.write_bytes(out)
    return path


# (duration in ms, first frame of the media), None for a pause; of 40 frames at 20 fps
EDITS: dict[str, list[tuple[int, int | None]]] = {
    "begins inside a group": [(1350, 13)],
    "ends inside a group": [(1000, 0)],
    "begins and ends inside": [(800, 17)],
    "after a pause": [(500, None), (2000, 0)],
    "two pieces": [(500, 3), (700, 21)],
}


@pytest.mark.parametrize("sampling", ["linspace", "segment-centres"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_list_is_followed(name: str, sampling: Sampling, video: Writer, tmp_path: Path) -> None:
    source = video("unedited.mp4", g=8, bf=2, sc_threshold=0)
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        frame = int(Fraction(1, 20) / stream.time_base)
        delay = 2 * frame  # offset of the first frame after the first packet, for B-frames
    entries = [(duration, -1 if first is None else delay + first * frame) for duration, first in EDITS[name]]
    path = edited(source, tmp_path / "edited.mp4", entries)
    shown = full_decode(path)
    assert len(shown) != 40 or name == "after a pause"
    check(path, shown, sampling, 8)


def remuxed(source: Path, path: Path, pts: Callable[[int], int]) -> Path:
    """Write the frames of a file of keyframes with other times in milliseconds, in stored order."""
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        copy = written.add_stream_from_template(read.streams.video[0])
        copy.time_base = Fraction(1, 1000)
        for number, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
            packet.stream, packet.time_base = copy, Fraction(1, 1000)
            packet.pts, packet.dts = pts(number), number
            written.mux(packet)
    return path


@pytest.mark.parametrize("sampling", ["linspace", "segment-centres"])
@pytest.mark.parametrize(
    "name, pts",
    [
        ("backwards", lambda i: 1000 + 50 * i - (120 if i % 7 == 3 else 0)),
        ("equal", lambda i: 1000 + 100 * (i // 2)),
    ],
)
def test_frames_with_unordered_times_are_sorted_by_time(
    name: str, pts: Callable[[int], int], sampling: Sampling, video: Writer, tmp_path: Path
) -> None:
    """Frames are ordered by time, equal times in decoding order, however the timeline is read."""
    path = remuxed(video("keyframes.mkv", g=1, bf=0), tmp_path / f"{name}.mkv", pts)
    with av.open(str(path)) as container:
        stored = [frame.pts for frame in container.decode(video=0)]
    assert len(stored) == 40 and stored != sorted(set(stored))
    frames = full_decode(path)
    assert from_packets(path).times.tolist() == by_decoding(path).times.tolist() == [time for time, _ in frames]
    check(path, frames, sampling, 8)


def test_a_broadcast_whose_clock_restarts_is_continued(video: Writer, tmp_path: Path) -> None:
    """Two recordings in one file: all frames of the second come after those of the first."""
    part = video("part.ts", g=1, bf=0, frames=20)
    path = tmp_path / "twice.ts"
    path.write_bytes(part.read_bytes() * 2)
    with av.open(str(path)) as container:
        whole = (packet for packet in container.demux(video=0) if not packet.is_corrupt)  # the joint is damaged
        frames = [square(frame, CROP) for packet in whole for frame in packet.decode()]
    assert len(frames) == 39
    line = by_decoding(path)
    (done,) = read_clips(path, [(0.0, line.end)], 8, CROP)
    assert isinstance(done, Clip)
    np.testing.assert_array_equal(done.frames, [frames[i] for i in np.linspace(0, len(frames) - 1, 8).astype(int)])


def test_the_timeline_of_an_edited_file_needs_only_packets(video: Writer, tmp_path: Path) -> None:
    """An edit list that trims is read without decoding."""
    source = video("unedited.mp4", g=8, bf=2, sc_threshold=0)
    with av.open(str(source)) as container:
        base = container.streams.video[0].time_base
        assert base is not None
    path = edited(source, tmp_path / "edited.mp4", [(1350, int(15 * Fraction(1, 20) / base))])
    line = from_packets(path)
    assert line.exact and len(line.times) == len(full_decode(path))
