"""Unreadable and partly readable files have one reason each; pictures are turned upright."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import StepDiffError
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.picture import Crop, Resample, Whole, square
from featurize.video.stream import opened
from featurize.video.timeline import from_packets

Writer = Callable[..., Path]


def reason(path: Path) -> str:
    with pytest.raises(StepDiffError) as error:
        from_packets(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_file_that_cannot_be_read_has_one_reason(tmp_path: Path, video: Writer, audio: Path) -> None:
    whole = video("whole.mp4", g=12).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("a recipe for pancakes\n" * 100)
    (tmp_path / "text.txt").write_text("a recipe for pancakes\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.mp4").mkdir()
    assert "does not exist" in reason(tmp_path / "missing.mp4")
    assert "is empty (0 bytes)" in reason(tmp_path / "empty.mp4")
    assert "not a video" in reason(tmp_path / "text.mp4")
    assert "not a video" in reason(tmp_path / "text.txt")
    assert "not a video" in reason(tmp_path / "noise.mp4")
    assert "cut short" in reason(tmp_path / "cut.mp4")
    assert "is a folder" in reason(tmp_path / "folder.mp4")
    assert "audio but no pictures" in reason(audio)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_is_a_failure(tmp_path: Path, video: Writer) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(video("whole.mp4", g=12).read_bytes())
    path.chmod(0)
    assert "cannot be read" in reason(path)


def test_an_impossible_duration_is_ignored(tmp_path: Path, video: Writer) -> None:
    whole = video("length.mkv", g=10).read_bytes()
    (length,) = set(re.findall(rb"\d\d:\d\d:\d\d\.\d{9}", whole))
    path = tmp_path / "length.mkv"
    path.write_bytes(whole.replace(length, b"about half an hour"))
    (clip,) = read_clips(path, [(0.0, 1.0)], 2, Whole(32))
    assert isinstance(clip, Clip)


@pytest.mark.parametrize("name", ["index-first.mp4", "cut.mkv"])
def test_clips_before_the_cut_of_a_truncated_file_are_read(tmp_path: Path, video: Writer, name: str) -> None:
    path, whole = tmp_path / name, tmp_path / f"whole-{name}"
    with av.open(str(video("whole.mp4", g=12))) as source:
        with av.open(str(whole), "w", options={"movflags": "faststart"} if name.endswith("mp4") else {}) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    kept, lost = sorted(read_clips(path, [(0.0, 0.5), (0.0, 2.0)], 8, Crop(36, 32)), key=lambda done: done.index)
    (expected, *_) = read_clips(whole, [(0.0, 0.5)], 8, Crop(36, 32))
    assert isinstance(kept, Clip) and isinstance(expected, Clip)
    np.testing.assert_array_equal(kept.frames, expected.frames)
    assert isinstance(lost, Failure) and "promises 2.00 s" in lost.reason and "cut short" in lost.reason


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
    asked = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    first, damaged, last = sorted(read_clips(path, asked, 8, Crop(36, 32)), key=lambda done: done.index)
    assert isinstance(damaged, Failure) and "is damaged between 1 and 2 s" in damaged.reason
    for done, (start, end) in ((first, asked[0]), (last, asked[2])):
        (expected,) = read_clips(source, [(start, end)], 8, Crop(36, 32))
        assert isinstance(done, Clip) and isinstance(expected, Clip)
        np.testing.assert_array_equal(done.frames, expected.frames)


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
def test_a_rotated_frame_is_turned_upright(tmp_path: Path, turn: dict[str, object], expected: list[str]) -> None:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.set_display_rotation(**turn)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(), format="rgb24")))
        container.mux(stream.encode(None))
    (done,) = read_clips(path, [(0.0, 0.1)], 1, Crop(64, 64))
    assert isinstance(done, Clip)
    assert corners(done.frames[0]) == expected


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, -90), (8, 90)])
def test_a_rotated_photograph_is_turned_upright(tmp_path: Path, orientation: int, degrees: int) -> None:
    path = tmp_path / "photograph.jpg"
    image = Image.fromarray(marked())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95, subsampling=0)
    (done,) = read_clips(path, [(0.0, 1.0)], 1, Crop(64, 64))
    assert isinstance(done, Clip)
    assert corners(done.frames[0]) == next(names for turn, names in TURNS if turn == {"degrees": degrees})


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (20, 30), (641, 359)])
def test_square_frames_are_resized_bicubically_and_centre_cropped(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = square(av.VideoFrame.from_ndarray(pixels, format="rgb24"), Crop(40, 32))
    scaled = (int(width * 40 / min(size)), int(height * 40 / min(size)))
    resized = Image.fromarray(pixels).resize(scaled, Image.Resampling.BICUBIC)
    left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
    np.testing.assert_array_equal(got, np.asarray(resized)[top : top + 32, left : left + 32])


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(96, 64), (20, 30), (641, 359)])
def test_both_sides_or_the_short_side_are_resized_with_the_filter(size: tuple[int, int], resample: Resample) -> None:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    image, how = Image.fromarray(pixels), Image.Resampling[resample.upper()]
    np.testing.assert_array_equal(square(frame, Crop(None, 32, resample)), np.asarray(image.resize((32, 32), how)))
    scaled = image.resize((int(width * 32 / min(size)), int(height * 32 / min(size))), how)
    left, top = (scaled.width - 32) // 2, (scaled.height - 32) // 2
    expected = np.asarray(scaled)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(square(frame, Crop(32, 32, resample)), expected)


def test_each_crop_has_its_own_provenance() -> None:
    """Views made before crops could be chosen keep their provenance."""
    assert str(Crop(40, 32)) == "short side 40, centre crop 32"
    crops = [Crop(short, 32, resample) for short in (32, 40, None) for resample in get_args(Resample)]
    assert len({str(crop) for crop in crops}) == len(crops) == 9
