"""The connection to Ray: a local one that is started, a cluster that is joined, or the cluster of
the current job.

Guarantees
- a local Ray listens on this machine only, and prints nothing to standard output
- a signal to the driver's process group (Ctrl-C, `timeout`) reaches the driver only
- no process of a local Ray is alive 15 seconds after the driver's end, also after SIGKILL; an
  existing cluster's processes are left alone

`ray.shutdown` asks the GCS to end the job. If the same signal had ended the GCS, it took 8 s, and
once longer than _RECONNECT, after which Ray's C++ code ends the driver with status 1.

Without `reaper` (Ray 2.60, two busy cores, driver killed with SIGKILL), agents lived 16 s longer
and workers 34 s.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from stepdiff_core import BELOW
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.threads import cores
from stepdiff_core.workers import reaper

_ROOT = Path(__file__).resolve().parents[2]  # where the rooms are imported from
_OBJECT_STORE = 100 * 2**20
"""bytes; only tasks and outcomes pass through Ray"""
_RECONNECT = "25"
"""seconds that the raylet waits for a GCS that has ended; Ray's 60 are for a GCS that is
restarted"""
_LAST = 12
"""seconds that the reaper may take, at most"""
_ANSWER = 10.0
"""seconds within which a cluster accepts a connection"""
_LOGS = "/tmp/ray/session_latest/logs"

_group = 0
"""process group of the local Ray that this process starts now, else 0"""


def _join_group() -> None:
    if _group:
        os.setpgid(0, _group)


# Ray has no option for it; its Popen with a preexec_fn calls this
os.register_at_fork(after_in_child=_join_group)


def inside_job() -> bool:
    """Return whether this process is the entry point of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def has_cluster(address: str | None) -> bool:
    """Return whether a run joins a cluster: it is named, or this process is connected to one or
    runs in its job."""
    ray = sys.modules.get("ray")
    connected_to_one = ray is not None and bool(ray.is_initialized())
    return bool(address or os.environ.get("RAY_ADDRESS")) or inside_job() or connected_to_one


def refuse_relative(paths: Iterable[tuple[str, str]]) -> None:
    """Raise StepDiffError if, inside a Ray job, one of the paths (name, path) is relative."""
    for name, path in paths if inside_job() else ():
        if not Path(path).expanduser().is_absolute():
            raise StepDiffError(
                f"{name} {path!r} is relative: inside a Ray job it would point into a temporary "
                "copy of the working folder; give an absolute path"
            )


@contextmanager
def connected(address: str | None, room: str) -> Iterator[bool]:
    """Connect to Ray within this block: to the current connection, to the cluster at `address` or
    RAY_ADDRESS, or else to a local one that is started. Yields whether a cluster was joined, which
    then receives the package `room` and those that it may import.

    Raises StepDiffError if no cluster answers, or Ray does not start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    with redirect_stdout(sys.stderr):  # where Ray prints
        address = address or (
            None if ray.is_initialized() else os.environ.get("RAY_ADDRESS") or "local"
        )
        if address is None:
            yield True
        elif address == "local":
            paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            # Ray's processes inherit it
            if str(_ROOT) not in [*paths, sysconfig.get_path("purelib")]:
                os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), *paths]))
            with local_ray():
                yield False
        else:
            # a job's working folder is on every node already; otherwise the rooms are sent
            packages = dict.fromkeys(name.partition(".")[0] for name in (*BELOW[room], room))
            folders = [str(_ROOT / name) for name in packages]
            travelling = {} if inside_job() else {"runtime_env": {"py_modules": folders}}
            try:
                _check_answers(address)
                _init(address=address, **travelling)
            except StepDiffError as error:
                advice = (
                    "start one, set RAY_AUTH_MODE=token if it wants a token, or leave --address out"
                )
                why = f"no Ray cluster at {address} ({error}): {advice}"
                raise StepDiffError(why) from error
            try:
                yield True
            finally:
                ray.shutdown()


@contextmanager
def local_ray() -> Iterator[None]:
    """Run Ray on this machine within this block. It listens on this machine only and opens no
    dashboard.

    Raises:
        StepDiffError: It did not start.
    """
    import ray

    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _RECONNECT)
    # else a worker leaves the group of the reaper
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "0")
    with _reaped() as started:
        try:
            with _loopback():
                _init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=cores(),
                    object_store_memory=_OBJECT_STORE,
                    _node_ip_address="127.0.0.1",
                )
        except StepDiffError as error:
            raise StepDiffError(
                f"Ray did not start on this machine ({error}); its logs are in {_LOGS}"
            ) from error
        started()
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray listen on 127.0.0.1 within this block, as on macOS. On Linux it takes the address of
    this machine instead (2.60), and listens on all interfaces. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
    has this effect only before the first import of Ray, and then also on clusters that are
    joined."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_answers(address: str) -> None:
    """Raise StepDiffError if no gRPC server listens at `host:port`: Ray itself waits minutes for
    it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # `auto`, or a name that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise StepDiffError(str(getattr(error, "strerror", None) or error)) from None
    if os.environ.get("RAY_USE_TLS", "0") != "0":  # a handshake without the certificates would fail
        return
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(_ANSWER)
        except grpc.FutureTimeoutError:
            raise StepDiffError(
                f"something listens there, but did not answer as Ray in {_ANSWER:g} s"
            ) from None


def _init(**options: Any) -> None:
    """Call `ray.init` so that a failure is one line, and the handler of SIGTERM stays the caller's.

    Raises:
        StepDiffError: Ray did not start, or the cluster was not reached.
    """
    import ray

    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        with _quiet():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        # Ray raises plain Exception, RuntimeError, ConnectionError, ValueError, OSError, ...
        with _quiet():
            ray.shutdown()
        raise StepDiffError(first_line(error)) from error
    except SystemExit:
        # of the handler of SIGTERM that `ray.init` installs: the caller's handler decides
        if handler is not None:
            signal.alarm(0)  # Ray's C++ handler would abort this process three seconds later
            signal.signal(signal.SIGTERM, handler)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _reaped() -> Iterator[Callable[[], None]]:
    """End the Ray processes that start within this block with it; yield a function to call after
    the start."""
    global _group
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C of the terminal does not reach it
    )
    assert process.stdin is not None
    pipe = process.stdin.fileno()

    def said(word: bytes) -> None:
        global _group
        _group = 0  # processes that the caller starts from now on are not Ray's
        with suppress(BrokenPipeError):
            os.write(pipe, word)

    _group = process.pid
    try:
        yield partial(said, reaper.STARTED)
    finally:
        said(reaper.ENDED)
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the output of Ray's C++ code to descriptor 2, and print it only if the block
    succeeds."""
    if sys.stderr is None:  # descriptor 2 is closed
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        before = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
        held_back.seek(0)
        while piece := held_back.read(65536):
            os.write(2, piece)
