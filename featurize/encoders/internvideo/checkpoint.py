"""The checkpoint of an InternVideo-MM becomes a module.

A published .ckpt has the tensors under `state_dict`, each name after `clip.`; what has another
name there is of the training. A .safetensors file holds the same tensors, with `clip.` or without.

Guarantees
- a pickle that runs code is refused, and runs none (`test_a_pickle_that_runs_code_is_refused`)
- all tensors of the two towers are there, of the right shapes, and no others (`test_wrong_checkpoints_are_refused`)
"""

import pickle
import zipfile
from pathlib import Path

import torch

from common.errors import StepDiffError
from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size

_PREFIX = "clip."
_WANTED = "a published InternVideo-MM checkpoint (.ckpt), or its tensors as .safetensors"


def load_model(path: Path, name: str, size: Size, device: torch.device) -> InternVideoMM:
    """The model `name` of `size` in float32, ready to run.

    Raises:
        StepDiffError: the file cannot be read or runs code, or its tensors are not those of the model.
    """
    state = _tensors(path)
    expected = _shapes(size)
    _check(path, name, {tensor: tuple(values.shape) for tensor, values in state.items()}, expected)
    with torch.device("meta"):
        model = InternVideoMM(size)
    # copied, for a mapped file may change under us
    copied = {tensor: values.to(device, torch.float32, copy=True) for tensor, values in state.items()}
    model.load_state_dict(copied, assign=True)
    return model.eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the file that belong to the model."""
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return {name.removeprefix(_PREFIX): values for name, values in state.items() if name.startswith(_PREFIX)}


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise StepDiffError(f"{path} cannot be read ({_first_line(problem)}): give {_WANTED}") from None
    if any(name.startswith(_PREFIX) for name in state):
        return state
    return {_PREFIX + name: values for name, values in state.items()}


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        # what an older PyTorch wrote is no zip file, and cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as problem:
        raise StepDiffError(f"{path} is refused, {_pickle_reason(problem)}: give {_WANTED}") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as problem:
        raise StepDiffError(f"{path} is cut short or no checkpoint ({_first_line(problem)}): copy it again") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise StepDiffError(f"{path} has no state_dict: give {_WANTED}")
    return {str(name): values for name, values in state.items() if isinstance(values, torch.Tensor)}


def _pickle_reason(problem: pickle.UnpicklingError) -> str:
    lines = str(problem).splitlines()
    named = [line for line in lines if "GLOBAL" in line]
    return named[0].strip() if named else lines[0]


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model and its shape."""
    with torch.device("meta"):
        return {name: tuple(values.shape) for name, values in InternVideoMM(size).state_dict().items()}


def _check(path: Path, name: str, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    """StepDiffError, in one line, where the tensors found are not those expected."""
    if found == expected:
        return
    for other, size in SIZES.items():
        if found == _shapes(size):
            raise StepDiffError(f"{path} holds {other}, not {name}: give --encoder {other}, or the other checkpoint")
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shaped = sorted(tensor for tensor in found.keys() & expected.keys() if found[tensor] != expected[tensor])
    if len(missing) == len(expected):
        raise StepDiffError(f"{path} is another model's, without a tensor of {name}: give {_WANTED}")
    faults = [f"lacks {len(missing)} tensors, first {missing[0]}"] if missing else []
    if extra:
        faults.append(f"has {len(extra)} that {name} has not, first {extra[0]}")
    if shaped:
        first = shaped[0]
        faults.append(
            f"has {len(shaped)} of another shape, first {first} {list(found[first])} for {list(expected[first])}"
        )
    raise StepDiffError(f"{path} is no {name}: it {'; it '.join(faults)}: give {_WANTED}")
