"""Bounded reads of files that people and other tools wrote."""

from collections.abc import Iterator
from pathlib import Path

from stepdiff.common.checked import checked as checked  # used by all readers of this room
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import open_regular

MOST = 2**28
"""bytes of a file that is read whole"""
LINE = 2**20
"""bytes of a line"""


def read_whole(path: str | Path, most: int = MOST) -> bytes:
    """Return the bytes of a file. StepDiffError: not a regular file, or larger than `most` bytes."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise StepDiffError(f"{path}: larger than {most:,} bytes; divide it into several files")
    return data


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, also one with a byte order mark. StepDiffError as `read_whole`, or not UTF-8."""
    try:
        return read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_lines(path: str | Path, most: int = LINE) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line, without its end. StepDiffError: as above, or a line is too long."""
    with open_regular(path) as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            if len(line) > most:
                raise StepDiffError(f"{path}:{number}: a line of more than {most:,} bytes; give one object a line")
            yield number, line.removesuffix(b"\n")


def first_byte(path: str | Path) -> bytes:
    """Return the first byte that is not white space, empty where the file has none in its first MiB."""
    with open_regular(path) as file:
        return file.read(LINE).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
