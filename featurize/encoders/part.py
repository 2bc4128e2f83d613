"""One module of a whole model's checkpoint: its tensors are read, those of the rest are not.

Guarantees
----------
- Files that hold nothing of the module are not opened (`test_the_language_model_is_not_read`).
- Every tensor of the module is found, in its shape, or the folder is refused (`test_a_tower_is_whole_or_refused`).
"""

import json
import re
from pathlib import Path

import torch

from common.errors import StepDiffError

_BUFFERS = ("position_ids",)  # that old checkpoints hold and that are computed


def load_part(module: torch.nn.Module, folder: Path, prefix: str, wanted: str) -> None:
    """Fill a module from those safetensors of a folder whose names begin with a prefix.

    Args:
        module: in float32, on the CPU.
        folder: as transformers saves one, of one file or of several with an index.
        prefix: a regular expression for the place of the module in the whole model.
        wanted: what the folder should hold, in words.

    Raises:
        StepDiffError: files are absent or damaged, or the tensors are not the module's.
    """
    from safetensors import SafetensorError, safe_open

    begin, expected = re.compile(prefix), module.state_dict()
    left = set(expected)
    try:
        for file in _files(folder, begin):
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():
                    place = begin.match(key)
                    name = key[place.end() :] if place else ""
                    if not place or name.endswith(_BUFFERS):
                        continue
                    if name not in left or tuple(tensors.get_slice(key).get_shape()) != expected[name].shape:
                        raise StepDiffError(f"{file}: {key} is unknown or of another shape: give {wanted}")
                    expected[name].copy_(tensors.get_tensor(key))
                    left.remove(name)
    except (OSError, SafetensorError, ValueError, KeyError) as problem:
        raise StepDiffError(f"the weights in {folder} cannot be read ({problem}): give {wanted}") from None
    if left:
        raise StepDiffError(f"{folder} lacks {len(left)} tensors of the image tower, first {min(left)}: give {wanted}")


def _files(folder: Path, begin: re.Pattern[str]) -> list[Path]:
    """The files that hold tensors of that name."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    places = json.loads(index.read_text())["weight_map"]
    return sorted({folder / file for key, file in places.items() if begin.match(key)})
