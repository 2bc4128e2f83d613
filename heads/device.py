"""Where a head computes, and in which precision."""

from contextlib import AbstractContextManager
from typing import Any

import torch

from common.errors import StepDiffError


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is some. StepDiffError: no such device."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise StepDiffError(f"--device {device}: no such device; give auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise StepDiffError(f"--device {device}: PyTorch finds no CUDA device here; give auto or cpu")
    return device


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 where a recipe says so."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
