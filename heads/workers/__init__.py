"""The processes of a training: their group, their launch on Ray, and the batch that one reads ahead."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def first_prints() -> Iterator[None]:
    """Let only the first of torchrun's processes write to standard output within this block."""
    if os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
