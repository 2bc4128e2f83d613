"""Small files of a store, read whole: regular files of a plausible size only.

Guarantees
- a FIFO or a vast file is not waited for: it is refused before any of it is read
"""

import errno
import os
import stat

from common.errors import DamageError
from common.io.remote import Place, RemotePath


def read_whole(path: Place, most: int) -> bytes:
    """Return the bytes of the file `path`, at most `most`.

    Raises:
        DamageError: it is larger, or no regular file (a FIFO would block, a device never end).
        OSError: it cannot be read; FileNotFoundError where it does not exist.
    """
    if isinstance(path, RemotePath):
        data, size = path.read_up_to(most)
        _check_size(path, size, most)
        return data
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise DamageError(f"{path} is no regular file: remove it, and restore the file from a copy")
        _check_size(path, found.st_size, most)
        return file.read()


def _check_size(path: Place, size: int, most: int) -> None:
    if size > most:
        raise DamageError(f"{path} has {size:,} bytes, where {most:,} is the most: restore it from a copy")
