"""The one checkpoint of a folder of weights, in which other files (a tokenizer's) may lie too."""

from pathlib import Path

from common.errors import StepDiffError

_ENDINGS = (".ckpt", ".safetensors")


def checkpoint_file(weights: Path) -> Path:
    """The file itself, or that of a folder. StepDiffError where a folder holds none, or several."""
    if weights.is_file():
        return weights
    found = sorted(path for path in weights.iterdir() if path.suffix in _ENDINGS and not path.name.startswith("."))
    if not found:
        raise StepDiffError(f"{weights} holds no .ckpt and no .safetensors: give a checkpoint, or its folder")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise StepDiffError(f"{weights} holds {len(found)} checkpoints ({names}): give the one that is meant")
    return found[0]
