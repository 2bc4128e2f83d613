"""Where a head computes, and in which precision."""

from contextlib import AbstractContextManager
from typing import Any

import torch


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is some."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 where a recipe says so."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
