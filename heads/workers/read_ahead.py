"""The next batch, read while the current one is computed.

Guarantees
- training with and without reading ahead is the same, bit for bit
- an error of a batch that is read ahead is raised where the batch is used
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Made = TypeVar("Made")


class ReadAhead(Generic[Made]):
    """Batches by number, of which one thread reads the next.

    On a GPU the thread copies and converts on a stream of its own, so that this overlaps with the computation.

    Args:
        read: Returns the batch of a number. It is never called twice at the same time.
        device: Of the batches.
    """

    def __init__(self, read: Callable[[int], Made], device: str) -> None:
        self._read = read
        self._stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[int, Future[Made]] | None = None
        self._used: Made | None = None

    def take(self, number: int, following: int | None = None) -> Made:
        """Return the batch of that number, and begin to read the following one, if there is one."""
        if self._next is None or self._next[0] != number:
            self._start(number)
        assert self._next is not None
        # Memory of the side stream is given out again when its tensor goes, also while another stream reads it. The
        # batch is therefore held until the next one is taken: the loop has then waited for its loss.
        self._used, self._next = self._next[1].result(), None
        if following is not None:
            self._start(following)
        return self._used

    def _start(self, number: int) -> None:
        self._next = number, self._thread.submit(self._made, number)

    def _made(self, number: int) -> Made:
        if self._stream is None:
            return self._read(number)
        with torch.cuda.stream(self._stream):
            batch = self._read(number)
            self._stream.synchronize()
        return batch
