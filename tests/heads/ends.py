"""How runs of a training end: the weights of a checkpoint, and whether two runs have the same."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def weights(run: Path, step: int = 6) -> dict[str, np.ndarray]:
    return load_file(run / f"checkpoint-{step:06d}" / "head.safetensors")


def assert_same_weights(run: Path, other: Path, step: int = 6) -> None:
    """Compare every weight of two runs, bit for bit."""
    ours, theirs = weights(run, step), weights(other, step)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in theirs.items() if ours[name].tobytes() != value.tobytes()] == []
