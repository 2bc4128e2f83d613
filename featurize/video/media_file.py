"""A media file, opened as itself. This is the only module that hands a file to FFmpeg.

FFmpeg takes a name for an instruction: a URL, a pattern of images, the folder of a playlist's
entries. Here it receives an open file with a neutral name, a closed list of formats, and no
protocol with which it could open anything else.

The identity of a file is its size and a digest of its first and last MiB, because reading whole
files would cost as much as decoding them: containers keep their index, with the size of every
frame, at one of the two ends. A member of a tar file, FILE.tar/MEMBER, is a file as any other.

Guarantees
- a pipe, a device or a folder is refused and never blocks; of a path no other file is read:
  playlists are refused, external tracks are not followed, and no character of a name is a pattern
- memory is bounded: a picture has at most MAX_PIXELS, the texts and profiles of a PNG at most
  MAX_TEXT once unpacked
- a file is read once, however many clips it has; one that cannot be read has no identity, which is
  no error
"""

import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import av
import av.container

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import shown
from stepdiff_core.io.tars import TarPart, open_member
from stepdiff_core.progress import progress

MAX_PIXELS = 1 << 27
"""pixels of a picture: 16384 x 8192, which is four frames of 8K video, and more than a photograph
of 108 megapixels"""
MAX_TEXT = 1 << 26  # bytes of all texts and colour profiles of a PNG, unpacked
SELF_CONTAINED = (
    # containers
    *(
        "asf",
        "avi",
        "dv",
        "flv",
        "gxf",
        "ivf",
        "kux",
        "live_flv",
        "matroska",
        "mov",
        "mpeg",
        "mpegts",
        "mxf",
        "nsv",
    ),
    *("nut", "nuv", "ogg", "pva", "rm", "wtv", "yuv4mpegpipe"),
    # streams without a container
    *(
        "apv",
        "av1",
        "avs2",
        "avs3",
        "cavsvideo",
        "dirac",
        "dnxhd",
        "evc",
        "h261",
        "h263",
        "h264",
        "hevc",
        "m4v",
    ),
    *("mjpeg", "mjpeg_2000", "mpegvideo", "obu", "smjpeg", "vc1", "vc1test", "vvc"),
    # animations and still images
    *(
        "apng",
        "gif",
        "jpegxl_anim",
        "ico",
        "image2",
        "bmp_pipe",
        "dds_pipe",
        "dpx_pipe",
        "exr_pipe",
        "gif_pipe",
    ),
    *(
        "hdr_pipe",
        "j2k_pipe",
        "jpeg_pipe",
        "jpegls_pipe",
        "jpegxl_pipe",
        "jpegxs_pipe",
        "pam_pipe",
        "pbm_pipe",
    ),
    *(
        "pcx_pipe",
        "pfm_pipe",
        "pgm_pipe",
        "pgmyuv_pipe",
        "phm_pipe",
        "png_pipe",
        "ppm_pipe",
        "psd_pipe",
        "qoi_pipe",
    ),
    *("sgi_pipe", "sunrast_pipe", "tiff_pipe", "webp_pipe", "xwd_pipe"),
    # sound, so that the reason can be that there are no pictures
    *("aac", "ac3", "aiff", "amr", "caf", "flac", "mp3", "wav"),
)
"""demuxers of FFmpeg that read the file they are given and no other, unlike concat, hls, dash, imf,
sdp, vobsub"""
_DECODER = {"max_pixels": str(MAX_PIXELS)}
_DEMUXER = {
    "format_whitelist": ",".join(SELF_CONTAINED),
    "protocol_whitelist": "none",
    "enable_drefs": "0",
}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SEPARATORS = {b"zTXt": 1, b"iCCP": 1, b"iTXt": 4}
"""NUL characters before the compressed part, of each kind of chunk; of iTXt one is the method"""
BYTES, DIGEST = "video_bytes", "video_digest"  # the catalog's columns of a clip's identity
END_BYTES = 2**20  # at each end of a file that its digest covers
_DIGITS = 16  # of the sha256
_THREADS = 16  # files that are read at once: most wait for a disk or a file server
_TOGETHER = 1024  # files between two looks at the progress


@contextmanager
def opened_alone(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a media file with FFmpeg, its decoders limited.

    Raises:
        StepDiffError: the path names no regular file, or one without content.
        OSError: the file does not exist or cannot be read.
        av.error.FFmpegError: FFmpeg finds none of the formats in it.
    """
    with content(path) as file:
        if not file.seek(0, os.SEEK_END):
            raise StepDiffError(f"{shown(path)} is empty (0 bytes): copy it again")
        # FFmpeg looks at it to guess the format
        extension = re.search(r"\.[A-Za-z0-9]+\Z", path.name)
        file.name = f"file{extension[0] if extension else ''}"
        if unpacked_size(file, MAX_TEXT) > MAX_TEXT:
            raise StepDiffError(
                f"{shown(path)} has texts of more than {MAX_TEXT:,} bytes: save it without them"
            )
        file.seek(0)
        with av.open(
            file, "r", options=_DEMUXER | _DECODER, metadata_errors="replace"
        ) as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.options = dict(_DECODER)
            yield container


def why(path: Path, error: Exception) -> str:
    """Return why a file fails, in one line that names it, whatever FFmpeg, PyAV or Pillow
    raised."""
    if isinstance(error, StepDiffError):
        return str(error)
    description = (
        " ".join(f"{type(error).__name__}: {error}".split())
        .encode("utf-8", "backslashreplace")
        .decode()
    )
    return f"{shown(path)} cannot be decoded ({description}): convert it"


def content(path: Path) -> io.FileIO | TarPart:
    """Open a regular file, or a member of a tar file, for reading.

    Raises:
        StepDiffError: the path names a pipe, a device or no member of its tar file.
        OSError: the file does not exist or cannot be read.
    """
    try:
        state = os.stat(path)
    except ValueError as error:
        raise StepDiffError(
            f"{shown(path)} cannot name a file ({error}): correct the path"
        ) from None
    except NotADirectoryError:
        if (member := open_member(path)) is None:
            raise
        return member
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
        raise StepDiffError(f"{shown(path)} is a pipe or a device: give a regular file")
    # O_NONBLOCK: a pipe that has replaced the file since must not block
    return io.FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def unpacked_size(file: io.FileIO | TarPart, most: int) -> int:
    """Return the bytes of all texts and profiles of a PNG once unpacked, or more than `most` where
    there are more.

    file: left anywhere.
    """
    size = 0
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return size
    while len(head := file.read(8)) == 8 and size <= most:
        length, kind = int.from_bytes(head[:4]), head[4:]
        after = file.tell() + length + 4  # a checksum follows
        if kind in _SEPARATORS:
            *words, packed = file.read(min(length, most)).split(b"\0", _SEPARATORS[kind])
            if kind != b"iTXt":
                packed = packed[1:]  # the method
            if kind != b"iTXt" or words[1:2] == [b"\1"]:  # else it is not compressed
                with suppress(zlib.error):  # decoders stop there too
                    size += len(zlib.decompressobj().decompress(packed, most + 1))
        file.seek(after)
    return size


class Identity(NamedTuple):
    """What a file is."""

    nbytes: int
    digest: str  # sha256 of its first and last MiB, the first 16 hex digits

    def __str__(self) -> str:
        return f"{self.nbytes} bytes, digest {self.digest}"


def identity(path: Path) -> Identity | None:
    """Return the identity of a file, None if it is missing, unreadable or not a regular file."""
    try:
        with io.BufferedReader(content(path)) as file:
            nbytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            state = hashlib.sha256(file.read(END_BYTES))
            file.seek(max(nbytes - END_BYTES, END_BYTES))
            state.update(file.read(END_BYTES))
    except (OSError, StepDiffError):
        return None
    return Identity(nbytes, state.hexdigest()[:_DIGITS])


def identities(paths: Mapping[str, Path], quiet: bool = False) -> dict[str, Identity | None]:
    """Return the identity of each file, by the name that `paths` gives it; `quiet` shows no
    progress."""
    files = list(dict.fromkeys(paths.values()))
    by_path: dict[Path, Identity | None] = {}
    many = len(files) > _TOGETHER and not quiet
    shown = (
        progress("video files compared", len(files), "files")
        if many
        else nullcontext(lambda count: None)
    )
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="identity") as pool, shown as advance:
        for first in range(0, len(files), _TOGETHER):
            batch = files[first : first + _TOGETHER]
            by_path |= zip(batch, pool.map(identity, batch), strict=True)
            advance(len(batch))
    return {name: by_path[path] for name, path in paths.items()}
