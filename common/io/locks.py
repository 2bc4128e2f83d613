"""The planner's lock: one writing run a store. In an object store it is a lease.

Guarantees
- a second writer is refused, with the host and the process id of the first
- a lock dies with its process
- a lock that is a link truncates nothing
"""

import fcntl
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.errors import HeldError, StepDiffError
from common.io.remote import Place, RemotePath
from store.lease import Lease

_HOST = re.compile(r"[^A-Za-z0-9._-]")
_held: dict[tuple[int, str], int] = {}  # (pid, lock file) and its descriptor: a forked child holds nothing
_leases: dict[tuple[int, RemotePath], Lease] = {}


def _after_fork() -> None:
    """A child lets go of what its parent holds: a lock dies with its process, and not with the last of its children."""
    for fd in _held.values():
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def locked(path: Place, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`, or raise StepDiffError naming the host and pid of the holder; with `wait`, print that
    to stderr and wait for it."""
    if isinstance(path, RemotePath):
        lease = Lease(path)
        lease.take(wait)
        _leases[os.getpid(), path] = lease
        try:
            yield
        finally:
            del _leases[os.getpid(), path]
            lease.release()
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)  # what a link leads to would be truncated
    except OSError as error:
        raise StepDiffError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = f"{path.parent} is being written by {_holder(fd)}"
            if not wait:
                raise HeldError(f"{held}: wait until it ends") from None
            print(f"{held}: waiting until it ends", file=sys.stderr, flush=True)
            fcntl.flock(fd, fcntl.LOCK_EX)
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        with suppress(OSError):  # of a full disk: the lock is held without a name as well
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        key = (os.getpid(), os.path.realpath(path))
        _held[key] = fd
        try:
            yield
        finally:
            _held.pop(key, None)
    finally:
        with suppress(OSError):  # a forked child has closed it
            os.close(fd)


def holds(path: Place) -> bool:
    """Whether this process holds the lock file `path`."""
    if isinstance(path, RemotePath):
        lease = _leases.get((os.getpid(), path))
        return lease is not None and lease.held()
    return (os.getpid(), os.path.realpath(path)) in _held


def check_held(path: Place) -> None:
    """StepDiffError where the lease of `path`, which this process took, has run out."""
    if isinstance(path, RemotePath) and not holds(path):
        raise StepDiffError(
            f"the lease of {path} ran out before it could be renewed: what is committed stands, run the command again"
        )


def _holder(fd: int) -> str:
    try:
        who = json.loads(os.pread(fd, 4096, 0))
        return f"process {who['pid']:d} on host {_HOST.sub('?', who['host'])}"
    except (ValueError, RecursionError, TypeError, KeyError):  # the holder has not written its name yet
        return "another process that has just started"
