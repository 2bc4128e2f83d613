"""Frames that torch resizes on a device have the same bits. The device is a CPU, or a GPU where there is one."""

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featurize.video import device_resize, picture
from featurize.video.decode import Failure, read_clips
from featurize.video.device_resize import resized_parts
from featurize.video.picture import PART, Crop, Picture, Resample
from featurize.video.resize import DeviceError, resized_part
from store import Store
from store.io.records import all_writes

Writer = Callable[..., Path]
Run = Callable[..., tuple[int, dict[str, Any], str]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDES, NAMES = st.integers(1, 96), st.sampled_from(["bicubic", "bilinear", "lanczos"])


@given(SIDES, SIDES, SIDES, SIDES, NAMES, st.integers(1, 3), st.booleans(), st.data())
def test_the_pixels_are_those_of_pillow(
    width: int, height: int, wide: int, high: int, resample: Resample, count: int, extreme: bool, data: st.DataObject
) -> None:
    left, top = data.draw(st.integers(0, wide - 1)), data.draw(st.integers(0, high - 1))
    part = (left, top, data.draw(st.integers(left + 1, wide)), data.draw(st.integers(top + 1, high)))
    pictures = np.random.default_rng(width * height).integers(0, 256, (count, height, width, 3), np.uint8)
    if extreme:  # sums are the largest and the least
        pictures = np.where(pictures > 127, 255, 0).astype(np.uint8)
    how = Image.Resampling[resample.upper()]
    parts = resized_parts(list(pictures), (wide, high), part, resample, DEVICE)
    for given_pixels, got in zip(pictures, parts, strict=True):
        whole = Image.fromarray(given_pixels).resize((wide, height), how).resize((wide, high), how)
        np.testing.assert_array_equal(got, np.asarray(whole)[part[1] : part[3], left : part[2]])
        np.testing.assert_array_equal(got, resized_part(given_pixels, (wide, high), part, resample))


CROPS = [Crop(36, 32), Crop(256, 224), Crop(None, 48, "bilinear"), Crop(40, 40, "lanczos")]


@pytest.mark.parametrize("size", [(640, 360), (359, 641), (1920, 1080), (96, 64), (50, 2000), (33, 33)])
@pytest.mark.parametrize("crop", CROPS, ids=str)
def test_crops_of_encoders_have_the_same_pixels(size: tuple[int, int], crop: Crop) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, size[1], size[0], 3), dtype=np.uint8)
    frames = [av.VideoFrame.from_ndarray(one, format="rgb24") for one in pixels]
    check_same(list(enumerate(frames)), crop)


def on_device(crop: Crop) -> Crop:
    return Crop(crop.short_side, crop.size, crop.resample, DEVICE)


def check_same(frames: list[tuple[int, av.VideoFrame]], crop: Crop) -> None:
    got = list(picture.numbered_pixels(iter(frames), on_device(crop)))
    assert [number for number, _ in got] == [number for number, _ in frames]
    for (_, pixels), (_, frame) in zip(got, frames, strict=True):
        np.testing.assert_array_equal(pixels, picture.pixels_of(frame, crop))


def read(path: Path, crop: Picture) -> dict[int, np.ndarray | str]:
    asked = [(start / 4, start / 4 + length) for start in range(8) for length in (0.3, 1.0)]
    asked += [(0.0, 2.0), (90.0, 91.0)]
    done = {one.index: one for one in read_clips(path, asked, 8, crop)}
    assert sorted(done) == list(range(len(asked)))
    return {number: one.reason if isinstance(one, Failure) else one.frames for number, one in done.items()}


def check_clips(path: Path, crop: Crop = CROPS[0]) -> list[str]:
    """Check that all clips, and all reasons of failure, are those without a device; return the reasons."""
    expected = read(path, crop)
    for number, got in read(path, on_device(crop)).items():
        np.testing.assert_array_equal(got, expected[number])
    return [one for one in expected.values() if isinstance(one, str)]


@pytest.mark.parametrize("part", [1, 60_000, PART])  # one frame, three, all
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b-frames.mp4", {"g": 12, "bf": 3, "sc_threshold": 0}),
        ("turned.mp4", {"rotation": {"degrees": 90}, "g": 9, "bf": 2}),
        ("mirrored.mp4", {"rotation": {"degrees": 180, "hflip": True}, "g": 9, "bf": 2}),
        ("mpeg4.avi", {"codec": "mpeg4", "g": 7, "bf": 2}),
    ],
)
def test_overlapping_clips_have_the_same_frames(
    name: str, options: dict[str, Any], part: int, video: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "PART", part)
    assert len(check_clips(video(name, **options))) == 1


def test_frames_of_a_video_that_changes_its_size(tmp_path: Path) -> None:
    path = tmp_path / "two-sizes.mjpeg.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(40):
            size = (64, 96) if 13 <= number < 30 else (96, 64)
            coder = av.CodecContext.create("mjpeg", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = *size, "yuvj420p", Fraction(1, 20)
            pixels = np.full((size[1], size[0], 3), number * 6, np.uint8)
            pixels[: number + 1] = (255, 0, 0)
            for packet in coder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 20), stream
                container.mux(packet)
    with av.open(str(path)) as container:
        assert len({(frame.width, frame.height) for frame in container.decode(video=0)}) == 2
    assert len(check_clips(path)) == 1


@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
def test_an_error_fails_only_the_clips_that_it_fails_without_a_device(
    size: tuple[int, int], video: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that wait to be resized when a later one cannot be decoded are of clips that may be complete."""
    upright = picture._upright

    def odd(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
        if frame.time is not None and frame.time > 1.2:
            raise ValueError("an odd frame")
        return upright(pixels, frame)

    monkeypatch.setattr(picture, "_upright", odd)
    reasons = check_clips(video(f"odd-{size[0]}.mp4", size=size, g=12))
    assert sum("an odd frame" in reason for reason in reasons) == len(reasons) - 1 and 2 < len(reasons) < 17


def test_frames_that_wait_are_bounded(video: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread keeps PART bytes of full frames, or of crops where they are larger, or one frame."""
    shapes: list[tuple[int, ...]] = []

    def counted(pictures: Sequence[np.ndarray], *how: Any) -> np.ndarray:
        shapes.append((len(pictures), *pictures[0].shape))
        return resized_parts(pictures, *how)

    monkeypatch.setattr(device_resize, "resized_parts", counted)
    path, frame = video("b-frames.mp4", g=12, bf=3, sc_threshold=0), 96 * 64 * 3
    for part, crop, most in (
        (4 * frame + 1, CROPS[0], 4),
        (frame - 1, CROPS[0], 1),
        (7 * 224 * 224 * 3, CROPS[1], 7),
    ):
        monkeypatch.setattr(picture, "PART", part)
        shapes.clear()
        read(path, on_device(crop))
        assert max(shape[0] for shape in shapes) == most and {shape[1:] for shape in shapes} == {(64, 96, 3)}


def test_a_device_without_memory_leaves_frames_to_the_cpu(video: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(device_resize, "_pass", full)
    assert len(check_clips(video("b-frames.mp4", g=12, bf=3, sc_threshold=0))) == 1


def test_an_error_of_a_device_fails_no_clip(video: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(device_resize, "_pass", broken)
    with pytest.raises(DeviceError, match="cannot resize frames: CUDA error"):
        read(video("b-frames.mp4", g=12, bf=3, sc_threshold=0), on_device(CROPS[0]))


def test_features_of_a_job_are_the_same(tmp_path: Path, video: Writer, tiny_clip: Path, featurize: Run) -> None:
    """To the digest of each shard, and a view is filled with and without the option."""
    sizes = {"one.mp4": (96, 64), "two.mp4": (70, 90), "three.mp4": (322, 182), "four.mp4": (96, 64)}
    paths = [video(f"job-{name}", size=size, g=10) for name, size in sizes.items()]
    given = ["--encoder", "clip", "--weights", tiny_clip, "--device", DEVICE, "--shard-size", "1", "--windows", "0.5"]
    stores = {}
    for how in ("cpu", "device"):
        status, summary, _ = featurize(*paths, "--store", tmp_path / how, *given, "--resize-on", how)
        assert status == 0 and summary["done"] == 16
        stores[how] = Store.open(tmp_path / how).view("clips", "clip")
    cpu, device = stores["cpu"], stores["device"]
    assert cpu.provenance == device.provenance
    for name in cpu.features:
        np.testing.assert_array_equal(cpu.read(name, range(16)), device.read(name, range(16)))
    assert digests(tmp_path / "cpu") == digests(tmp_path / "device") and digests(tmp_path / "cpu")
    assert [info.get("resize_on") for info in infos(cpu)] == [None] and infos(device)[0]["resize_on"] == DEVICE
    more = video("job-five.mp4", size=(50, 60), g=10)
    assert featurize(more, "--store", tmp_path / "cpu", *given, "--resize-on", "device")[0] == 0


def infos(view: Any) -> list[dict[str, Any]]:
    return [write.info for _, writes in all_writes(view.paths, view.rows_per_shard) for write in writes]


def digests(store: Path) -> dict[str, str]:
    """Return the digest of each file of features of a store."""
    files = (file for file in store.rglob("c/**/*") if file.is_file())
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_an_encoder_that_resizes_frames_is_refused(
    tmp_path: Path, video: Writer, featurize: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(tmp_path)
    path = video("b-frames.mp4", g=12, bf=3, sc_threshold=0)
    given = [path, "--store", tmp_path / "store", "--encoder", "whole:Whole"]
    status, _, errors = featurize(*given, "--resize-on", "device")
    assert status == 2 and "encoder whole resizes frames by itself: leave --resize-on device out" in errors
    assert featurize(*given)[0] == 0


WHOLE = """
import numpy as np
from featurize.encoders import Encoder
from featurize.video.picture import Bounded
from store import Feature


class Whole(Encoder):
    name, entities, layer, version, picture = "whole", ("clips",), "count", "1", Bounded(64)

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        return {"embedding": Feature((1,), "float32")}

    def encode_whole(self, frames, seconds):
        return {"embedding": np.array([frames.size], np.float32)}
"""
