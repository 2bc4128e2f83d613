"""The identity of a video file: what tells it from another file of the same name.

It is the file's size and a digest of its first and last MiB. Reading whole files would cost as much as decoding them,
and containers keep their index, with the size of every frame, at one of the two ends. Two files that differ only
in between are taken for one.

Guarantees
- a file is read once, however many clips it has
- a file that is missing or cannot be read has no identity, which is no error
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from common.progress import progress

BYTES, DIGEST = "video_bytes", "video_digest"
"""the catalog's columns of a clip's identity"""
END_BYTES = 2**20
"""bytes at each end of a file that its digest covers"""
_DIGITS = 16  # of the sha256
_THREADS = 16  # files that are read at once: most wait for a disk or a file server
_TOGETHER = 1024  # files between two looks at the progress


class Identity(NamedTuple):
    """What a file is."""

    nbytes: int
    """bytes of the file"""
    digest: str
    """sha256 of its first and last MiB, the first 16 hex digits"""

    def __str__(self) -> str:
        """In words, for a message."""
        return f"{self.nbytes} bytes, digest {self.digest}"


def identity(path: Path) -> Identity | None:
    """Return the identity of a file, None if it is missing, unreadable or not a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            return None
        with open(path, "rb", buffering=0) as file:
            nbytes = os.fstat(file.fileno()).st_size
            state = hashlib.sha256()
            for offset in (0, max(nbytes - END_BYTES, END_BYTES)):
                _take(state, file.fileno(), offset)
    except (OSError, ValueError):  # ValueError: a path with NUL
        return None
    return Identity(nbytes, state.hexdigest()[:_DIGITS])


def identities(paths: Mapping[str, Path]) -> dict[str, Identity | None]:
    """Return the identity of each file, by the name that `paths` gives it."""
    files = list(dict.fromkeys(paths.values()))
    found: dict[Path, Identity | None] = {}
    many = len(files) > _TOGETHER
    shown = progress("video files compared", len(files), "files") if many else nullcontext(lambda count: None)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="identity") as pool, shown as advance:
        for first in range(0, len(files), _TOGETHER):
            some = files[first : first + _TOGETHER]
            found |= zip(some, pool.map(identity, some), strict=True)
            advance(len(some))
    return {name: found[path] for name, path in paths.items()}


def _take(state: "hashlib._Hash", fd: int, offset: int) -> None:
    """Add up to END_BYTES bytes from `offset` to the digest, fewer only at the end of the file."""
    end = offset + END_BYTES
    while offset < end and (part := os.pread(fd, end - offset, offset)):
        state.update(part)
        offset += len(part)
