"""Weights from a local folder: configuration, model, tokenizer, one checkpoint file, or one module
of a whole model.

Guarantees
- files that contain no tensor of a module are not opened
- every tensor of the module is found, in its shape, or the folder is refused
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff_core.errors import StepDiffError, first_line

if TYPE_CHECKING:  # a run with nothing to do needs no torch
    import torch


def read_config(folder: Path, contents: str, key: str, value: str) -> dict[str, Any]:
    """Return the folder's config.json, which must have `key`: `value`; `contents` is what it should
    hold, in words.

    Raises StepDiffError: no such file, no JSON, or it is another model's.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise StepDiffError(f"{folder} holds no config.json: give {contents}") from None
    except ValueError as problem:
        raise StepDiffError(f"{path} is no JSON ({problem}): give {contents}") from None
    written = config.get(key) if isinstance(config, dict) else None
    if written != value:
        raise StepDiffError(f"{path} has {key} {written!r}, not {value!r}: give {contents}")
    return config


def load_model(
    kind: Any, folder: Path, device: "torch.device", contents: str, attention: str | None = "sdpa"
) -> Any:
    """Return a model of transformers in float32, frozen.

    Args:
        kind: its class.
        folder: of the weights.
        device: where it runs.
        contents: what the folder should hold, in words.
        attention: how transformers shall compute it; None is its own choice.

    Raises:
        StepDiffError: the files are absent, damaged, another model's, or not safetensors.
    """
    import torch

    with loading(folder, contents):
        model, report = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        what = type(model).__name__.removesuffix("Model")
        raise StepDiffError(
            f"{folder} lacks {len(missing)} tensors of a {what}, first {missing[0]}: give "
            f"{contents}"
        )
    return model.eval().requires_grad_(False).to(device)


def half_products(device: "torch.device") -> "torch.autocast":
    """Return a context in which a GPU has matrix products in bf16; a CPU computes in float32."""
    import torch

    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


def load_tokenizer(folder: Path, contents: str) -> Any:
    """Return the folder's tokenizer. StepDiffError if it has none that can be loaded here."""
    from transformers import AutoTokenizer

    with loading(folder, contents, "has no tokenizer that can be loaded"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def hidden_state(layer: int, blocks: int, what: str) -> int:
    """Return the index from the front of a hidden state. StepDiffError: the `what` (a model) has no
    such layer."""
    if not -blocks - 1 <= layer <= blocks:
        raise StepDiffError(
            f"there is no layer {layer}: this {what} has hidden states 0 to {blocks} (or "
            f"-{blocks + 1} to -1)"
        )
    return layer % (blocks + 1)


@contextmanager
def loading(folder: Path, contents: str, fault: str = "cannot be loaded") -> Iterator[None]:
    """Turn an error about the files of `folder` into one line: its `fault`, why, and what is
    to give in its place, `contents`."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of tensors that load in a moment
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as problem:
        raise StepDiffError(f"{folder} {fault} ({first_line(problem)}): give {contents}") from None
    except ImportError as problem:  # a package that only some models need, such as timm
        raise StepDiffError(f"{folder} {fault} here: {' '.join(str(problem).split())}") from None
    finally:
        if bars:
            logging.enable_progress_bar()


def checkpoint_file(weights: Path) -> Path:
    """Return the file itself, or that of a folder. StepDiffError if a folder holds none, or
    several."""
    if weights.is_file():
        return weights
    files = sorted(
        path for path in weights.glob("[!.]*") if path.suffix in (".ckpt", ".safetensors")
    )
    if not files:
        raise StepDiffError(
            f"{weights} holds no .ckpt and no .safetensors: give a checkpoint, or its folder"
        )
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise StepDiffError(
            f"{weights} holds {len(files)} checkpoints ({names}): give the one that is meant"
        )
    return files[0]


_BUFFERS = ("position_ids",)  # that old checkpoints hold and that are computed


def load_part(module: "torch.nn.Module", folder: Path, contents: str, prefix: str = "") -> None:
    """Fill a module from those safetensors of a folder whose names begin with a prefix, which are
    exactly its tensors.

    Args:
        module: in float32, on the CPU.
        folder: as transformers saves one, of one file or of several with an index.
        contents: what the folder should hold, in words.
        prefix: a regular expression for the place of the module in the whole model.

    Raises:
        StepDiffError: files are absent or damaged, or the tensors are not the module's.
    """
    from safetensors import SafetensorError, safe_open

    begin, expected = re.compile(prefix), module.state_dict()
    missing_names, index = set(expected), folder / "model.safetensors.index.json"
    try:
        files = {"model.safetensors"}
        if index.is_file():
            places = json.loads(index.read_text())["weight_map"]
            files = {file for key, file in places.items() if begin.match(key)}
        for file in sorted(files):
            with safe_open(folder / file, "pt") as tensors:
                for key in tensors.keys():
                    place = begin.match(key)
                    name = key[place.end() :] if place else ""
                    if not place or name.endswith(_BUFFERS):
                        continue
                    if (
                        name not in missing_names
                        or tuple(tensors.get_slice(key).get_shape()) != expected[name].shape
                    ):
                        raise StepDiffError(
                            f"{folder / file}: {key} is unknown or of another shape: give "
                            f"{contents}"
                        )
                    expected[name].copy_(tensors.get_tensor(key))
                    missing_names.remove(name)
    except (OSError, SafetensorError, ValueError, KeyError) as problem:
        raise StepDiffError(
            f"the weights in {folder} cannot be read ({problem}): give {contents}"
        ) from None
    if missing_names:
        raise StepDiffError(
            f"{folder} lacks {len(missing_names)} of the tensors, first {min(missing_names)}: give "
            f"{contents}"
        )
