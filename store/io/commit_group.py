"""Files that are made durable together, with one wait for the disk. Large pieces bypass the page cache.

Guarantees
- none of them has its name before all of them are whole and durable
"""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from stepdiff.common.io.direct_io import LEAST, goes_direct, reopened, write_direct
from stepdiff.common.io.files import Place, RemotePath, place
from stepdiff.common.io.local import Buffer, make_names, named_errors, sync_folder, temporary, write_all

_THREADS = 8
_SEND_BYTES = 16 * 2**20
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class _Written:
    temp: Path
    path: Path
    nbytes: int
    synced: "Future[None]"


class CommitGroup:
    """Use as `with CommitGroup() as files: files.replace(...)`: the files get their names at the end of the block."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called before each request to an object store; an exception of it stops the write."""
        self._check = check
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store-commit")
        self._files: list[_Written] = []
        self._folders: set[Path] = set()

    def __enter__(self) -> "CommitGroup":
        return self

    def replace(self, path: Path | Place, pieces: Iterable[Buffer], nbytes: int) -> None:
        """Write `pieces` (about `nbytes` bytes) as the file `path`, which replaces any old one at the end of the block.

        Raises StepDiffError where the disk is full or refuses. An object is put at once and is not visible before.
        """
        path = place(path)
        if isinstance(path, RemotePath):
            return path.put(pieces, nbytes, self._check)
        self._folders |= {*make_names(path.parent), path.parent}
        temp = temporary(path.parent)
        with named_errors(path, nbytes):
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                self._write(fd, pieces, nbytes)
            except BaseException:
                os.close(fd)
                temp.unlink(missing_ok=True)
                raise
        self._files.append(_Written(temp, path, nbytes, self._threads.submit(_sync, fd)))

    def put(self, path: Place, data: bytes) -> None:
        """Write a small file, as `replace` does."""
        self.replace(path, [data], len(data))

    def _write(self, fd: int, pieces: Iterable[Buffer], nbytes: int) -> None:
        """Write the pieces one after another: large ones past the page cache, two of them at the same time."""
        end = unsent = 0
        direct = reopened(fd, os.O_WRONLY) if nbytes >= LEAST else None
        under_way: deque[Future[None]] = deque()
        try:
            for piece in pieces:
                data = np.frombuffer(piece, np.uint8)
                if direct is not None and goes_direct(data, end):
                    under_way.append(self._threads.submit(_write_at, fd, direct, data, end))
                    if len(under_way) > 1:
                        under_way.popleft().result()
                else:
                    unsent += write_all(fd, data, end)
                if unsent >= _SEND_BYTES:
                    _send(fd)
                    unsent = 0
                end += len(data)
            for writing in under_way:
                writing.result()
        finally:
            wait(under_way)
            if direct is not None:
                os.close(direct)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in self._files:
                with named_errors(file.path, file.nbytes):
                    file.synced.result()
            if error is None:
                for file in self._files:
                    with named_errors(file.path, file.nbytes):
                        os.replace(file.temp, file.path)
                list(self._threads.map(sync_folder, self._folders))
        finally:
            self._threads.shutdown()
            for file in self._files:
                file.temp.unlink(missing_ok=True)


def _write_at(fd: int, direct: int, data: UInt8[np.ndarray, " bytes"], offset: int) -> None:
    """Write all of `data`: past the page cache through `direct`, the rest through `fd`."""
    count = write_direct(direct, data, offset)
    write_all(fd, data[count:], offset + count)


def _send(fd: int) -> None:
    """Let the disk begin with what is written so far, where the system supports that."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
