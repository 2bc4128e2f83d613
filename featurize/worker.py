"""A worker process: one encoder, one shard after another. It is an actor of Ray.

Guarantees
- the encoder is loaded once a worker
- frames and features leave a worker for the store alone
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from common.errors import StepDiffError
from featurize.shard import featurize_shard
from featurize.task import Outcome, Task
from featurize.video.frames import Sampling
from store import Feature, Provenance

if TYPE_CHECKING:
    from featurize.encoders import Encoder


@dataclass(frozen=True)
class WorkerOptions:
    """Options of every worker of a run."""

    encoder: str
    weights: str | None
    layer: int | None
    device: str | None
    """None is a GPU where the worker was given one"""
    cpus: int
    """threads of the encoder"""
    frames: int | None = None
    """of a clip; None is the encoder's own choice, and so below"""
    sampling: Sampling | None = None


class Worker:
    """Featurizes shards; a second thread may ask how far it is."""

    def __init__(self, options: WorkerOptions) -> None:
        """A worker that has loaded nothing yet."""
        self._options = options
        self._lock = threading.Lock()
        self._finished = 0

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]] | str:
        """What makes a view of the encoder, or why there can be none."""
        try:
            return self._encoder.provenance(entity, dtype), self._encoder.features(entity, dtype)
        except StepDiffError as error:
            return str(error)

    def run(self, task: Task) -> Outcome:
        """Featurize and commit a shard."""
        try:
            return featurize_shard(task, self._encoder, self._device, self._tell)
        except StepDiffError as error:
            return Outcome(task.shard, error=str(error))
        finally:
            with self._lock:
                self._finished = 0

    def finished(self) -> int:
        """Rows of the shard at work that are finished."""
        with self._lock:
            return self._finished

    def _tell(self, rows: int) -> None:
        with self._lock:
            self._finished += rows

    @cached_property
    def _device(self) -> str:
        import torch

        return self._options.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _encoder(self) -> "Encoder":
        import torch

        from featurize.encoders import load

        given = self._options
        torch.set_num_threads(given.cpus)
        return load(given.encoder, given.weights, self._device, given.layer, given.frames, given.sampling)
