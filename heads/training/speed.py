"""The speed of a training step: what its batches contained, the time that it took and waited, and the peak memory.

Guarantee
- the_counts_of_a_step_are_those_of_its_batches
"""

import resource
import sys
from dataclasses import dataclass

import torch

GIGA = 1e9


@dataclass(frozen=True)
class Counts:
    """What a task has read so far in this process; those of several processes add up."""

    samples: int = 0
    """clips, sequences, images or pairs"""
    tokens: int = 0
    """of the language model, without padding; 0: the task has none"""
    clips: int = 0
    """clips whose features were read"""
    waited: float = 0.0
    """seconds in which the step waited for a batch"""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def speed(done: Counts, seconds: float) -> dict[str, float]:
    """Return the figures of a step that depend on the machine.

    Args:
        done: Contents of the step, of all processes.
        seconds: Duration of the step.
    """
    seconds = max(seconds, 1e-9)
    figures = {
        "seconds": seconds,
        "steps_per_second": 1 / seconds,
        "samples_per_second": done.samples / seconds,
        "clips_per_second": done.clips / seconds,
        "seconds_waited": done.waited,
        "peak_memory_gb": peak_memory() / GIGA,
    }
    if done.tokens:
        figures["tokens_per_second"] = done.tokens / seconds
    if torch.cuda.is_available():
        figures["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / GIGA
    return figures


def peak_memory() -> int:
    """Return the most bytes of host memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
