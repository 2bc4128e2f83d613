"""Files that appear whole or not at all, in a folder or in an object store."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import StepDiffError
from common.io.remote import Place, RemotePath


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
