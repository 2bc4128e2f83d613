"""The connection to Ray: a local one that is started, a cluster that is joined, or the cluster of the current job.

Guarantees
- a local Ray listens on this machine only, opens no dashboard and sends no usage report
- Ray prints nothing to standard output
- a program that is already connected to Ray keeps its connection
- inside a Ray job relative paths are refused: they would point into a temporary copy of the working folder
"""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from _stepdiff import BELOW
from common.errors import StepDiffError
from common.workers.local_ray import RayStartError, joined_ray, local_ray

_ROOT = Path(__file__).resolve().parents[2]  # where the rooms are imported from


def inside_job() -> bool:
    """Return whether this process is the entry point of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def refuse_relative(paths: Iterable[tuple[str, str]]) -> None:
    """Raise StepDiffError where, inside a Ray job, one of the paths (name, path) is relative."""
    for name, path in paths if inside_job() else ():
        if not Path(path).expanduser().is_absolute():
            raise StepDiffError(
                f"{name} {path!r} is relative: inside a Ray job it would point into a temporary "
                "copy of the working folder; give an absolute path"
            )


@contextmanager
def connected(address: str | None, room: str) -> Iterator[bool]:
    """Connect to Ray within this block: to the current connection, to the cluster at `address` or RAY_ADDRESS, or else
    to a local one that is started. Yields whether a cluster was joined, which then receives the package `room` and
    those that it may import.

    Raises StepDiffError where no cluster answers, or Ray does not start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is None and ray.is_initialized():
        with redirect_stdout(sys.stderr):
            yield True
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    joined = address != "local"
    if joined:
        # a job's working folder is on every node already; otherwise the rooms are sent
        folders = [str(_ROOT / name) for name in ("_stepdiff", *BELOW[room], room)]
        travelling = {} if inside_job() else {"runtime_env": {"py_modules": folders}}
        connection = joined_ray(address, **travelling)
    else:
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(_ROOT) not in [*paths, sysconfig.get_path("purelib")]:  # Ray's processes inherit it
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), *paths]))
        connection = local_ray()
    with ExitStack() as block:
        block.enter_context(redirect_stdout(sys.stderr))  # Ray would print errors to standard output
        try:
            block.enter_context(connection)
        except RayStartError as error:
            raise StepDiffError(str(error)) from None
        yield joined
