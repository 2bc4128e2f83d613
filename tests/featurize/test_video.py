"""Sampled frames compared with a full decode; resized pictures; damaged and hostile files."""

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featurize.manifest import as_manifest
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.frames import Sampling, chosen
from featurize.video.picture import Crop, Resample, Whole, pixels_of
from featurize.video.resize import ROWS, resized_part
from featurize.video.stream import by_decoding, from_packets, opened
from stepdiff_core.errors import StepDiffError

Writer = Callable[..., Path]
CROP = Crop(36, 32)
UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 200, 60)).tolist()
VIDEOS: dict[str, dict[str, object]] = {
    "b-frames.mp4": {"g": 12, "bf": 3, "sc_threshold": 0},
    "all-keyframes.mp4": {"g": 1, "bf": 0},
    "short-groups.mp4": {"g": 2, "bf": 2, "sc_threshold": 0},
    "one-group.mp4": {"g": 250, "bf": 16, "b_adapt": 0},
    "open-groups.mp4": {"g": 8, "bf": 3, "open_gop": 1, "sc_threshold": 0},
    "open-groups.mkv": {"g": 8, "bf": 3, "open_gop": 1, "sc_threshold": 0},
    "intra-refresh.mkv": {"g": 10, "intra_refresh": 1, "bf": 0},
    "uneven.mp4": {"milliseconds": UNEVEN, "frames": 60, "g": 7, "bf": 2},
    "uneven.mkv": {"milliseconds": UNEVEN, "frames": 60, "g": 7, "bf": 2},
    "late.mp4": {"milliseconds": [700 + 40 * i for i in range(40)], "g": 7, "bf": 2},
    "slow.mp4": {"rate": 3, "g": 5},
    "fast.mp4": {"rate": 120, "g": 30, "frames": 90},
    "flash.flv": {"g": 7, "bf": 2},
    "broadcast.ts": {"g": 7, "bf": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "rate": 25, "g": 8, "bf": 2},
    "mpeg4.avi": {"codec": "mpeg4", "g": 7, "bf": 2},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "g": 10,
        "lag_in_frames": 16,
        "auto_alt_ref": 1,
        "deadline": "realtime",
    },
    "no-timestamps.h264": {"rate": 25, "g": 7, "bf": 2},
    "turned.mp4": {"rotation": {"degrees": 90}, "g": 9, "bf": 2},
    "mirrored.mp4": {"rotation": {"degrees": 180, "hflip": True}, "g": 9, "bf": 2},
}


def clip_of(path: Path, start: float, end: float, count: int = 8, crop: Crop = CROP) -> Clip:
    """Return the frames of one clip, which has no failure."""
    (done,) = read_clips(path, [(start, end)], count, crop)
    assert isinstance(done, Clip), done.reason
    return done


def full_decode(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return seconds and pixels of every frame that a player shows, ordered by time."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        zero = stream.start_time if path.suffix in (".ts", ".mpg") else 0
        shown = [
            (
                i / 25 if frame.pts is None else float((frame.pts - zero) * stream.time_base),
                pixels_of(frame, CROP),
            )
            for i, frame in enumerate(container.decode(stream))
        ]
    return sorted(shown, key=lambda frame: frame[0])


def check(
    path: Path,
    frames: list[tuple[float, np.ndarray]],
    sampling: Sampling = "linspace",
    count: int = 8,
) -> None:
    """Check for overlapping clips of every length that the frames are sampled from all frames in
    the interval."""
    draw = random.Random(0)
    end = max(seconds for seconds, _ in frames)
    starts = [draw.uniform(0, end) for _ in range(20)]
    intervals = [
        (0.0, end),
        *((start, min(start + draw.choice([0.1, 0.5, 1, 2, 5]), end)) for start in starts),
    ]
    got = {done.index: done for done in read_clips(path, intervals, count, CROP, sampling=sampling)}
    assert sorted(got) == list(range(len(intervals)))
    for index, (start, behind) in enumerate(intervals):
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
        assert done.repeats == (n < count)


@pytest.mark.parametrize(
    ("sampling", "count"),
    [
        ("linspace", 8),
        *(pytest.param("segment-centres", count, marks=pytest.mark.full) for count in (8, 1)),
    ],
)
@pytest.mark.parametrize("name", VIDEOS)
def test_sampled_frames_equal_those_of_a_full_decode(
    name: str, sampling: Sampling, count: int, video: Writer
) -> None:
    path = video(name, **VIDEOS[name])
    check(path, full_decode(path), sampling, count)


@pytest.mark.full
def test_frames_of_a_stream_without_its_first_keyframe(tmp_path: Path, video: Writer) -> None:
    """The recording begins in the middle: its first packets announce frames that cannot be
    decoded."""
    whole = video("broadcast.ts", **VIDEOS["broadcast.ts"])
    path = tmp_path / "middle.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is not None and number >= 3:
                packet.stream = copy
                target.mux(packet)
    line = by_decoding(path)
    assert len(line.times) < 37 <= len(from_packets(path).times)
    done = clip_of(path, 0.0, line.end)
    with av.open(str(path)) as container:
        frames = [pixels_of(frame, CROP) for frame in container.decode(video=0)]
    np.testing.assert_array_equal(
        done.frames, [frames[i] for i in np.linspace(0, len(frames) - 1, 8).astype(int)]
    )


def edited(source: Path, path: Path, entries: list[tuple[int, int]]) -> Path:
    """Return the file with another edit list: (duration, first tick of the media), -1 for a pause.

    The duration is in ticks of the file (1/1000 s), the first tick in those of the stream. The list
    is stored after the frames, so nothing else moves.
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


@pytest.mark.full
@pytest.mark.parametrize("sampling", ["linspace", "segment-centres"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_list_is_followed(
    name: str, sampling: Sampling, video: Writer, tmp_path: Path
) -> None:
    source = video("unedited.mp4", g=8, bf=2, sc_threshold=0)
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        frame = int(Fraction(1, 20) / stream.time_base)
        delay = 2 * frame  # offset of the first frame after the first packet, for B-frames
    entries = [
        (duration, -1 if first is None else delay + first * frame)
        for duration, first in EDITS[name]
    ]
    path = edited(source, tmp_path / "edited.mp4", entries)
    shown = full_decode(path)
    assert len(shown) != 40 or name == "after a pause"
    check(path, shown, sampling)


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


@pytest.mark.full
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
    assert (
        from_packets(path).times.tolist()
        == by_decoding(path).times.tolist()
        == [time for time, _ in frames]
    )
    check(path, frames, sampling)


@pytest.mark.full
def test_a_broadcast_whose_clock_restarts_is_continued(video: Writer, tmp_path: Path) -> None:
    """Two recordings in one file: all frames of the second come after those of the first."""
    part = video("part.ts", g=1, bf=0, frames=20)
    path = tmp_path / "twice.ts"
    path.write_bytes(part.read_bytes() * 2)
    with av.open(str(path)) as container:
        # the joint is damaged
        whole = (packet for packet in container.demux(video=0) if not packet.is_corrupt)
        frames = [pixels_of(frame, CROP) for packet in whole for frame in packet.decode()]
    assert len(frames) == 39
    line = by_decoding(path)
    np.testing.assert_array_equal(
        clip_of(path, 0.0, line.end).frames,
        [frames[i] for i in np.linspace(0, len(frames) - 1, 8).astype(int)],
    )


@given(st.integers(1, 5000), st.integers(1, 32))
def test_the_published_sampling_rule(n: int, count: int) -> None:
    expected = [int(x) for x in np.linspace(0, n - 1, count)]
    assert chosen(n, count).tolist() == expected


@given(st.integers(1, 5000), st.integers(1, 32))
def test_centre_sampling_takes_the_middle_of_equal_segments(n: int, count: int) -> None:
    expected = [int(Fraction(2 * i + 1, 2 * count) * n) for i in range(count)]
    assert chosen(n, count, "segment-centres").tolist() == expected
    assert chosen(n, 1, "segment-centres").tolist() == [n // 2]


SIDES = st.integers(1, 3 * ROWS)
NAMES = st.sampled_from(["bicubic", "bilinear", "lanczos"])


@given(SIDES, SIDES, SIDES, SIDES, NAMES, st.booleans(), st.data())
def test_a_resized_part_has_the_pixels_of_pillow(
    width: int,
    height: int,
    wide: int,
    high: int,
    resample: Resample,
    extreme: bool,
    data: st.DataObject,
) -> None:
    left, top = data.draw(st.integers(0, wide - 1)), data.draw(st.integers(0, high - 1))
    right, bottom = data.draw(st.integers(left + 1, wide)), data.draw(st.integers(top + 1, high))
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    picture = np.where(values > 127, 255, 0).astype(np.uint8) if extreme else values
    how = Image.Resampling[resample.upper()]
    whole = Image.fromarray(picture).resize((wide, height), how).resize((wide, high), how)
    part = resized_part(picture, (wide, high), (left, top, right, bottom), resample)
    assert np.array_equal(part, np.asarray(whole)[top:bottom, left:right])


UNREADABLE = {
    "missing.mp4": "does not exist",
    "empty.mp4": "is empty (0 bytes)",
    "text.mp4": "not a video",
    "text.txt": "not a video",
    "noise.mp4": "not a video",
    "cut.mp4": "cut short",
    "folder.mp4": "is a folder",
    "sound.mp4": "audio but no pictures",
}


def test_a_file_that_cannot_be_read_has_one_reason(
    tmp_path: Path, video: Writer, audio: Path
) -> None:
    whole, text = video("whole.mp4", g=12).read_bytes(), b"a recipe for pancakes\n" * 100
    contents = {
        "empty.mp4": b"",
        "text.mp4": text,
        "text.txt": text,
        "noise.mp4": np.random.default_rng(0).bytes(5000),
    }
    contents |= {"cut.mp4": whole[: len(whole) // 2], "sound.mp4": audio.read_bytes()}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.mp4").mkdir()
    for name, why in UNREADABLE.items():
        with pytest.raises(StepDiffError) as error:
            from_packets(tmp_path / name)
        line = str(error.value)
        assert why in line and str(tmp_path / name) in line and "\n" not in line


@pytest.mark.full
@pytest.mark.parametrize("name", ["index-first.mp4", "cut.mkv"])
def test_clips_before_the_cut_of_a_truncated_file_are_read(
    tmp_path: Path, video: Writer, name: str
) -> None:
    path, whole = tmp_path / name, tmp_path / f"whole-{name}"
    with av.open(str(video("whole.mp4", g=12))) as source:
        with av.open(
            str(whole), "w", options={"movflags": "faststart"} if name.endswith("mp4") else {}
        ) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    kept, lost = sorted(
        read_clips(path, [(0.0, 0.5), (0.0, 2.0)], 8, CROP), key=lambda done: done.index
    )
    assert isinstance(kept, Clip)
    np.testing.assert_array_equal(kept.frames, clip_of(whole, 0.0, 0.5).frames)
    assert (
        isinstance(lost, Failure)
        and "promises 2.00 s" in lost.reason
        and "cut short" in lost.reason
    )


def test_damage_fails_only_the_damaged_clips(tmp_path: Path, video: Writer) -> None:
    path = tmp_path / "damaged.mp4"
    source = video("damage.mp4", codec="libx264", g=10, bf=0, frames=60, size=(320, 240))
    data = bytearray(source.read_bytes())
    with opened(source) as file:
        packets = [packet for packet in file.packets() if packet.size]
        for packet in packets[25:30]:
            assert packet.pos is not None
            data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    intervals = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    first, damaged, last = sorted(read_clips(path, intervals, 8, CROP), key=lambda done: done.index)
    assert isinstance(damaged, Failure) and "is damaged between 1 and 2 s" in damaged.reason
    for done, (start, end) in ((first, intervals[0]), (last, intervals[2])):
        assert isinstance(done, Clip)
        np.testing.assert_array_equal(done.frames, clip_of(source, start, end).frames)


def corners(picture: np.ndarray) -> list[str]:
    """Return the colours of the corners in reading order."""
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    spots = [picture[y, x] for y in (4, -5) for x in (4, -5)]
    return [names[tuple(int(value > 127) for value in spot)] for spot in spots]


def marked(width: int = 96, height: int = 64) -> np.ndarray:
    """Return a picture with a different colour in each corner."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2, 0] = 255
    picture[: height // 2, width // 2 :, 1] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    picture[height // 2 :, width // 2 :] = 255
    return picture


TURNS: list[tuple[dict[str, object], list[str]]] = [
    ({"degrees": 0}, ["red", "green", "blue", "white"]),
    ({"degrees": 90}, ["green", "white", "red", "blue"]),
    ({"degrees": 180}, ["white", "blue", "green", "red"]),
    ({"degrees": -90}, ["blue", "red", "white", "green"]),
    ({"degrees": 0, "hflip": True}, ["green", "red", "white", "blue"]),
    ({"degrees": 0, "vflip": True}, ["blue", "white", "red", "green"]),
    ({"degrees": 90, "hflip": True}, ["white", "green", "blue", "red"]),
    ({"degrees": 90, "vflip": True}, ["red", "blue", "green", "white"]),
]


@pytest.mark.parametrize(("turn", "expected"), TURNS)
def test_a_rotated_frame_is_turned_upright(
    tmp_path: Path, turn: dict[str, object], expected: list[str]
) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.set_display_rotation(**turn)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(), format="rgb24")))
        container.mux(stream.encode(None))
    assert corners(clip_of(path, 0.0, 0.1, 1, Crop(64, 64)).frames[0]) == expected


@pytest.mark.full
@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, -90), (8, 90)])
def test_a_rotated_photograph_is_turned_upright(
    tmp_path: Path, orientation: int, degrees: int
) -> None:
    path = tmp_path / "photograph.jpg"
    image = Image.fromarray(marked())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95, subsampling=0)
    assert corners(clip_of(path, 0.0, 1.0, 1, Crop(64, 64)).frames[0]) == next(
        names for turn, names in TURNS if turn == {"degrees": degrees}
    )


@pytest.mark.full
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(
    "size", [(96, 64), (20, 30), (641, 359), (360, 640), (1920, 1080), (300, 9000), (224, 5)]
)
def test_both_sides_or_the_short_side_are_resized_with_the_filter(
    size: tuple[int, int], resample: Resample
) -> None:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    image, how = Image.fromarray(pixels), Image.Resampling[resample.upper()]

    def resized(wide: int, high: int) -> Image.Image:
        return image.resize((wide, height), how).resize((wide, high), how)

    np.testing.assert_array_equal(
        pixels_of(frame, Crop(None, 32, resample)), np.asarray(resized(32, 32))
    )
    scaled = resized(width * 32 // min(size), height * 32 // min(size))
    left, top = (scaled.width - 32) // 2, (scaled.height - 32) // 2
    expected = np.asarray(scaled)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(pixels_of(frame, Crop(32, 32, resample)), expected)


def test_each_crop_has_its_own_provenance() -> None:
    """Views made before crops could be chosen keep their provenance."""
    assert str(Crop(40, 32)) == "short side 40, centre crop 32"
    crops = [
        Crop(short, 32, resample) for short in (32, 40, None) for resample in get_args(Resample)
    ]
    assert len({str(crop) for crop in crops}) == len(crops) == 9


RED, BLUE = (255, 0, 0), (0, 0, 255)


def frames_of(path: Path) -> np.ndarray:
    return clip_of(path, 0.0, 0.5, 4).frames


def failure(path: Path) -> str:
    (done,) = read_clips(path, [(0.0, 0.5)], 4, CROP)
    assert isinstance(done, Failure)
    assert "\n" not in done.reason and "\0" not in done.reason
    return done.reason


def image(path: Path, colour: tuple[int, int, int]) -> None:
    Image.new("RGB", (64, 48), colour).save(path)


def playlist(entry: object) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{entry}\n#EXT-X-ENDLIST\n"


def alias_to(name: str, whole: bytes) -> bytes:
    """Return the MP4 file as a QuickTime file whose frames are in the file `name` of its folder, by
    an alias record."""
    path = b"volume:" + name.encode()
    alias = bytes(10) + bytes([6]) + b"volume".ljust(27, b"\0") + bytes(12) + bytes([len(name)])
    alias += name.encode().ljust(63, b"\0") + bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    alias += (
        struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hH", -1, 0)
    )
    entry = struct.pack(">I4sI", len(alias) + 12, b"alis", 0) + alias
    new = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    data, at = bytearray(whole), whole.index(b"dref") - 4
    (old,) = struct.unpack_from(">I", data, at)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = whole.rindex(box, 0, at) - 4
        (size,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, size + len(new) - old)
    data[at : at + old] = new
    return bytes(data)


@pytest.mark.full
def test_no_other_file_is_read(tmp_path: Path, video: Writer) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(video("secret.mp4", g=10).read_bytes())
    (tmp_path / "secret.ts").write_bytes(video("secret.ts", g=10).read_bytes())
    lists = {
        "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "concat.txt": "ffconcat version 1.0\nfile 'secret.mp4'\n",
        "relative.m3u8": playlist("secret.ts"),
        "absolute.m3u8": playlist(tmp_path / "secret.ts"),
        "protocol.m3u8": playlist(f"file:{tmp_path / 'secret.ts'}"),
        "master.m3u8": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nrelative.m3u8\n",
        "hls.mp4": playlist("secret.ts"),
        "m3u.mp4": "#EXTM3U\nsecret.mp4\n",
        "dash.mp4": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            '<AdaptationSet mimeType="video/mp4"><Representation id="1" '
            'bandwidth="1"><BaseURL>secret.mp4</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>"
        ),
        "sdp.mp4": (
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP "
            "96\na=rtpmap:96 H264/90000\n"
        ),
        "rtsp.asf": "[Reference]\nRef1=http://127.0.0.1:1/x\n",
        "text.txt": "a recipe for pancakes\n" * 100,
    }
    for name, text in lists.items():
        path = tmp_path / name
        path.write_text(text)
        assert failure(path).startswith(
            f"{path} is not a video in a known format (playlists and other lists of files"
        )
    (tmp_path / "alias.mov").write_bytes(alias_to("secret.mp4", secret.read_bytes()))
    with av.open(str(tmp_path / "alias.mov"), options={"enable_drefs": "1"}) as followed:
        assert len(list(followed.decode(video=0))) == 40
    assert "no frame is left" in failure(tmp_path / "alias.mov")


@pytest.mark.full
def test_a_file_name_is_not_a_pattern(
    tmp_path: Path, video: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("seq00.png", "seq01.png", "seq0.jpg", "seq1.jpg"):
        image(Path(name), RED)
    for name in (
        "seq%02d.png",
        "seq%d.jpg",
        "seq*.png",
        "seq?0.png",
        "seq{00,01}.png",
        "seq[0-9]%*.png",
    ):
        image(Path(name), BLUE)
        assert np.abs(frames_of(Path(name)).astype(int) - BLUE).max() < 3, name
    other, mine = video("other.mp4", g=10), video("mine.mp4", g=10, frames=30).read_bytes()
    Path("other.mp4").write_bytes(other.read_bytes())
    expected = frames_of(video("mine.mp4"))
    assert not np.array_equal(expected, frames_of(other))
    names = [
        "concat:other.mp4",
        "file:other.mp4",
        "subfile,,start,0,end,0,,:other.mp4",
        "a:b.mp4",
        "pipe:0",
        "fd:",
    ]
    names += [
        "http:x.mp4",
        "data:x.mp4",
        "-i.mp4",
        "-",
        "%s.mp4",
        "100%.mp4",
        "a|b.mp4",
        "naïve ☃.mp4",
        "new\nline.mp4",
    ]
    for path in [*map(Path, [*names, "new\nline.mp4"]), Path(os.fsdecode(b"latin-\xe9.mp4"))]:
        path.write_bytes(mine)
        np.testing.assert_array_equal(frames_of(path), expected, str(path))


def test_a_reason_is_one_line_for_any_file_name(tmp_path: Path) -> None:
    assert "nul\\x00.mp4' cannot name a file (embedded null byte): correct the path" in failure(
        tmp_path / "nul\0.mp4"
    )
    assert "new\\nline.mp4' does not exist" in failure(tmp_path / "new\nline.mp4")
    assert "latin-\\udce9.mp4' does not exist" in failure(tmp_path / os.fsdecode(b"latin-\xe9.mp4"))


@pytest.mark.full
def test_only_a_regular_file_is_opened(tmp_path: Path, video: Writer) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.mp4", tmp_path / "zero.mp4", Path("/dev/tty")):
        assert failure(path) == f"{path} is a pipe or a device: give a regular file"
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in failure(tmp_path / "folder.mp4")
    whole = video("whole.mp4", g=12)
    (tmp_path / "link.mp4").symlink_to(whole)
    np.testing.assert_array_equal(frames_of(tmp_path / "link.mp4"), frames_of(whole))


@pytest.fixture
def latin_1(tmp_path: Path) -> Iterator[Path]:
    """An AVI file whose title is not valid UTF-8."""
    path, title = tmp_path / "latin-1.avi", "creme brulee"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(10):
            picture = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    np.save(tmp_path / "frames.npy", frames_of(path))
    path.write_bytes(path.read_bytes().replace(title.encode(), "crème brûlée".encode("latin-1")))
    yield path


@pytest.mark.full
def test_invalid_metadata_does_not_fail_a_file(latin_1: Path) -> None:
    np.testing.assert_array_equal(frames_of(latin_1), np.load(latin_1.with_name("frames.npy")))
    manifest = as_manifest([latin_1])
    assert not manifest.failures and manifest.rows.select("key", "end").row(0) == (
        "latin-1_0_1.000",
        1.0,
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """Return a black picture with one bit per pixel."""
    packed = zlib.compressobj()
    rows = (
        b"".join(packed.compress(bytes(1 + (width + 7) // 8)) for _ in range(height))
        + packed.flush()
    )
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.mark.full
def test_pictures_of_absurd_size_are_refused(tmp_path: Path, video: Writer) -> None:
    (tmp_path / "bomb.png").write_bytes(png(12000, 12000))
    image(tmp_path / "lie.gif", RED)
    lie = bytearray((tmp_path / "lie.gif").read_bytes())
    lie[6:10] = struct.pack("<HH", 12000, 12000)
    (tmp_path / "lie.gif").write_bytes(lie)
    for path in (tmp_path / "bomb.png", tmp_path / "lie.gif"):
        assert (
            "has no frame that can be decoded (damaged, or of more than 134,217,728 pixels)"
            in failure(path)
        )
    (tmp_path / "fair.png").write_bytes(png(4000, 3000))
    assert frames_of(tmp_path / "fair.png").shape == (4, 32, 32, 3)


@pytest.mark.full
def test_compressed_text_chunks_are_bounded(tmp_path: Path) -> None:
    path, many, few = (
        tmp_path / "texts.png",
        zlib.compress(bytes(70 << 20), 9),
        zlib.compress(b"pancakes " * 1000),
    )
    for kind, start in (
        (b"zTXt", b"Comment\0\0"),
        (b"iCCP", b"Profile\0\0"),
        (b"iTXt", b"Comment\0\1\0en\0Comment\0"),
        (b"zTXt", b"a name without an end" * 4000 + b"\0\0"),
    ):
        path.write_bytes(png(64, 48, chunk(kind, start + many)))
        assert (
            failure(path) == f"{path} has texts of more than 67,108,864 bytes: save it without them"
        )
    fair = (
        chunk(b"zTXt", b"a\0\0" + few)
        + chunk(b"iTXt", b"b\0\0\0\0\0plain")
        + chunk(b"iTXt", b"c\0\1\0\0\0" + few)
    )
    path.write_bytes(png(64, 48, fair))
    (tmp_path / "bare.png").write_bytes(png(64, 48))
    np.testing.assert_array_equal(frames_of(path), frames_of(tmp_path / "bare.png"))


@pytest.fixture
def two_sizes(tmp_path: Path, video: Writer) -> Path:
    """A stream whose frames change their size after 20 frames, made by joining two streams."""
    small = video("small.h264", frames=20, rate=25, g=10)
    large = video("large.h264", frames=20, rate=25, g=10, size=(128, 96))
    path = tmp_path / "sizes.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    return path


@pytest.mark.full
def test_an_unexpected_exception_fails_only_its_file(two_sizes: Path, tmp_path: Path) -> None:
    """With uncropped frames a clip across the change has two shapes, which NumPy refuses; the clip
    before is read."""
    done = sorted(
        read_clips(two_sizes, [(0.0, 0.6), (0.5, 1.5), (0.9, 1.5)], 8, Whole(480)),
        key=lambda one: one.index,
    )
    assert [one.index for one in done] == [0, 1, 2]
    first, over, after = done
    assert isinstance(first, Clip) and isinstance(over, Failure) and isinstance(after, Failure)
    assert over.reason.startswith(f"{two_sizes} cannot be decoded (ValueError: could not broadcast")
    assert over.reason.endswith(": convert it") and over.reason == after.reason
