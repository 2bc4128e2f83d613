"""Tar files, read in place: their members are located by the headers, and nothing is unpacked.

A path may name a member: `images/00000.tar/000000012.jpg`. Members are regular files of a plain tar
file (ustar, pax or GNU names). Links, devices, sparse files and names that would lead out of a
folder are not members. Compressed tar files are refused, because their members have no place in the
file.

Guarantees
- nothing is unpacked, and a header costs at most MOST_NAME bytes of memory, whatever sizes it
  claims
- a tar file that is cut short gives the members before the damage
- a name that occurs twice is its first member
"""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular, shown

MOST_NAME = 2**16
"""bytes of a member's headers, at most"""
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


class _Headers(io.FileIO):
    """A tar file for `tarfile`, which would read as many bytes of a header as it claims."""

    remaining = MOST_NAME
    """bytes that the headers of the next member may have"""

    def read(self, size: int | None = -1) -> bytes:
        self.remaining -= size or 0
        if size is None or size < 0 or self.remaining < 0:
            raise tarfile.HeaderError(f"more than {MOST_NAME} bytes")
        return super().read(size)


def members(file: IO[bytes], path: Path) -> Iterator[Member]:
    """Yield the members of an open tar file in order, reading its headers only.

    Raises DamagedTar at the damage, after the members before it. StepDiffError: the file is
    compressed.
    """
    fd, at, count = file.fileno(), 0, 0
    start, end = os.pread(fd, tarfile.BLOCKSIZE, 0), os.fstat(fd).st_size
    if start.startswith(_COMPRESSED):
        raise StepDiffError(f"{shown(path)} is compressed; decompress it to a plain .tar")
    try:
        with _Headers(fd, closefd=False) as headers:
            headers.seek(0)
            tar = tarfile.TarFile(fileobj=headers, encoding="utf-8") if start else None
            while tar and (entry := tar.next()):
                vars(tar)["members"].clear()  # of a large file they would take much memory
                headers.remaining, at = MOST_NAME, entry.offset_data
                if not 0 <= entry.size <= end - at:
                    raise DamagedTar(
                        f"{shown(path)} is cut short after {count:,} members; copy it again"
                    )
                if not entry.isdir() and not entry.name.endswith("/"):
                    plain = entry.isreg() and not entry.issparse()
                    yield Member(safe_name(entry.name) if plain else "", at, entry.size)
                    count += 1
                at = tar.offset
    except (tarfile.TarError, ValueError) as error:
        raise DamagedTar(
            f"{shown(path)} is damaged after byte {at:,} ({error}); copy it again"
        ) from None
    if os.pread(fd, tarfile.BLOCKSIZE, at).strip(b"\0"):  # no header, and not the end either
        raise DamagedTar(
            f"{shown(path)} is damaged at byte {at:,}, after {count:,} members; copy it again"
        )


class TarPart(io.RawIOBase):
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
        self._at = max(
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence], 0
        )
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        count = max(min(len(buffer), self._size - self._at), 0)
        data = os.pread(self._file.fileno(), count, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def split_member(path: Path) -> tuple[Path, str] | None:
    """Return the tar file and the member that a path names, None if it names no member of an
    existing .tar file."""
    for parent in path.parents:
        if parent.suffix == ".tar" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def open_member(path: Path) -> TarPart | None:
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
        return TarPart(file, *names[name])
    except BaseException:
        file.close()
        raise


def stat_of(path: Path) -> os.stat_result:
    """Return the status of a file, or of the tar file whose member a path names. OSError: there is
    none."""
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


def safe_name(name: str) -> str:
    """Return a name without `./`, empty if it is absolute, leads upwards or is not printable."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        return ""
    return "/".join(parts)


def is_regular(path: Path) -> bool:
    """Whether a path names a regular file, or a member of a tar file that exists."""
    try:
        return stat.S_ISREG(stat_of(path).st_mode)
    except (OSError, ValueError):
        return False
