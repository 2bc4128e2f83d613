"""Locks of places: one writing run of a store, one writer of a shard.

On disk a lock is a file held with `flock`, which ends with its process. In an object store it is a
lease: an object that names its holder, renewed for as long as it is held.

No machine's clock is compared with another's. A lease has run out once its object was unchanged for
LEASE seconds as seen by the process that waits; its holder has stopped writing before that: the
writer of a shard sends nothing once a sixth of them is over, and what it sent by then has arrived
or was given up when the rest is over.

Guarantees
- a second writer is refused, with the host and the process id of the first
- a dead process loses its lock although a forked child lives; its lease at once on its own host,
  elsewhere when it runs out
- a shard's writer that could not renew its lease writes no more, and what it sent and was still
  trying to send does not arrive after another's writes; a request that it gave up, and that the
  object store still handles, may
"""

import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from stepdiff_core.errors import HeldError, StepDiffError
from stepdiff_core.io.files import LocalPath, Place, RemotePath, place
from stepdiff_core.progress import say

LEASE = 360.0
"""seconds; a lease is renewed 24 times as often"""
# Of a lease, from when it was renewed: in the rest an object's last part waits for one before it,
# arrives or is given up, and so does the request that puts the parts together: each within 90
# seconds, see stepdiff_core.io.remote.
_SAFE = 1 / 6
_HOLDER = {"host": str, "pid": int, "pids": str, "free": bool}  # what the object says at least
_LOOK = 0.5  # seconds between two looks at a lock that another holds
_HOST = re.compile(r"[^A-Za-z0-9._-]")


class FileLock:
    """The lock file at `path`, held by this process from `take` to `release`."""

    def __init__(self, path: LocalPath) -> None:
        self.path = path
        self._fd = -1

    def take(self, wait: bool) -> None:
        """Take it, or raise HeldError with the host and pid of the holder; with `wait`, print that
        and wait."""
        while not self._take(wait):
            pass

    def _take(self, wait: bool) -> bool:
        """Take it; False if a holder deleted the file meanwhile, so that another may hold a new
        one."""
        try:  # what a link points to would be truncated
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StepDiffError(f"cannot write {self.path}: {error.strerror}") from error
        with ExitStack() as otherwise:
            otherwise.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = f"{self.path.parent} is being written by {_holder(fd)}"
                if not wait:
                    raise HeldError(f"{held}: wait until it ends") from None
                say(f"{held}: waiting until it ends")
                fcntl.flock(fd, fcntl.LOCK_EX)
            if not _is_named(fd, self.path):
                return False
            otherwise.pop_all()
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        with suppress(OSError):  # of a full disk: the lock is held without a name as well
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
        self._fd = fd
        return True

    def held(self) -> bool:
        """Return whether this process holds it."""
        return self._fd >= 0

    def release(self) -> None:
        """Let others take it; a forked child releases only its own copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_named(fd: int, path: LocalPath) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    try:
        who = json.loads(os.pread(fd, 4096, 0))
        return f"process {who['pid']:d} on host {_HOST.sub('?', who['host'])}"
    except (ValueError, RecursionError, TypeError, KeyError):
        # the holder has not written its name yet
        return "another process that has just started"


class Lease:
    """The lock object at `path`, held by this process from `take` to `release`."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pids": _pids(),
            "began": _began(os.getpid()),
        }
        self._me = {**me, "token": uuid.uuid4().hex}
        self._puts = 0
        self._etag: str | None = None
        self._until = 0.0
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="store-lease", daemon=True)

    def take(self, wait: bool) -> None:
        """Take it, or raise HeldError with the host and pid of the holder; with `wait`, wait for
        it."""
        holder, etag = self._look()
        first, seen, since, reported = etag, etag, time.monotonic(), False
        while True:
            alive = _is_alive(holder)
            ran_out = time.monotonic() - since > LEASE
            if (not holder or holder["free"] or alive is False or ran_out) and self._put(etag):
                break
            who = f"process {holder['pid']} on host {holder['host']}" if holder else "nobody"
            # the lease of another host: watched until it is renewed once
            if not wait and (alive or etag != first):
                raise HeldError(f"{self.path.parent} is being written by {who}: wait until it ends")
            if holder and alive is None and not reported:
                seconds = f"{LEASE:.0f} seconds, which is when its lease runs out if it is dead"
                say(f"{self.path.parent} is held by {who}: waiting up to {seconds}")
                reported = True
            time.sleep(min(_LOOK, LEASE / 10))
            holder, etag = self._look()
            if etag != seen:
                seen, since = etag, time.monotonic()
        self._thread.start()

    def held(self) -> bool:
        """Return whether a request sent now ends before another process can take the lease."""
        return _seconds() < self._until

    def release(self) -> None:
        """Let others take it; if the object store cannot be reached, it runs out by itself."""
        self._end.set()
        with self._guard, suppress(StepDiffError):
            if self.held():
                self._put(self._etag, free=True)
        self._until = 0.0

    def _keep(self) -> None:
        """Renew the lease until `release`. A process that took it has seen it run out, and so has
        this one."""
        while not self._end.wait(LEASE / 24):
            # not reachable: retried as long as no one takes it
            with self._guard, suppress(StepDiffError):
                if not self._end.is_set():
                    self._put(self._etag)

    def _look(self) -> tuple[dict[str, Any], str | None]:
        """Return the content of the object, {} if it does not exist, and its ETag."""
        try:
            data, etag = self.path.read_versioned()
            holder = json.loads(bytes(data))
            if not isinstance(holder, dict) or [type(holder.get(name)) for name in _HOLDER] != [
                *_HOLDER.values()
            ]:
                raise ValueError("it names no holder")
            if not 0 < holder["pid"] < 2**31:
                raise ValueError("it names no process")
            return holder, etag
        except FileNotFoundError:
            return {}, None
        except (ValueError, RecursionError) as error:
            why = "delete it once no run writes into the store"
            raise StepDiffError(f"{self.path} is damaged ({error}): {why}") from error

    def _put(self, etag: str | None, free: bool = False) -> bool:
        """Write the object in place of the one of that ETag; False if another process was
        faster."""
        begin = _seconds()
        self._puts += 1
        mine = {**self._me, "puts": self._puts, "free": free}
        data = json.dumps(mine).encode()
        now = self.path.exchange(data, etag)
        if now is None:  # also where this one arrived, or one before it, and its answer was lost
            holder, there = self._look()
            if holder.get("token") != self._me["token"]:
                self._until = 0.0
            elif holder == mine:
                now = there
            elif there is not None:
                now = self.path.exchange(data, there)
        if now is not None:
            self._etag, self._until = now, begin + LEASE * _SAFE
        return now is not None


def _seconds() -> float:
    """Return the seconds of a clock that runs while the machine sleeps, if the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Return whether the holder's process runs; None if that cannot be known here."""
    if not holder or (holder["host"], holder["pids"]) != (socket.gethostname(), _pids()):
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # of another process than the holder, where its id was given out again
    began = _began(holder["pid"])
    return None in (began, holder.get("began")) or began == holder["began"]


def _began(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # no Linux
        return None


def _pids() -> str:
    """Return the process namespace, which distinguishes containers that share a host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        return ""


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

    Raises HeldError with the host and pid of the holder; with `wait`, prints that to stderr and
    waits.
    """
    where = place(path)
    lock: FileLock | Lease = Lease(where) if isinstance(where, RemotePath) else FileLock(where)
    lock.take(wait)
    resolved = where.resolve()
    _held[resolved] = lock
    try:
        yield
    finally:
        _held.pop(resolved, None)
        lock.release()


def holds(path: Path | Place) -> bool:
    """Return whether this process holds the lock at `path`."""
    lock = _held.get(place(path).resolve())
    return lock is not None and lock.held()


def check_held(path: Path | Place) -> None:
    """Raise StepDiffError if this process took the lock at `path` and its lease has run out."""
    if not holds(path):
        raise StepDiffError(
            f"the lease of {path} ran out before it could be renewed: what is committed is safe, "
            "run the command again"
        )
