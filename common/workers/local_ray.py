"""A Ray of our own on this machine: started within a bound, and ended with the process that started it.

Guarantees
- a start that fails is one line, and comes within a bound
- no process of it is alive 15 seconds after the driver's end, also when SIGKILL ended the driver
- the processes of a cluster that was there already are left alone

Measured without the second guarantee (Ray 2.60, two busy cores, driver killed with SIGKILL): Ray's own mechanism, a
death signal from the kernel, ends what the driver started itself (GCS, raylet, monitors). What the raylet started
notices the raylet's end by asking: agents lived 16 s, workers 34 s, because neither asks before its imports are done.
The second guarantee needs `/proc`: on other systems Ray's own mechanism is all there is.
"""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.workers import reaper

_OBJECT_STORE = 100 * 2**20
"""bytes; only plans travel through Ray"""
_RECONNECT = "25"
"""seconds that the raylet waits for a GCS that has gone, after which both end. Ray's 60 are for a GCS that is started
again; ours is not. A raylet that has gone is noticed by Ray itself, at once or after 30 seconds"""
_LAST = 12
"""seconds that the reaper may take, at most"""
_ANSWER = 10.0
"""seconds within which a cluster accepts a connection"""
_LOGS = "/tmp/ray/session_latest/logs"


class RayStartError(Exception):
    """Ray did not start or was not reached, in one line."""


@contextmanager
def local_ray() -> Iterator[None]:
    """Ray on this machine within this block. It listens on this machine alone and opens no dashboard.

    Raises:
        RayStartError: It did not start.
    """
    import ray

    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT)
    with _reaped() as started:
        try:
            _init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                _node_ip_address="127.0.0.1",
            )
        except RayStartError as error:
            raise RayStartError(f"Ray did not start on this machine ({error}); its logs are in {_LOGS}") from error
        started()
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def joined_ray(address: str, **options: Any) -> Iterator[None]:
    """Connection to the cluster at `address` within this block.

    Raises:
        RayStartError: No cluster answers there, or it is of another version.
    """
    import ray

    try:
        _check_answers(address)
        _init(address=address, **options)
    except RayStartError as error:
        raise RayStartError(f"no Ray cluster at {address} ({error}): start one or leave --address out") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise RayStartError where nothing that speaks gRPC listens at `host:port`: Ray itself waits minutes for it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # `auto`, or a name that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise RayStartError(str(getattr(error, "strerror", None) or error)) from None
    if os.environ.get("RAY_USE_TLS", "0") != "0":  # a handshake without the certificates would fail
        return
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(_ANSWER)
        except grpc.FutureTimeoutError:
            raise RayStartError(f"something listens there, but did not answer as Ray in {_ANSWER:g} s") from None


def _init(**options: Any) -> None:
    """Call `ray.init` so that a failure is one line, and the handler of SIGTERM stays the caller's.

    Raises:
        RayStartError: Ray did not start, or the cluster was not reached.
    """
    import ray

    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        with _quiet():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises plain Exception, RuntimeError, ConnectionError, ValueError, OSError, ...
        with _quiet():
            ray.shutdown()
        raise RayStartError(_in_one_line(error)) from error
    except SystemExit:  # of Ray's own handler of SIGTERM, which `ray.init` installs: the caller's has the last word
        if handler is not None:
            signal.alarm(0)  # with which Ray's C++ handler would abort this process three seconds later
            signal.signal(signal.SIGTERM, handler)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _reaped() -> Iterator[Callable[[], None]]:
    """Ray's processes that are started within this block end with it; gives what is to be called after the start."""
    if not Path("/proc/self/environ").exists():
        yield lambda: None
        return
    mark = secrets.token_hex(16)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # the terminal's Ctrl-C is not for it
    )
    assert process.stdin is not None
    pipe = process.stdin.fileno()

    def started() -> None:
        os.environ.pop(reaper.VARIABLE, None)  # what the caller starts from now on is not Ray's
        with suppress(BrokenPipeError):
            os.write(pipe, reaper.STARTED)

    os.environ[reaper.VARIABLE] = mark
    try:
        yield started
    finally:
        started()
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's C++ code writes its log to descriptor 2: keep it back, and print it only if the block succeeds."""
    if sys.stderr is None:  # descriptor 2 is closed
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
        kept.seek(0)
        while piece := kept.read(65536):
            os.write(2, piece)


def _in_one_line(error: Exception) -> str:
    """The first line of what Ray says, without the advice for its own developers."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
