"""Small real files that FFmpeg would read as another format, and files with absurd sizes."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from featurize.manifest import as_manifest
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.picture import Crop, Whole, square

Writer = Callable[..., Path]
CROP = Crop(36, 32)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def read(path: Path) -> Clip | Failure:
    (done,) = read_clips(path, [(0.0, 0.5)], 4, CROP)
    return done


def frames(path: Path) -> np.ndarray:
    done = read(path)
    assert isinstance(done, Clip), done.reason
    return done.frames


def reason(path: Path) -> str:
    done = read(path)
    assert isinstance(done, Failure)
    assert "\n" not in done.reason and "\0" not in done.reason
    return done.reason


def image(path: Path, colour: tuple[int, int, int]) -> None:
    Image.new("RGB", (64, 48), colour).save(path)


def playlist(entry: object) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{entry}\n#EXT-X-ENDLIST\n"


def alias_to(name: str, whole: bytes) -> bytes:
    """Return the MP4 file as a QuickTime file whose frames are in the file `name` of its folder, by an alias record."""
    path = b"volume:" + name.encode()
    alias = bytes(10) + bytes([6]) + b"volume".ljust(27, b"\0") + bytes(12) + bytes([len(name)])
    alias += name.encode().ljust(63, b"\0") + bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">hH", -1, 0)
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
        "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>secret.mp4</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "rtsp.asf": "[Reference]\nRef1=http://127.0.0.1:1/x\n",
        "text.txt": "a recipe for pancakes\n" * 100,
    }
    for name, text in lists.items():
        path = tmp_path / name
        path.write_text(text)
        expected = (
            "is not a video in a known format (playlists and other lists of files are refused): give a video file"
        )
        assert reason(path) == f"{path} {expected}"
    (tmp_path / "alias.mov").write_bytes(alias_to("secret.mp4", secret.read_bytes()))
    with av.open(str(tmp_path / "alias.mov"), options={"enable_drefs": "1"}) as followed:
        assert len(list(followed.decode(video=0))) == 40
    assert "no frame is left" in reason(tmp_path / "alias.mov")


def test_a_file_name_is_not_a_pattern(tmp_path: Path, video: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("seq00.png", "seq01.png", "seq0.jpg", "seq1.jpg"):
        image(Path(name), RED)
    for name in ("seq%02d.png", "seq%d.jpg", "seq*.png", "seq?0.png", "seq{00,01}.png", "seq[0-9]%*.png"):
        image(Path(name), BLUE)
        assert np.abs(frames(Path(name)).astype(int) - BLUE).max() < 3, name
    other, mine = video("other.mp4", g=10), video("mine.mp4", g=10, frames=30).read_bytes()
    Path("other.mp4").write_bytes(other.read_bytes())
    expected = frames(video("mine.mp4"))
    assert not np.array_equal(expected, frames(other))
    names = ["concat:other.mp4", "file:other.mp4", "subfile,,start,0,end,0,,:other.mp4", "a:b.mp4", "pipe:0", "fd:"]
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
    for path in [*map(Path, names), Path(os.fsdecode(b"latin-\xe9.mp4"))]:
        path.write_bytes(mine)
        np.testing.assert_array_equal(frames(path), expected, str(path))


def test_a_reason_is_one_line_for_any_file_name(tmp_path: Path) -> None:
    assert "nul\\x00.mp4' cannot name a file (embedded null byte): correct the path" in reason(tmp_path / "nul\0.mp4")
    assert "new\\nline.mp4' does not exist" in reason(tmp_path / "new\nline.mp4")
    assert "latin-\\udce9.mp4' does not exist" in reason(tmp_path / os.fsdecode(b"latin-\xe9.mp4"))


def test_only_a_regular_file_is_opened(tmp_path: Path, video: Writer) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.mp4", tmp_path / "zero.mp4", Path("/dev/tty")):
        assert reason(path) == f"{path} is a pipe or a device: give a regular file"
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder" in reason(tmp_path / "folder.mp4")
    whole = video("whole.mp4", g=12)
    (tmp_path / "link.mp4").symlink_to(whole)
    np.testing.assert_array_equal(frames(tmp_path / "link.mp4"), frames(whole))


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
    np.save(tmp_path / "frames.npy", frames(path))
    path.write_bytes(path.read_bytes().replace(title.encode(), "crème brûlée".encode("latin-1")))
    yield path


def test_invalid_metadata_does_not_fail_a_file(latin_1: Path) -> None:
    np.testing.assert_array_equal(frames(latin_1), np.load(latin_1.with_name("frames.npy")))
    manifest = as_manifest([latin_1])
    assert not manifest.failures and manifest.rows.select("key", "end").row(0) == ("latin-1_0_1.000", 1.0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """Return a black picture with one bit per pixel."""
    packed = zlib.compressobj()
    rows = b"".join(packed.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_of_absurd_size_are_refused(tmp_path: Path, video: Writer) -> None:
    (tmp_path / "bomb.png").write_bytes(png(12000, 12000))
    image(tmp_path / "lie.gif", RED)
    lie = bytearray((tmp_path / "lie.gif").read_bytes())
    lie[6:10] = struct.pack("<HH", 12000, 12000)
    (tmp_path / "lie.gif").write_bytes(lie)
    for path in (tmp_path / "bomb.png", tmp_path / "lie.gif"):
        assert "has no frame that can be decoded (damaged, or of more than 134,217,728 pixels)" in reason(path)
    (tmp_path / "fair.png").write_bytes(png(4000, 3000))
    assert frames(tmp_path / "fair.png").shape == (4, 32, 32, 3)


def test_compressed_text_chunks_are_bounded(tmp_path: Path) -> None:
    path, many, few = tmp_path / "texts.png", zlib.compress(bytes(70 << 20), 9), zlib.compress(b"pancakes " * 1000)
    for kind, start in (
        (b"zTXt", b"Comment\0\0"),
        (b"iCCP", b"Profile\0\0"),
        (b"iTXt", b"Comment\0\1\0en\0Comment\0"),
        (b"zTXt", b"a name without an end" * 4000 + b"\0\0"),
    ):
        path.write_bytes(png(64, 48, chunk(kind, start + many)))
        assert reason(path) == f"{path} has texts of more than 67,108,864 bytes: save it without them"
    fair = chunk(b"zTXt", b"a\0\0" + few) + chunk(b"iTXt", b"b\0\0\0\0\0plain") + chunk(b"iTXt", b"c\0\1\0\0\0" + few)
    path.write_bytes(png(64, 48, fair))
    (tmp_path / "bare.png").write_bytes(png(64, 48))
    np.testing.assert_array_equal(frames(path), frames(tmp_path / "bare.png"))


def test_narrow_pictures_are_bounded() -> None:
    """A resize of the short side would turn 1.2 million pixels into 150 million."""
    frame = av.VideoFrame.from_ndarray(np.zeros((20, 60000, 3), np.uint8), format="rgb24")
    with pytest.raises(ValueError, match="60000 x 20 is too narrow to resize its short side to 224"):
        square(frame, Crop(224, 224))
    assert square(frame, Crop(None, 224)).shape == (224, 224, 3)


@pytest.fixture
def two_sizes(tmp_path: Path, video: Writer) -> Path:
    """A stream whose frames change their size after 20 frames, made by joining two streams."""
    small = video("small.h264", frames=20, rate=25, g=10)
    large = video("large.h264", frames=20, rate=25, g=10, size=(128, 96))
    path = tmp_path / "sizes.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    return path


def test_an_unexpected_exception_fails_only_its_file(two_sizes: Path, tmp_path: Path) -> None:
    """With uncropped frames a clip across the change has two shapes, which NumPy refuses; the clip before is read."""
    done = sorted(read_clips(two_sizes, [(0.0, 0.6), (0.5, 1.5), (0.9, 1.5)], 8, Whole(480)), key=lambda one: one.index)
    assert [one.index for one in done] == [0, 1, 2]
    first, over, after = done
    assert isinstance(first, Clip) and isinstance(over, Failure) and isinstance(after, Failure)
    assert over.reason.startswith(f"{two_sizes} cannot be decoded (ValueError: could not broadcast")
    assert over.reason.endswith(": convert it") and over.reason == after.reason
