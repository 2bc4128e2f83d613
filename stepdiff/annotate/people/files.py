"""Bounded reads of files that people and other tools wrote."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import open_regular
from stepdiff.common.io.jsonl import objects_of

MOST = 2**28  # bytes of a file that is read whole
LINE = 2**20  # bytes of a line


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


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `path:line` and the object of each line, one line in memory at a time.

    StepDiffError: not a regular file, or a line that is too long, empty, not UTF-8, not JSON or not an object.
    """
    return objects_of(_lines(path), path)


def _lines(path: str | Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        for number in count(1):
            line = file.readline(LINE + 1)
            if len(line) > LINE:
                raise StepDiffError(f"{path}:{number}: a line of more than {LINE:,} bytes; give one object a line")
            if not line:
                return
            yield line.removesuffix(b"\n")


def first_byte(path: str | Path) -> bytes:
    """Return the first byte that is not white space, empty where the file has none in its first MiB."""
    with open_regular(path) as file:
        return file.read(LINE).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
