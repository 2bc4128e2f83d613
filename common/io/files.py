"""Files that appear whole or not at all.

Files that appear whole or not at all, in a folder or in an object store.

Files of this room appear whole or not at all, by the store's own way of writing.

A Parquet file written piece by piece, there whole or not at all.

Guarantees
- a file is complete under its name, or not there under it
- a full disk loses nothing that was committed, and leaves no temporary file
- temporary files of dead attempts are removed, those of live ones are kept

In an object store a put does the same, and leaves nothing behind that can be seen.
"""

import errno
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from common.errors import StepDiffError
from common.io.remote import Buffer, Place, RemotePath

TEMPORARY = ".tmp."
"""how names of temporary files and folders begin"""
_FOREIGN_AGE = 24 * 3600.0  # seconds after which a temporary file of another host is dead
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary(folder: Path) -> Path:
    """A name in `folder` that no other attempt uses, and that tells who made it."""
    return folder / f"{TEMPORARY}{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:12]}"


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Place) -> None:
    """Create `folder` and what is missing above it, durably."""
    if isinstance(folder, RemotePath):
        return  # an object store has none
    for changed in make_names(folder):
        sync_folder(changed)


def make_names(folder: Path) -> list[Path]:
    """Create `folder` and what is missing above it; returns the folders whose names are not durable yet."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    with named_errors(missing[0] if missing else folder, 0):
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
    return [new.parent for new in reversed(missing)]


def replace_file(path: Place, pieces: Iterable[Buffer], nbytes: int) -> None:
    """Write `pieces` (about `nbytes` bytes in all) as the file `path`, in place of any old one.

    Raises StepDiffError where the disk is full or refuses; the old file then still stands.
    """
    if isinstance(path, RemotePath):
        return path.put(pieces)
    with _written(path, pieces, nbytes) as temp:
        os.replace(temp, path)


def create_file(path: Place, pieces: Iterable[Buffer], nbytes: int) -> bool:
    """Write `pieces` as the file `path` if there is none: False where another was first."""
    if isinstance(path, RemotePath):
        return path.create(pieces) is not None
    with _written(path, pieces, nbytes) as temp:
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
        finally:
            temp.unlink(missing_ok=True)
    return True


@contextmanager
def _written(path: Path, pieces: Iterable[Buffer], nbytes: int) -> Iterator[Path]:
    """A durable temporary file beside `path`; its new name is made durable at the end."""
    make_folder(path.parent)
    temp = temporary(path.parent)
    try:
        with named_errors(path, nbytes):
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                end = 0
                for piece in pieces:
                    end += write_all(fd, piece, end)
                os.fsync(fd)
            finally:
                os.close(fd)
            yield temp
            sync_folder(path.parent)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def write_all(fd: int, piece: Buffer, offset: int) -> int:
    """Write all of `piece` at `offset`; returns its bytes."""
    left = data = np.frombuffer(piece, np.uint8).data
    while left:
        count = os.pwrite(fd, left, offset)
        left, offset = left[count:], offset + count
    return data.nbytes


@contextmanager
def named_errors(path: Path, nbytes: int) -> Iterator[None]:
    """OSError as one line of StepDiffError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise StepDiffError(f"cannot write {path}: {error.strerror}") from error
        try:
            free = f"{shutil.disk_usage(path.parent).free / 2**20:.1f} MiB free"
        except OSError:
            free = "free space unknown"
        raise StepDiffError(
            f"no space to write {path}: it needs {nbytes / 2**20:.1f} MiB ({free}, "
            f"{error.strerror}); nothing committed is lost: make room and run the command again"
        ) from error


def remove_folder(folder: Place, root: Place) -> bool:
    """Remove a folder below `root`: gone under its name at once, its bytes then; False where there is none.

    What a kill leaves of it is a temporary folder in `root`, which `remove_dead` removes. In an object store, where
    nothing moves, only its zarr.json is gone at once, and the rest stays where it was.
    """
    if isinstance(folder, RemotePath):
        return folder.remove()
    if isinstance(root, RemotePath) or not folder.is_dir():
        return False
    temp = temporary(root)
    with named_errors(folder, 0):
        os.rename(folder, temp)
        sync_folder(folder.parent)
        shutil.rmtree(temp)
    return True


def remove_dead(root: Place, deep: bool = True) -> list[Path]:
    """Remove temporary files and folders below `root` whose process is gone; returns them.

    Without `deep` only those that lie in `root` itself.
    """
    if isinstance(root, RemotePath):
        return []
    dead = []
    for folder, folders, files in os.walk(root):
        for name in [n for n in folders if n.startswith(TEMPORARY)]:
            folders.remove(name)
            if _is_dead(path := Path(folder, name)):
                shutil.rmtree(path, ignore_errors=True)
                dead.append(path)
        for name in files:
            if name.startswith(TEMPORARY) and _is_dead(path := Path(folder, name)):
                path.unlink(missing_ok=True)
                dead.append(path)
        if not deep:
            break
    return dead


def _is_dead(path: Path) -> bool:
    made = re.fullmatch(re.escape(TEMPORARY) + r"(.+)\.([0-9]{1,9})\.[0-9a-f]+", path.name)
    if made is None:
        return False
    host, pid = made.groups()
    try:
        if time.time() - path.stat().st_mtime > _FOREIGN_AGE:
            return True
    except FileNotFoundError:
        return False
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextmanager
def whole(path: Place) -> Iterator[Path]:
    """Yields a name of this attempt alone; what is written there stands at `path` in the end.

    Where the block raises, `path` keeps what it had. StepDiffError where the disk refuses.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            path.put([Path(folder, path.name).read_bytes()])
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise StepDiffError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def local(path: Place) -> Iterator[Path]:
    """Yields a file that holds what `path` does: `path` itself, or a copy for as long as the block lasts."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        yield copy


@contextmanager
def local_together(places: Sequence[Place]) -> Iterator[Path]:
    """Yields a folder that holds what lies at `places`, all of one folder; what is missing there is missing here."""
    if not isinstance(places[0], RemotePath):
        yield places[0].parent
        return
    with tempfile.TemporaryDirectory() as folder:
        for one in places:
            if one.exists():
                Path(folder, one.name).write_bytes(one.read_bytes())
        yield Path(folder)


def remove_below(folder: Place) -> None:
    """Remove a folder and the files in it and in its folders, where there is one."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for below in folder.iterdir():
        remove_below(below)
        below.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """The file appears whole, durable, or not at all. StepDiffError where the disk is full or refuses."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """The same, of any bytes."""
    try:
        replace_file(path, [data], len(data))
    except StepDiffError as error:
        raise StepDiffError(str(error)) from error


def stream_parquet(
    path: Path, schema: Mapping[str, Any], pieces: Iterator[pl.DataFrame], metadata: Mapping[str, str]
) -> None:
    """Write `pieces` as they come, in their order. StepDiffError where the disk is full or refuses."""
    make_folder(path.parent)
    temp = temporary(path.parent)
    try:
        with named_errors(path, 0):
            source = register_io_source(lambda *_: pieces, schema=dict(schema))
            source.sink_parquet(temp, metadata=dict(metadata), engine="streaming")
            with temp.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temp, path)
            sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)
