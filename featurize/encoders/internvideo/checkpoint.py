"""The files of an InternVideo-MM: its checkpoint and CLIP's tokenizer.

A published .ckpt has the tensors under `state_dict`, each name after `clip.`; others there belong to the training. A
.safetensors file holds the same tensors, with `clip.` or without. The tokenizer is tokenizer.json, or vocab.json and
merges.txt; no other file of the folder is read.

Guarantees
- a pickle that runs code is refused, and runs none
- all tensors of the two towers are there, of the right shapes, and no others
- both kinds of tokenizer files give the same ids and the same digest
"""

import hashlib
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featurize.encoders.internvideo.model import SIZES, InternVideoMM, Size
from stepdiff.common.errors import StepDiffError

_PREFIX = "clip."
_WANTED = "a published InternVideo-MM checkpoint (.ckpt), or its tensors as .safetensors"


def load_model(path: Path, name: str, size: Size, device: torch.device) -> InternVideoMM:
    """Load the model `name` of `size` in float32.

    Raises:
        StepDiffError: the file cannot be read or runs code, or its tensors are not those of the model.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = {tensor.removeprefix(_PREFIX): values for tensor, values in state.items() if tensor.startswith(_PREFIX)}
    _check(path, name, {tensor: tuple(values.shape) for tensor, values in state.items()}, _shapes(size))
    with torch.device("meta"):
        model = InternVideoMM(size)
    # copied, because a mapped file may change
    copied = {tensor: values.to(device, torch.float32, copy=True) for tensor, values in state.items()}
    model.load_state_dict(copied, assign=True)
    return model.eval().requires_grad_(False)


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
        lines = str(problem).splitlines()
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        raise StepDiffError(f"{path} is refused, {reason}: give {_WANTED}") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as problem:
        raise StepDiffError(f"{path} is cut short or no checkpoint ({_first_line(problem)}): copy it again") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise StepDiffError(f"{path} has no state_dict: give {_WANTED}")
    return {str(name): values for name, values in state.items() if isinstance(values, torch.Tensor)}


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
    for first in shaped[:1]:
        shapes = f"{list(found[first])} for {list(expected[first])}"
        faults.append(f"has {len(shaped)} of another shape, first {first} {shapes}")
    raise StepDiffError(f"{path} is no {name}: it {'; it '.join(faults)}: give {_WANTED}")


_START, _END = "<|startoftext|>", "<|endoftext|>"
_TOKENIZER = "CLIP's tokenizer.json, or its vocab.json and merges.txt"


@dataclass(frozen=True)
class Tokenizer:
    """CLIP's byte-pair encoding."""

    digest: str
    """16 hex digits of the vocabulary and its merges"""
    encode: Any
    """texts -> `input_ids`, as a tokenizer of transformers does it"""


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a folder, of `vocabulary` ids, whose last two start and end a text.

    Raises:
        StepDiffError: its files are missing, damaged, or another model's.
    """
    from transformers import CLIPTokenizer

    try:
        ids, merges = _read(folder)
    except (ValueError, KeyError, TypeError) as problem:
        raise StepDiffError(f"the tokenizer files in {folder} are damaged ({problem!r}): give {_TOKENIZER}") from None
    if len(ids) != vocabulary or (ids.get(_START), ids.get(_END)) != (vocabulary - 2, vocabulary - 1):
        raise StepDiffError(
            f"the tokenizer in {folder} is not CLIP's: it has {len(ids)} ids with {_END} at {ids.get(_END)}, "
            f"where {vocabulary} with {_END} last are needed: give {_TOKENIZER}"
        )
    unknown = [pair for pair in merges if not {*pair, "".join(pair)} <= ids.keys()]
    if unknown:
        raise StepDiffError(f"the tokenizer in {folder} merges {unknown[0]}, not in its vocabulary: give {_TOKENIZER}")
    digest = hashlib.sha256(json.dumps([ids, merges], sort_keys=True).encode()).hexdigest()[:16]
    # the annotation of `merges` leaves out the pairs that it takes
    return Tokenizer(digest, CLIPTokenizer(vocab=ids, merges=merges))  # type: ignore[arg-type]


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every token's id, and the pairs that are merged, first the first."""
    if (whole := folder / "tokenizer.json").is_file():
        model = json.loads(whole.read_text("utf-8"))["model"]
        ids, pairs = model["vocab"], model["merges"]
    elif (table := folder / "vocab.json").is_file() and (list_ := folder / "merges.txt").is_file():
        ids = json.loads(table.read_text("utf-8"))
        pairs = [line for line in list_.read_text("utf-8").split("\n") if line and not line.startswith("#version")]
    else:
        raise StepDiffError(f"texts need a tokenizer, and {folder} has none: put {_TOKENIZER} there")
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
    if not all(len(pair) == 2 for pair in merges):
        raise ValueError("a merge of other than two tokens")
    return dict(ids), merges
