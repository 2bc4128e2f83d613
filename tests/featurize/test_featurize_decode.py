"""Sampled frames compared with a full decode of the video."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from featurize.video.decode import Clip, Failure, _Decoder, read_clips
from featurize.video.picture import Crop, square
from featurize.video.stream import opened
from featurize.video.timeline import by_decoding, from_packets

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
    "vp9.webm": {"codec": "libvpx-vp9", "g": 10, "lag_in_frames": 16, "auto_alt_ref": 1, "deadline": "realtime"},
    "no-timestamps.h264": {"rate": 25, "g": 7, "bf": 2},
}


def naive(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return seconds and pixels of every frame of a full decode."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        zero = stream.start_time if path.suffix in (".ts", ".mpg") else 0
        return [
            (i / 25 if frame.pts is None else float((frame.pts - zero) * stream.time_base), square(frame, CROP))
            for i, frame in enumerate(frames)
        ]


def intervals(end: float, seed: int) -> list[tuple[float, float]]:
    """Return overlapping, separate, long and short intervals in random order."""
    draw = random.Random(seed)
    starts = [draw.uniform(0, end) for _ in range(5)]
    return [(0.0, end), *((start, min(start + draw.choice([0.1, 1, 5]), end)) for start in starts)]


@pytest.mark.parametrize("name", VIDEOS)
def test_sampled_frames_equal_those_of_a_full_decode(name: str, video: Writer) -> None:
    path = video(name, **VIDEOS[name])
    frames = naive(path)
    for seed in range(4):
        asked = intervals(max(seconds for seconds, _ in frames), seed)
        got = {done.index: done for done in read_clips(path, asked, 8, CROP)}
        assert sorted(got) == list(range(len(asked)))
        for index, (start, end) in enumerate(asked):
            inside = [pixels for seconds, pixels in frames if start <= seconds < end]
            done = got[index]
            if not inside:
                assert isinstance(done, Failure) and "no frame" in done.reason
                continue
            assert isinstance(done, Clip)
            expected = [inside[i] for i in np.linspace(0, len(inside) - 1, 8).astype(int)]
            np.testing.assert_array_equal(done.frames, expected)
            assert done.repeats == (len(inside) < 8)


def test_frames_of_a_stream_without_its_first_keyframe(tmp_path: Path, video: Writer) -> None:
    """The recording begins in the middle: its first packets announce frames that cannot be decoded."""
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
    (done,) = read_clips(path, [(0.0, line.end)], 8, CROP)
    with av.open(str(path)) as container:
        frames = [square(frame, CROP) for frame in container.decode(video=0)]
    assert isinstance(done, Clip)
    np.testing.assert_array_equal(done.frames, [frames[i] for i in np.linspace(0, len(frames) - 1, 8).astype(int)])


@pytest.mark.parametrize("name", ["b-frames.mp4", "open-groups.mkv", "uneven.mp4", "short-groups.mp4"])
def test_no_frame_is_decoded_twice(name: str, video: Writer) -> None:
    path = video(name, **VIDEOS[name])
    line = from_packets(path)
    n = len(line.times)
    with opened(path) as file:
        decoder = _Decoder(file, line, list(range(n)))
        assert [decoder.frame(i).pts for i in range(n)] == line.pts.tolist()
        assert decoder.given == n
    keys = np.flatnonzero(line.keyframes)
    with opened(path) as file:
        decoder = _Decoder(file, line, [0, n - 1])
        decoder.frame(0)
        decoder.frame(n - 1)  # the groups between are skipped
        assert decoder.given <= n - (keys[-1] - keys[2])


def test_frames_that_are_not_needed_are_not_decoded(video: Writer) -> None:
    path = video("leaning.mp4", frames=60, x264_params="bframes=3:b-adapt=0:scenecut=0:keyint=250")
    line = from_packets(path)
    with opened(path) as file:
        shown = [frame.pts for frame in _Decoder(file, line, [0, 20, 59])._decode(0)]
    assert len(shown) < 45 and set(line.pts[[0, 20, 59]]) <= set(shown)


def test_an_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "still.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    (done,) = read_clips(path, [(0.0, 1.0)], 8, Crop(64, 64))
    assert isinstance(done, Clip) and not done.repeats
    np.testing.assert_array_equal(done.frames, [pixels] * 8)


def test_every_clip_is_yielded_once(video: Writer) -> None:
    path = video("b-frames.mp4", **VIDEOS["b-frames.mp4"])
    asked = [(0.0, 1.0), (0.5, 0.9), (5.0, 6.0), (1.0, 2.9), (1.0, 4.0), (0.01, 0.02), (0.5, 0.9)]
    got = {done.index: done for done in read_clips(path, asked, 8, CROP)}
    reasons = {i: done.reason for i, done in got.items() if isinstance(done, Failure)}
    assert sorted(got) == list(range(len(asked))) and sorted(reasons) == [2, 4, 5]
    assert "begins at 5 s" in reasons[2] and "ends at 2.00 s" in reasons[2]
    assert "ends at 4 s" in reasons[4] and "no frame from 0.01 to 0.02 s" in reasons[5]


@pytest.mark.parametrize("name", ["cleaning_pool_a.mp4", "cleaning_pool_b.mp4", "flipping_a_pancake.mkv"])
def test_real_videos(name: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "videos" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    line = from_packets(path)
    assert line.exact and all(a < b for a, b in pairwise(line.times))
    asked = [(0.0, line.end), (line.end / 3, line.end / 2)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(float(frame.pts * stream.time_base), frame) for frame in container.decode(stream)]
        for done in read_clips(path, asked, 8, CROP):
            start, end = asked[done.index]
            inside = [frame for seconds, frame in frames if start <= seconds < end]
            expected = [square(inside[i], CROP) for i in np.linspace(0, len(inside) - 1, 8).astype(int)]
            assert isinstance(done, Clip)
            np.testing.assert_array_equal(done.frames, expected)
