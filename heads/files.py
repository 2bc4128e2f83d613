"""Files of this room appear whole or not at all, by the store's own way of writing."""

from pathlib import Path

from common.errors import StepDiffError
from common.io.files import replace_file


def write_text(path: Path, text: str) -> None:
    """The file appears whole, durable, or not at all. StepDiffError where the disk is full or refuses."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same, of any bytes."""
    try:
        replace_file(path, [data], len(data))
    except StepDiffError as error:
        raise StepDiffError(str(error)) from error
