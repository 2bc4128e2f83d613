"""parts of an index, filled here or by the workers of a Ray cluster; plans travel through Ray, never embeddings"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from common.errors import StepDiffError
from common.workers.local_ray import RayStartError, joined_ray, local_ray
from retrieval.index.parts import Filled, Part, fill, fill_or_say

_ROOT = Path(__file__).resolve().parent.parent  # where the rooms are imported from
_ROOMS = ("common", "retrieval", "store")


def fill_all(
    parts: Sequence[Part], workers: int | None, address: str | None, advance: Callable[[int], None]
) -> Iterator[Filled]:
    """Fill every part, as they end. One part, or `workers` of 1, needs no Ray. StepDiffError as `fill` raises it."""
    if workers == 1 or (len(parts) < 2 and address is None):
        for part in parts:
            yield fill(part)
            advance(len(part.rows))
        return
    with _connected(address):
        import ray

        task = ray.remote(fill_or_say).options(num_cpus=1, max_retries=3)
        room = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        left = list(reversed(parts))
        busy: dict[Any, Part] = {}
        while left or busy:
            while left and len(busy) < room:
                part = left.pop()
                busy[task.remote(part)] = part
            (ended,), _ = ray.wait(list(busy), num_returns=1)
            part = busy.pop(ended)
            try:
                outcome = ray.get(ended)
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[0]
                raise StepDiffError(
                    f"the workers of rows {part.name} died ({why}): run it again with fewer --workers"
                ) from None
            if isinstance(outcome, str):
                raise StepDiffError(outcome)
            yield outcome
            advance(len(part.rows))


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Ray within this block: the one in use already, the cluster at `address` or RAY_ADDRESS, or one of our own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is None and ray.is_initialized():
        with redirect_stdout(sys.stderr):
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        paths = os.environ.get("PYTHONPATH", "")
        if str(_ROOT) not in paths.split(os.pathsep):  # Ray's processes inherit it
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), paths]))
        ray_of_ours = local_ray()
    else:
        # a job's working folder is on every node already
        inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        travelling = {} if inside_job else {"runtime_env": {"py_modules": [str(_ROOT / room) for room in _ROOMS]}}
        ray_of_ours = joined_ray(address, **travelling)
    with ExitStack() as block:
        block.enter_context(redirect_stdout(sys.stderr))  # Ray prints its own errors there: standard output is ours
        try:
            block.enter_context(ray_of_ours)
        except RayStartError as error:
            raise StepDiffError(str(error)) from None
        yield
