"""Files of this room appear whole or not at all, by the store's own way of writing."""

from pathlib import Path

from heads.errors import HeadsError
from store import StoreError
from store.commit import replace_file


def write_text(path: Path, text: str) -> None:
    """The file appears whole, durable, or not at all. HeadsError where the disk is full or refuses."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same, of any bytes."""
    try:
        replace_file(path, [data], len(data))
    except StoreError as error:
        raise HeadsError(str(error)) from error
