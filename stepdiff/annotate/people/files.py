"""Bounded reads of files that people and other tools wrote."""

from pathlib import Path

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import open_regular

MOST = 2**28  # bytes of a file that is read whole


def read_whole(path: str | Path) -> bytes:
    """Return the bytes of a file. StepDiffError: not a regular file, or larger than MOST."""
    with open_regular(path) as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise StepDiffError(f"{path}: larger than {MOST:,} bytes; divide it into several files")
    return data


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, also one with a byte order mark. StepDiffError as `read_whole`, or not UTF-8."""
    try:
        return read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def first_byte(path: str | Path) -> bytes:
    """Return the first byte that is not white space, empty where the file has none in its first MiB."""
    with open_regular(path) as file:
        return file.read(2**20).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
