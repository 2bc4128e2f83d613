"""Ray: started here, joined, or around us when we run as one of its jobs.

Guarantees
- a local Ray listens on this machine alone, opens no dashboard and sends no usage report
- nothing of Ray reaches standard output
- inside a Ray job a relative path, which would point into Ray's throw-away copy of the working
  folder, is refused
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from featurize.errors import FeaturizeError

_ROOT = Path(__file__).resolve().parent.parent  # where the rooms are imported from
_ROOMS = ("featurize", "store", "weights")
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
def connected(address: str | None) -> Iterator[None]:
    """Ray within this block: the cluster at `address` or RAY_ADDRESS, else one started here.

    Raises FeaturizeError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None or address == "local":
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(_ROOT) not in paths:  # Ray's processes inherit it
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
            quiet["runtime_env"] = {"py_modules": [str(_ROOT / room) for room in _ROOMS]}
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise FeaturizeError(f"no Ray cluster at {address} ({why}): start one or leave it out") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray prints its own errors there: standard output is ours
            yield
    finally:
        ray.shutdown()
