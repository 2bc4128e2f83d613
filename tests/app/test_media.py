"""Clips cut from videos and their pictures, compared with the frames that PyAV decodes from the whole video."""

import tarfile
import threading
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image

from app.media.cache import Cache
from app.media.cut import MOST_PIXELS, cut, filmstrip
from app.media.routes import _made as made
from app.site import Site, UnknownError
from common.errors import StepDiffError
from store import Store


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return time in seconds and RGB pixels of every frame."""
    with av.open(str(path)) as container:
        return [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def video(world: Path) -> Path:
    return next((world / "kitchen" / "videos").glob("*.mp4"))


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.5, 4.25), (2.03, 2.5), (3.0, 3.04)])
def test_a_cut_clip_has_exactly_the_frames_with_start_time_end_at_their_times_in_the_video(
    video: Path, tmp_path: Path, start: float, end: float
) -> None:
    cut(video, start, end, tmp_path / "clip.mp4")
    expected = [(time - start, pixels) for time, pixels in frames(video) if start <= time + 1e-6 < end]
    found = frames(tmp_path / "clip.mp4")
    assert len(found) == len(expected) > 0
    first = found[0][0]  # a player starts with the first frame
    assert [time - first for time, _ in found] == pytest.approx(
        [time - expected[0][0] for time, _ in expected], abs=0.002
    )
    for (_, pixels), (_, wanted) in zip(found, expected, strict=True):
        assert np.abs(pixels.astype(int) - wanted).mean() < 6, "H.264 loses a little"


def test_a_cut_clip_is_never_larger_than_most_pixels_on_its_long_side(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 1922, 202, "yuv420p"
        for shade in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((202, 1922, 3), shade * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cut(tmp_path / "wide.mp4", 0.0, 1.0, tmp_path / "clip.mp4")
    assert {pixels.shape for _, pixels in frames(tmp_path / "clip.mp4")} == {(100, MOST_PIXELS, 3)}


def test_sound_is_cut_with_the_pictures(tmp_path: Path, video: Path) -> None:
    """A beep from 1 to 2 s of the video starts 0.5 s after the start of a clip from 0.5 s."""
    rate = 16_000
    with av.open(str(tmp_path / "beep.mp4"), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=rate)
        sound.layout = "mono"
        for _ in range(40):
            blank = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(blank))
        time = np.arange(4 * rate) / rate
        wave = (0.5 * np.sin(2 * np.pi * 440 * time) * ((time >= 1) & (time < 2))).astype(np.float32)
        for at in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = rate, at
            container.mux(sound.encode(part))
        container.mux(pictures.encode(None))
        container.mux(sound.encode(None))
    cut(tmp_path / "beep.mp4", 0.5, 3.0, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        loud = [float(frame.time or 0) for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.1]
    assert 0.4 < min(loud) < 0.6 and 1.35 < max(loud) < 1.6


def test_a_clip_that_cannot_be_cut_is_one_line(video: Path, tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="has no frame from 900 to 901 s"):
        cut(video, 900.0, 901.0, tmp_path / "clip.mp4")
    with pytest.raises(StepDiffError, match="at most 600 s"):
        cut(video, 0.0, 601.0, tmp_path / "clip.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(StepDiffError, match="is not a video"):
        cut(tmp_path / "text.mp4", 0.0, 1.0, tmp_path / "clip.mp4")


def test_a_filmstrip_shows_frames_of_the_clip_side_by_side(video: Path, tmp_path: Path) -> None:
    filmstrip(video, 0.5, 4.5, 8, 90, tmp_path / "strip.jpg")
    with Image.open(tmp_path / "strip.jpg") as strip:
        width, height = frames(video)[0][1].shape[1::-1]
        assert strip.size == (8 * round(width * 90 / height), 90)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 100)

    def half(out: Path) -> None:
        out.write_bytes(b"half")
        raise StepDiffError("no more")

    with pytest.raises(StepDiffError, match="no more"):
        cache.get("one", ".mp4", half)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_several_requests_need_is_made_once(tmp_path: Path) -> None:
    cache, made, gate = Cache(tmp_path / "cache", 100), [], threading.Barrier(4)

    def make(out: Path) -> None:
        made.append(out)
        out.write_bytes(b"clip")

    def request() -> None:
        gate.wait()
        assert cache.get("one", ".mp4", make).read_bytes() == b"clip"

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_after_a_file_is_added_the_folder_is_at_most_as_large_as_its_limit(tmp_path: Path) -> None:
    """The files that were read longest ago go first."""
    import os

    cache = Cache(tmp_path / "cache", 30)
    for place, name in enumerate(("a", "b", "c")):
        path = cache.get(name, ".bin", lambda out: out.write_bytes(bytes(10)) and None)
        os.utime(path, (place, place))
    cache.get("a", ".bin", lambda out: pytest.fail("it is there"))  # read again
    cache.get("d", ".bin", lambda out: out.write_bytes(bytes(10)) and None)
    made: list[str] = []
    for name in ("a", "c", "d", "b"):
        cache.get(name, ".bin", lambda out, name=name: (made.append(name), out.write_bytes(bytes(10))) and None)
    assert made == ["b"]
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 30


@pytest.mark.parametrize("video", ["../../secret.mp4", "/etc/passwd", "videos/../../../x", "link.mp4", "nothing.mp4"])
def test_no_path_leads_out_of_the_folder_of_videos(tmp_path: Path, video: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    store = Store.open(tmp_path / "features", create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": ["x"], "video": [video], "start": [0.0], "end": [1.0]}))
    site = Site.open(str(tmp_path / "features"), str(tmp_path / "videos"), cache=str(tmp_path / "cache"))
    with pytest.raises(UnknownError, match="is not a file in the folder of videos"):
        site.file(site.clip("x"))


def test_clips_come_in_the_order_asked_for(world: Path) -> None:
    site = Site.open(str(world / "features"))
    keys = Store.open(world / "features").catalog("clips").frame()["key"].to_list()
    wanted = [keys[5], keys[0], keys[5], keys[3]]
    assert [clip.key for clip in site.clips(wanted)] == wanted
    with pytest.raises(UnknownError, match="no clip 'nothing'"):
        site.clips([keys[0], "nothing"])
    with pytest.raises(UnknownError, match="start the server with --videos"):
        site.file(site.clip(keys[0]))


def test_an_image_in_a_tar_file_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    Image.new("RGB", (64, 48), (250, 0, 0)).save(tmp_path / "red.png")
    for tar in (folder / "00000.tar", tmp_path / "outside.tar"):
        with tarfile.open(tar, "w") as file:
            file.add(tmp_path / "red.png", "red.png")
    (folder / "link.tar").symlink_to(tmp_path / "outside.tar")
    store = Store.open(tmp_path / "features", create=True)
    videos = ["00000.tar/red.png", "link.tar/red.png", "gone.tar/red.png"]
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": videos, "video": videos, "start": 0.0, "end": 1.0}))
    site = Site.open(str(tmp_path / "features"), str(folder), cache=str(tmp_path / "cache"))

    def strip(key: str) -> Path:
        return made(site, key, "strip", ".jpg", lambda *clip: filmstrip(*clip[:3], 2, 24, clip[3]))

    with Image.open(strip(videos[0])) as image:
        assert image.size == (64, 24) and image.getpixel((40, 12))[0] > 240
    for video in videos[1:]:
        with pytest.raises(UnknownError, match="is not a file in the folder of videos"):
            strip(video)
