"""A media file, opened as itself. This is the only module that hands a file to FFmpeg.

FFmpeg takes a name for an instruction: a URL, a pattern of images, the folder of a playlist's entries. Here it receives
an open file with a neutral name, a closed list of formats, and no protocol with which it could open anything else.

Guarantees
- only_a_regular_file_is_opened: a pipe, a device or a folder is refused and never blocks
- no_other_file_is_read: playlists and other lists of files are refused, and external tracks are not followed
- a_file_name_is_not_a_pattern: a file is opened under exactly its name, whatever characters the name has
- invalid_metadata_does_not_fail_a_file: metadata may be in another encoding than UTF-8
- pictures_of_absurd_size_are_refused: no memory is allocated for a picture of more than MAX_PIXELS
- compressed_text_chunks_are_bounded: a PNG whose texts and profiles unpack to more than MAX_TEXT is refused
"""

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.container

from common.errors import StepDiffError
from featurize.video.png_texts import unpacked_size

MAX_PIXELS = 1 << 27
"""pixels of a picture: 16384 x 8192, which is four frames of 8K video, and more than a photograph of 108 megapixels"""
MAX_TEXT = 1 << 26
"""bytes of all texts and colour profiles of a PNG, unpacked"""
SELF_CONTAINED = (
    # containers
    *("asf", "avi", "dv", "flv", "gxf", "ivf", "kux", "live_flv", "matroska", "mov", "mpeg", "mpegts", "mxf", "nsv"),
    *("nut", "nuv", "ogg", "pva", "rm", "wtv", "yuv4mpegpipe"),
    # streams without a container
    *("apv", "av1", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "evc", "h261", "h263", "h264", "hevc", "m4v"),
    *("mjpeg", "mjpeg_2000", "mpegvideo", "obu", "smjpeg", "vc1", "vc1test", "vvc"),
    # animations and still images
    *("apng", "gif", "jpegxl_anim", "ico", "image2", "bmp_pipe", "dds_pipe", "dpx_pipe", "exr_pipe", "gif_pipe"),
    *("hdr_pipe", "j2k_pipe", "jpeg_pipe", "jpegls_pipe", "jpegxl_pipe", "jpegxs_pipe", "pam_pipe", "pbm_pipe"),
    *("pcx_pipe", "pfm_pipe", "pgm_pipe", "pgmyuv_pipe", "phm_pipe", "png_pipe", "ppm_pipe", "psd_pipe", "qoi_pipe"),
    *("sgi_pipe", "sunrast_pipe", "tiff_pipe", "webp_pipe", "xwd_pipe"),
    # sound, so that the reason can be that there are no pictures
    *("aac", "ac3", "aiff", "amr", "caf", "flac", "mp3", "wav"),
)
"""demuxers of FFmpeg that read the file they are given and no other, unlike concat, hls, dash, imf, sdp, vobsub"""
_DECODER = {"max_pixels": str(MAX_PIXELS)}
_DEMUXER = {"format_whitelist": ",".join(SELF_CONTAINED), "protocol_whitelist": "none", "enable_drefs": "0"}


@contextmanager
def opened_alone(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a media file with FFmpeg, its decoders limited.

    Raises:
        StepDiffError: the path names no regular file, or one without content.
        OSError: the file does not exist or cannot be read.
        av.error.FFmpegError: FFmpeg finds none of the formats in it.
    """
    with _regular(path) as file:
        if unpacked_size(file, MAX_TEXT) > MAX_TEXT:
            raise StepDiffError(f"{shown(path)} has texts of more than {MAX_TEXT:,} bytes: save it without them")
        file.seek(0)
        with av.open(file, "r", options=_DEMUXER | _DECODER, metadata_errors="replace") as container:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.options = dict(_DECODER)
            yield container


def shown(path: Path) -> str:
    """Return the path as messages name it: on one line, in characters that can be stored."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def why(path: Path, error: Exception) -> str:
    """Return why a file fails, in one line that names it, whatever FFmpeg, PyAV or Pillow raised."""
    if isinstance(error, StepDiffError):
        return str(error)
    said = " ".join(f"{type(error).__name__}: {error}".split()).encode("utf-8", "backslashreplace").decode()
    return f"{shown(path)} cannot be decoded ({said}): convert it"


def _regular(path: Path) -> io.FileIO:
    """Open the file. Its name keeps of the path only a plain extension, which FFmpeg looks at to guess the format."""
    try:
        found = os.stat(path)
    except ValueError as error:
        raise StepDiffError(f"{shown(path)} cannot name a file ({error}): correct the path") from None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise StepDiffError(f"{shown(path)} is a pipe or a device: give a regular file")
    if not found.st_size and not stat.S_ISDIR(found.st_mode):
        raise StepDiffError(f"{shown(path)} is empty (0 bytes): copy it again")
    # O_NONBLOCK: a pipe that has replaced the file since must not block
    file = io.FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    extension = re.search(r"\.[A-Za-z0-9]+\Z", path.name)
    file.name = f"file{extension[0] if extension else ''}"
    return file
