"""Where fetched weights lie, and who may write there.

The cache folder is `$STEPDIFF_CACHE`, else `stepdiff` in the user's cache folder (`$XDG_CACHE_HOME`
or `~/.cache`). One folder a model; names that begin with a dot are the room's own.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StepDiffError
from weights.registry import Source


def cache_folder() -> Path:
    """The cache folder as an absolute path; it need not exist."""
    if own := os.environ.get("STEPDIFF_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "stepdiff").absolute()


def is_complete(source: Source) -> bool:
    """Return whether the model's folder is in the cache with every file it needs."""
    folder = cache_folder() / source.name
    return all((folder / name).is_file() for name in source.files)


@contextmanager
def staging(source: Source) -> Iterator[Path]:
    """An empty folder next to the model's, under the lock of that model; removed at the end.

    Waits, and says so, while another process fetches the same model. What a killed process left
    behind is cleared here, which the lock makes safe.

    Raises:
        StepDiffError: the cache folder cannot be written.
    """
    cache = cache_folder()
    folder = cache / f".partial-{source.name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".lock-{source.name}").open("w")
    except OSError as problem:
        raise StepDiffError(
            f"the cache folder {cache} cannot be written ({problem.strerror}): set STEPDIFF_CACHE to a folder that can"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{source.name}: waiting for another fetch of it to end", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def install(made: Path, source: Source) -> Path:
    """Move a finished folder to the model's place, its bytes on the disk first; returns the place.

    Call it under the model's lock.
    """
    target = cache_folder() / source.name
    for path in sorted(made.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600, and other users share this folder
        _sync(path)
    _sync(made)
    shutil.rmtree(target, ignore_errors=True)  # exists only if one of its files was lost
    os.replace(made, target)
    _sync(target.parent)
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
