"""The compressed texts and colour profiles of a PNG, which decoders unpack whatever their size."""

import zlib
from io import FileIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SEPARATORS = {b"zTXt": 1, b"iCCP": 1, b"iTXt": 4}
"""NUL characters before the compressed part, of each kind of chunk; of iTXt one is the method"""
_PIECE = 1 << 16  # bytes


def unpacked_size(file: FileIO, most: int) -> int:
    """Return the bytes of all texts and profiles once unpacked, or more than `most` where there are more.

    Args:
        file: open at its start; left anywhere. One that is no PNG has none.
        most: bytes after which it stops.
    """
    size = 0
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return size
    while len(head := file.read(8)) == 8 and size <= most:
        length, kind = int.from_bytes(head[:4]), head[4:]
        after = file.tell() + length + 4  # a checksum follows
        if kind in _SEPARATORS:
            size += _unpacked(file, length, kind, most - size)
        file.seek(after)
    return size


def _unpacked(file: FileIO, length: int, kind: bytes, most: int) -> int:
    """Return the bytes of one chunk of `length` bytes, which begins here, once unpacked."""
    start = file.read(min(length, _PIECE))
    length -= len(start)
    *words, packed = start.split(b"\0", _SEPARATORS[kind])
    if kind == b"iTXt" and words[1:2] != [b"\1"]:  # not compressed
        return 0
    if len(words) < _SEPARATORS[kind]:  # decoders go on looking for the end of a name that has 79 bytes at most
        return most + 1 if length else 0
    if kind != b"iTXt":
        packed = packed[1:]  # the method
    unpack, size = zlib.decompressobj(), 0
    try:
        while packed and size <= most:
            size += len(unpack.decompress(packed, _PIECE))
            packed = unpack.unconsumed_tail
            if not packed and not unpack.eof:
                packed = file.read(min(length, _PIECE))
                length -= len(packed)
    except zlib.error:  # decoders stop there too
        pass
    return size
