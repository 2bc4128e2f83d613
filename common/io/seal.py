"""A checksum inside the file that it protects.

JSON and Parquet files carry a text field `stepdiff-crc32c-XXXXXXXX`: the crc32c of the file's own bytes with those
eight digits read as zeros. Other readers see one more field. `crc32c` uses hardware instructions where the processor
has them, and releases the GIL for 32 KiB or more.

Guarantees
- any flipped byte of a sealed file is found
"""

from collections.abc import Callable

import crc32c as _library

_MARK = b"stepdiff-crc32c-"
_DIGITS = 8
BLANK = (_MARK + b"0" * _DIGITS).decode()
"""value of the field before the file is sealed"""
crc32c: Callable[..., int] = _library.crc32c
"""crc32c of a contiguous buffer; a second argument is that of the bytes before it"""


def seal(data: bytes) -> bytes:
    """Return `data`, which contains BLANK, with the digits of its checksum filled in."""
    at = data.rfind(_MARK) + len(_MARK)
    return data[:at] + f"{crc32c(data):08x}".encode() + data[at + _DIGITS :]


def is_sealed(data: bytes) -> bool:
    """Return whether `data` is, to the byte, what `seal` returned."""
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK):
        return False
    total = crc32c(b"0" * _DIGITS + data[at + _DIGITS :], crc32c(memoryview(data)[:at]))
    return data[at : at + _DIGITS] == f"{total:08x}".encode()


def digits(data: bytes) -> str:
    """Return the checksum in `data`, right or wrong; empty where it has none."""
    at = data.rfind(_MARK) + len(_MARK)
    return "" if at < len(_MARK) else data[at : at + _DIGITS].decode("latin-1")
