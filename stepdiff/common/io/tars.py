"""Tar files, read where they are: their members are found by the headers, and nothing is unpacked.

A path may name a member: `images/00000.tar/000000012.jpg`. Members are regular files of a plain tar file (ustar, pax or
GNU names). Links, devices, sparse files and names that would lead out of a folder are not members. Compressed tar files
are refused, because their members have no place in the file.

Guarantees
- nothing is unpacked, and a header costs at most MOST_NAME bytes of memory, whatever sizes it claims
- a tar file that is cut short gives the members before the damage
- a name that occurs twice is its first member
"""

import io
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import open_regular, shown

BLOCK = 512
MOST_NAME = 2**16
"""bytes of an extended header, at most"""
REFUSED = "links, devices, sparse files and unsafe names"
_REGULAR, _EMPTY = b"0\x007", b"123456"
"""kinds of entries: files, and what has no content whatever its size says"""
_CHECKSUM = slice(148, 156)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_KEPT = 4
"""tar files whose names are in memory"""
_lock = Lock()


class Member(NamedTuple):
    """A regular file in a tar file, or a refused entry."""

    name: str
    """without `./`; empty: the entry is refused"""
    offset: int
    """byte at which its content begins"""
    size: int
    """bytes"""


class DamagedTar(StepDiffError):
    """A tar file ends early or contains something else than headers and members."""


def members(file: IO[bytes], path: Path) -> Iterator[Member]:
    """Yield the members of an open tar file in order, reading its headers only.

    Raises DamagedTar at the damage, after the members before it. StepDiffError: the file is compressed.
    """
    end, at, count = os.fstat(file.fileno()).st_size, 0, 0
    name: str | None = None
    size: int | None = None
    sparse = False
    while at < end:
        header = os.pread(file.fileno(), BLOCK, at)
        if not at and header.startswith(_COMPRESSED):
            raise StepDiffError(f"{shown(path)} is compressed; decompress it to a plain .tar")
        if header == bytes(BLOCK):
            return
        if len(header) < BLOCK or not _is_sound(header):
            raise DamagedTar(f"{shown(path)} is damaged at byte {at:,}, after {count:,} members; copy it again")
        kind, length = header[156:157], _number(header[124:136])
        at += BLOCK
        if kind in b"LKxg":
            if length is None or not 0 <= length <= min(MOST_NAME, end - at):
                raise DamagedTar(f"{shown(path)} has a damaged name at byte {at:,}; copy it again")
            content = os.pread(file.fileno(), length, at)
            if kind == b"L":
                name = _text(content.split(b"\0", 1)[0])
            elif kind == b"x":
                records = _records(content)
                name = _text(records[b"path"]) if b"path" in records else name
                size = _decimal(records[b"size"]) if b"size" in records else size
                sparse = any(key.startswith(b"GNU.sparse") for key in records)
            at += _blocks(length)
            continue
        length = length if size is None else size
        if length is None or not 0 <= length <= end - at:
            raise DamagedTar(f"{shown(path)} is cut short after {count:,} members; copy it again")
        path_name = _name(header) if name is None else name
        plain = kind in _REGULAR and not path_name.endswith("/") and not sparse
        if kind != b"5" and not path_name.endswith("/"):
            yield Member(safe_name(path_name) if plain else "", at, length)
            count += 1
        at += 0 if kind in _EMPTY else _blocks(length)
        name, size, sparse = None, None, False


class Part(io.RawIOBase):
    """A part of a file, as a file of its own; `name` is free to be set."""

    name: str

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        """Take over `file`, which is closed with this object; size: bytes from `offset` on."""
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence], 0)
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        wanted = max(min(len(buffer), self._size - self._at), 0)
        data = os.pread(self._file.fileno(), wanted, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def split_member(path: Path) -> tuple[Path, str] | None:
    """Return the tar file and the member that a path names, None if it names no member of an existing .tar file."""
    for parent in path.parents:
        if parent.suffix == ".tar" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def open_member(path: Path) -> Part | None:
    """Open the member that a path names. None: it names no member of an existing .tar file.

    StepDiffError: the tar file cannot be read or has no such member.
    """
    place = split_member(path)
    if place is None:
        return None
    tar, name = place
    file = open_regular(tar, "a tar file")
    try:
        about = os.fstat(file.fileno())
        with _lock:  # threads that want the same tar file wait for one scan
            names = _index(tar, (about.st_ino, about.st_size, about.st_mtime_ns))
        if name not in names:
            raise StepDiffError(f"{shown(tar)} has no member {name}: make the manifest again")
        return Part(file, *names[name])
    except BaseException:
        file.close()
        raise


def stat_of(path: Path) -> os.stat_result:
    """Return the status of a file, or of the tar file whose member a path names. OSError: there is none."""
    try:
        return path.stat()
    except NotADirectoryError:
        if (place := split_member(path)) is None:
            raise
        return place[0].stat()


@lru_cache(_KEPT)
def _index(tar: Path, stamp: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
    """Return name -> offset and size of the members; `stamp` changes with the file."""
    names: dict[str, tuple[int, int]] = {}
    with open_regular(tar, "a tar file") as file:
        try:
            for member in members(file, tar):
                if member.name:
                    names.setdefault(member.name, (member.offset, member.size))
        except DamagedTar:  # the members before the damage are whole
            pass
    return names


def _is_sound(header: bytes) -> bool:
    """Whether the checksum of a header is right."""
    blank = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    return _number(header[_CHECKSUM]) == sum(blank)


def _number(field: bytes) -> int | None:
    """Return a number of a header: octal digits, or base 256; None if it is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if not digits.strip(b"01234567") else None


def _decimal(digits: bytes) -> int:
    """Return a size of a pax header, -1 if it is none."""
    return int(digits) if digits.isdigit() and len(digits) < 20 else -1


def _records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header, each `LENGTH KEY=VALUE` and a line feed, up to one that is not so."""
    records: dict[bytes, bytes] = {}
    while content:
        digits, _, _ = content.partition(b" ")
        length = _decimal(digits)
        record = content[len(digits) + 1 : length - 1]
        if length <= len(digits) or b"=" not in record:
            break
        key, _, value = record.partition(b"=")
        records[key], content = value, content[length:]
    return records


def _name(header: bytes) -> str:
    name, prefix = (part.split(b"\0", 1)[0] for part in (header[:100], header[345:500]))
    return _text(prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name)


def _text(name: bytes) -> str:
    """Return a name; one that is not UTF-8 becomes an unsafe one."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return ".."


def safe_name(name: str) -> str:
    """Return a name without `./`, empty if it is absolute, leads upwards or is not printable."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        return ""
    return "/".join(parts)


def _blocks(size: int) -> int:
    """Return the bytes that a content of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK


def is_regular(path: Path) -> bool:
    """Whether a path names a regular file, or a member of a tar file that exists."""
    try:
        return stat.S_ISREG(stat_of(path).st_mode)
    except (OSError, ValueError):
        return False
