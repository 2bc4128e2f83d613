"""Filling of an index's parts, in this process or by a pool of workers on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.errors import StepDiffError
from common.progress import Advance
from common.workers.cluster import connected
from common.workers.pool import WorkerPool, pool_size
from retrieval.index.parts import Filled, Part, fill


@dataclass(frozen=True)
class FillOptions:
    """The options of the workers."""

    cpus: int = 1


class FillWorker:
    """A worker that fills parts; only measurements travel through Ray, never embeddings."""

    def __init__(self, options: FillOptions) -> None:
        pass

    def run(self, part: Part) -> Filled:
        """Fill a part."""
        try:
            return fill(part)
        except StepDiffError as error:
            return failed(part.shard, str(error))

    def finished(self) -> int:
        """Return 0: rows count once their part is written."""
        return 0


def failed(shard: int, why: str) -> Filled:
    """Return the outcome of a part that was not filled."""
    return Filled(0.0, 0.0, 0, why)


def fill_all(parts: Sequence[Part], workers: int | None, address: str | None, advance: Advance) -> Iterator[Filled]:
    """Fill every part and yield its measurements as it ends. One part, or `workers` of 1, needs no Ray.

    Raises StepDiffError for the first part that fails, or whose workers die repeatedly.
    """
    if workers == 1 or (len(parts) < 2 and address is None):
        for part in parts:
            yield fill(part)
            advance(len(part.rows))
        return
    with connected(address, "retrieval") as joined:
        options = FillOptions()
        pool = WorkerPool(FillWorker, options, False, failed)
        count, _ = pool_size(workers, options.cpus, False, joined)
        for filled in pool.run(parts, min(count, len(parts)), advance):
            if filled.error:
                raise StepDiffError(filled.error)
            yield filled
