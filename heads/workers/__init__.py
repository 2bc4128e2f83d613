"""The processes of a training: their group, and their launch on Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


def is_first() -> bool:
    """Return whether this process is the first of torchrun's, or not one of them."""
    return os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ


@contextmanager
def first_prints() -> Iterator[None]:
    """Let only the first of torchrun's processes write to standard output within this block."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
