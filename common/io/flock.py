"""A lock file on disk, held with `flock`: it ends with its process, whatever ends that.

Guarantees
- a second writer is refused, with the host and the process id of the first
- a lock that is a symbolic link truncates no file
"""

import fcntl
import json
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from common.errors import HeldError, StepDiffError

_HOST = re.compile(r"[^A-Za-z0-9._-]")


class FileLock:
    """The lock file at `path`, held by this process from `take` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def take(self, wait: bool) -> None:
        """Take it, or raise HeldError with the host and pid of the holder; with `wait`, print that and wait."""
        try:  # what a link points to would be truncated
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StepDiffError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = f"{self.path.parent} is being written by {_holder(fd)}"
                if not wait:
                    raise HeldError(f"{held}: wait until it ends") from None
                print(f"{held}: waiting until it ends", file=sys.stderr, flush=True)
                fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.close(fd)
            raise
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        with suppress(OSError):  # of a full disk: the lock is held without a name as well
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        self._fd = fd

    def held(self) -> bool:
        """Return whether this process holds it."""
        return self._fd >= 0

    def release(self) -> None:
        """Let others take it; a forked child releases only its own copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _holder(fd: int) -> str:
    try:
        who = json.loads(os.pread(fd, 4096, 0))
        return f"process {who['pid']:d} on host {_HOST.sub('?', who['host'])}"
    except (ValueError, RecursionError, TypeError, KeyError):  # the holder has not written its name yet
        return "another process that has just started"
