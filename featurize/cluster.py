"""Ray: started here, joined, or around us when we run as one of its jobs.

Guarantees
- a local Ray listens on this machine alone, opens no dashboard and sends no usage report
- nothing of Ray reaches standard output
- a program that is connected to Ray already keeps its connection
- inside a Ray job a relative path, which would point into Ray's throw-away copy of the working
  folder, is refused
"""

import os
import socket
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from featurize.errors import FeaturizeError

_ROOT = Path(__file__).resolve().parent.parent  # where the rooms are imported from
_ROOMS = ("featurize", "store", "weights")
_PATIENCE = 10.0  # seconds
_OBJECT_STORE = 100 * 2**20  # bytes; only plans travel through Ray


def inside_job() -> bool:
    """Whether this process is the entry of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_relative(paths: Iterable[tuple[str, str]]) -> None:
    """FeaturizeError where, inside a Ray job, one of the paths (what it is, path) is relative."""
    for name, path in paths if inside_job() else ():
        if not Path(path).expanduser().is_absolute():
            raise FeaturizeError(
                f"{name} {path!r} is relative: inside a Ray job it would point into Ray's throw-away "
                "copy of the working folder; give an absolute path"
            )


@contextmanager
def connected(address: str | None, rooms: Sequence[str] = _ROOMS) -> Iterator[bool]:
    """Ray within this block: the one that this process uses already, the cluster at `address` or RAY_ADDRESS, or
    else one started here.

    Gives whether a cluster was joined. rooms: what its workers import; where Ray is in use already, they find them
    as that program's other workers do.

    Raises FeaturizeError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is None and ray.is_initialized():
        with redirect_stdout(sys.stderr):
            yield True
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    joined = address != "local"
    if not joined:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(_ROOT) not in [*paths, sysconfig.get_path("purelib")]:  # Ray's processes inherit it
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), *paths]))
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    else:
        # a job's working folder is on every node already; elsewhere the rooms travel with us
        if not inside_job():
            quiet["runtime_env"] = {"py_modules": [str(_ROOT / room) for room in rooms]}
        _check_answers(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise FeaturizeError(f"no Ray cluster at {address} ({why}): start one or leave --address out") from None
    with redirect_stdout(sys.stderr):  # Ray prints its own errors there: standard output is ours
        try:
            yield joined
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """FeaturizeError where nothing listens at `host:port`, for which Ray itself waits minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # `auto`, or a name that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
    except OSError as error:
        why = error.strerror or error
        raise FeaturizeError(f"no Ray cluster at {address} ({why}): start one or leave --address out") from None
