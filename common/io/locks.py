"""Locks of places: one writing run of a store, one writer of a shard. A file lock on disk, a lease in an object store.

Guarantees
- a second writer is refused, with the host and the process id of the first
- a forked child holds nothing: a dead process loses its lock although a child lives
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StepDiffError
from common.io.flock import FileLock
from common.io.lease import Lease
from common.io.places import Place, place

_held: dict[Place, FileLock | Lease] = {}


def _after_fork() -> None:
    for lock in _held.values():
        if isinstance(lock, FileLock):
            lock.release()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def locked(path: Path | Place, wait: bool) -> Iterator[None]:
    """Hold the lock at `path`.

    Raises HeldError with the host and pid of the holder; with `wait`, prints that to stderr and waits.
    """
    where = place(path)
    lock = where.lock()
    lock.take(wait)
    known = where.resolve()
    _held[known] = lock
    try:
        yield
    finally:
        _held.pop(known, None)
        lock.release()


def holds(path: Path | Place) -> bool:
    """Return whether this process holds the lock at `path`."""
    lock = _held.get(place(path).resolve())
    return lock is not None and lock.held()


def check_held(path: Path | Place) -> None:
    """Raise StepDiffError where this process took the lock at `path` and its lease has run out."""
    if not holds(path):
        raise StepDiffError(
            f"the lease of {path} ran out before it could be renewed: what is committed is safe, run the command again"
        )
