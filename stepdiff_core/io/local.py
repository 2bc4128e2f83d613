"""A place on disk: a `pathlib.Path` with the operations of `stepdiff_core.io.remote.RemotePath`.

Guarantees
- a file is complete under its name, or does not exist under it; a full disk leaves no temporary
  file
- temporary files of dead processes are removed; running processes keep theirs
- a FIFO or a vast file is refused before any of it is read
"""

import ctypes
import errno
import hashlib
import mmap
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PosixPath
from typing import Any, ClassVar, TypeVar

import numpy as np

from stepdiff_core.errors import DamageError, StepDiffError

Buffer = bytes | memoryview | np.ndarray
Identity = tuple[int, int, int] | str
"""identifier of a version of a file: inode, mtime and size, or the ETag"""
Given = TypeVar("Given")
Made = TypeVar("Made")
TEMPORARY = ".tmp."
"""prefix of the names of temporary files and folders"""
_libc = ctypes.CDLL(None)
_FOREIGN_AGE = 24 * 3600.0  # seconds after which a temporary file of another host is dead
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""of a file system without hard links, or with too many of a file, or of another owner's file"""


class LocalPath(PosixPath):
    """A file or folder on disk. `stepdiff_core.io.files.place` makes it."""

    __slots__ = ()
    remote: ClassVar[bool] = False

    def put(
        self, pieces: Iterable[Buffer], nbytes: int = 0, check: Callable[[], None] = lambda: None
    ) -> None:
        """Write `pieces` (about `nbytes` bytes in all) as this file, replacing any old one; durable
        on return.

        Raises StepDiffError if the disk is full or refuses; the old file is then unchanged.
        """
        check()
        self.parent.make_folder()
        with self._named(os.replace, nbytes) as temp:
            _write(temp, pieces)

    def create(self, pieces: Iterable[Buffer], nbytes: int = 0) -> bool:
        """Write `pieces` as this file if it does not exist; False if another process was
        first."""
        self.parent.make_folder()
        try:
            with self._named(os.link, nbytes, FileExistsError) as temp:
                _write(temp, pieces)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def whole(self) -> Iterator[Path]:
        """Yield a temporary path; its content replaces this file at the end, durably.

        If the block raises, this file is unchanged. Raises StepDiffError if the disk refuses.
        """
        with self._named(os.replace) as temp:
            temp.touch()
            mode = temp.stat().st_mode  # as the umask wants it; safetensors would write 0600
            yield temp
            temp.chmod(mode)
            sync_file(temp)

    @contextmanager
    def _named(
        self,
        name: Callable[[Path, Path], None],
        nbytes: int = 0,
        but: type[OSError] | tuple[()] = (),
    ) -> Iterator[Path]:
        """Yield a temporary path; its durable file gets this name at the end, durably, by
        os.replace or os.link."""
        temp = temporary(self.parent)
        try:
            with named_errors(self, nbytes, but):
                yield temp
                name(temp, self)
                sync_folder(self.parent)
        finally:
            temp.unlink(missing_ok=True)

    def link_as(self, target: Any) -> None:
        """Give this file the new name `target` too, or copy it if it cannot be linked. The
        name is not durable yet.

        Raises FileNotFoundError if the file does not exist, StepDiffError if the disk
        refuses.
        """
        source = os.path.realpath(self) if self.is_symlink() else self
        with named_errors(target, 0, FileNotFoundError):
            os.makedirs(target.parent, exist_ok=True)
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(self, target)
                sync_file(target)

    def make_folder(self) -> None:
        """Create this folder and its missing parents, durably."""
        for changed in make_names(self):
            sync_folder(changed)

    @contextmanager
    def whole_folder(self, root: Any) -> Iterator["LocalPath"]:
        """Yield a temporary folder in `root` that becomes this one at the end, or is removed if the
        block raises."""
        temp = LocalPath(temporary(root))
        try:
            yield temp
            with named_errors(self, 0):
                os.rename(temp, self)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        sync_folder(self.parent)

    def remove(self) -> None:
        """Delete this file, or this folder with its content, if it exists."""
        if self.is_dir():
            shutil.rmtree(self)
        else:
            self.unlink(missing_ok=True)

    def remove_folder(self, root: Any) -> bool:
        """Remove this folder below the folder `root`: first its name, then its bytes. False if it
        does not exist.

        A killed process leaves a temporary folder in `root`, which `remove_dead` removes.
        """
        if not self.is_dir():
            return False
        temp = temporary(root)
        with named_errors(self, 0):
            os.rename(self, temp)
            sync_folder(self.parent)
            shutil.rmtree(temp)
        return True

    def temporaries(self) -> Iterator["LocalPath"]:
        """Yield all temporary files and folders below."""
        return self.rglob(f"{TEMPORARY}*")

    def remove_dead(self, deep: bool = True, but: Any = None) -> None:
        """Remove temporary files and folders of processes that have ended; without `deep` only one
        level below.

        Files below the folder `but` stay.
        """
        for folder, folders, files in os.walk(self):
            folders[:] = [
                name for name in folders if but is None or os.path.join(folder, name) != str(but)
            ]
            for name in [n for n in folders if n.startswith(TEMPORARY)]:
                folders.remove(name)
                if _is_dead(path := Path(folder, name)):
                    shutil.rmtree(path, ignore_errors=True)
            for name in files:
                if name.startswith(TEMPORARY) and _is_dead(path := Path(folder, name)):
                    path.unlink(missing_ok=True)
            if not deep:
                break

    def files(self) -> dict["LocalPath", int]:
        """Return every file at or below this path and its size in bytes."""
        sizes = {}
        for path in sorted(self.rglob("*")) if self.is_dir() else (self,):
            with suppress(FileNotFoundError):  # renamed since it was listed
                about = path.stat()
                if not stat.S_ISDIR(about.st_mode):
                    sizes[path] = about.st_size
        return sizes

    def identity(self) -> Identity | None:
        """Return the identifier of this version of the file (inode, mtime, size); None if it does
        not exist."""
        try:
            about = os.stat(self)
        except FileNotFoundError:
            return None
        return about.st_ino, about.st_mtime_ns, about.st_size

    def identities(self) -> dict[str, Identity]:
        """Return the identity of every file one level below, by name."""
        names = os.listdir(self) if self.is_dir() else ()
        return {name: state for name in names if (state := (self / name).identity()) is not None}

    def read_whole(self, most: int) -> bytes:
        """Return all bytes, at most `most`.

        Raises:
            DamageError: it is larger, or not a regular file (a FIFO would block, a device never
                end).
            OSError: it cannot be read; FileNotFoundError if it does not exist.
        """
        fd = os.open(self, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb", buffering=0) as file:
            about = os.fstat(fd)
            if stat.S_ISDIR(about.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
            if not stat.S_ISREG(about.st_mode):
                raise DamageError(
                    f"{self} is not a regular file: remove it, and restore the file from a copy"
                )
            check_size(self, about.st_size, most)
            return file.read()

    def tail(self, nbytes: int) -> bytes:
        """Return the last bytes, fewer if the file is shorter."""
        # a FIFO cannot be sought
        with open(os.open(self, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - nbytes, 0))
            return file.read()

    def sha256(self) -> str:
        """Return the sha256 of a regular file, in hex."""
        if not self.is_file():  # a FIFO would block
            raise FileNotFoundError(self)
        with self.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def pages(self, end_bytes: Callable[[bytes, int], int]) -> tuple[mmap.mmap | bytes, None]:
        """Return the mapped file; see `RemotePath.pages`."""
        fd = os.open(self, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait
        try:
            return (mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size else b""), None
        finally:
            os.close(fd)

    def map(self, do: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
        """Yield `do` of each, one after another."""
        return map(do, items)


def check_size(path: object, size: int, most: int) -> None:
    """Raise DamageError if `size` is more than `most` bytes."""
    if size > most:
        raise DamageError(
            f"{path} has {size:,} bytes; the most is {most:,}: restore it from a copy"
        )


def temporary(folder: Path) -> Path:
    """Return an unused name in `folder` that says which process made it."""
    return folder / f"{TEMPORARY}{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:12]}"


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make all files and names below `folder` durable, with one wait for the disk if the system can
    do that."""
    if not hasattr(_libc, "syncfs"):
        for path, _, files in os.walk(folder):
            for name in files:
                sync_file(Path(path, name))
            sync_folder(Path(path))
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd):
            raise StepDiffError(f"cannot write {folder}: the disk refused")
    finally:
        os.close(fd)


def make_names(folder: Path) -> list[Path]:
    """Create `folder` and its missing parents; return the folders whose names are not durable
    yet."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    with named_errors(missing[0] if missing else folder, 0):
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
    return [new.parent for new in reversed(missing)]


def _write(path: Path, pieces: Iterable[Buffer]) -> None:
    fd, end = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), 0
    try:
        for piece in pieces:
            end += write_all(fd, piece, end)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, piece: Buffer, offset: int) -> int:
    """Write all of `piece` at `offset`; return its size in bytes."""
    remaining = data = np.frombuffer(piece, np.uint8).data
    while remaining:
        count = os.pwrite(fd, remaining, offset)
        remaining, offset = remaining[count:], offset + count
    return data.nbytes


@contextmanager
def named_errors(path: Path, nbytes: int, but: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turn an OSError, `but` one of this type, into one line of StepDiffError that names the
    file."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise StepDiffError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            free = f"{shutil.disk_usage(path.parent).free / 2**20:.1f} MiB free"
        except OSError:
            free = "free space unknown"
        raise StepDiffError(
            f"no space to write {path}: it needs {nbytes / 2**20:.1f} MiB ({free}, "
            f"{error.strerror}); nothing committed is lost: make room and run the command again"
        ) from error


def _is_dead(path: Path) -> bool:
    parts = re.fullmatch(re.escape(TEMPORARY) + r"(.+)\.([0-9]{1,9})\.[0-9a-f]+", path.name)
    if parts is None:
        return False
    host, pid = parts.groups()
    try:
        if time.time() - path.stat().st_mtime > _FOREIGN_AGE:
            return True
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (FileNotFoundError, PermissionError):
        pass
    return False
