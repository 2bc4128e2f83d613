"""A head whose language model is too large for one device, divided among the processes that torchrun starts.

    torchrun --nproc-per-node 8 -m heads.evaluate --method video-lm --head runs/stepdiff ...

A frozen language model is divided by tensor parallelism: the processes compute each batch together. One that trained,
also with LoRA, is divided layer by layer (FSDP2), and the processes share the rows of a batch. The first process reads
the rows and writes the answers; the others compute what it asks for, until it has finished.

Guarantees
- a_divided_head_answers_as_a_whole_one
- only_the_first_process_writes
- what_cannot_be_divided_is_refused
- a_process_that_fails_ends_the_others
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import StepDiffError
from common.progress import Advance
from heads.evaluation.answering import Answered, Batch, Here
from heads.evaluation.inputs import Asked
from heads.evaluation.loading import HEAD, Described, needed
from heads.evaluation.options import VIDEO_LM, EvaluateOptions
from heads.models.language_model import pick_device
from heads.training.lineage import division
from heads.workers.group import Group, joined, own_device, world_size


class Together:
    """Answers with all processes of a group; used by the first one."""

    def __init__(self, here: Here, group: Group) -> None:
        self._here, self._group = here, group
        self.computing = False
        """whether the others compute a batch, or did when this process failed"""

    @property
    def described(self) -> Described:
        return self._here.described

    def answer(self, batches: Sequence[Batch], advance: Advance) -> Iterator[Answered]:
        for batch in batches:
            _next(self._group, batch)
            self.computing = True
            answered = self._here.answered(batch)
            self.computing = False
            yield answered
            advance(len(batch.rows))


@contextmanager
def together(options: EvaluateOptions, asked: Asked) -> Iterator[Together | None]:
    """Load this process's share of the head; None: not the first process, and there is nothing left to compute.

    Raises:
        StepDiffError: The method has no language model that can be divided among so many processes; or no such head.
    """
    if options.method not in VIDEO_LM or options.workers > 1 or options.address is not None:
        raise StepDiffError(
            "torchrun divides the language model of --method video-lm; start python -m heads.evaluate by itself for "
            "other methods, and for --workers or --address"
        )
    device = own_device(pick_device(options.device))
    head = Path(needed(options, "head", HEAD))
    with joined(division(head, world_size()), device) as group:
        here = Here(options, asked.store, asked.rows, group)
        if not group.first:
            while (batch := _next(group)) is not None:
                here.answered(batch)
            yield None
            return
        method = Together(here, group)
        try:
            yield method
        finally:
            if not method.computing:  # else they wait in a layer, and end once this process has left the group
                with suppress(RuntimeError):  # they have gone
                    _next(group)


def _next(group: Group, batch: Batch | None = None) -> Batch | None:
    """Return the batch that the first process passes; None: there is none left."""
    return group.from_first(lambda: batch)
