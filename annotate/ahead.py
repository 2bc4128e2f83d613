"""Things made in a thread ahead of whoever uses them, so that a model waits for none.

Guarantees
- they come in order, and at most so many wait
- an error reaches whoever asks for the next one
- whoever stops taking them stops the thread
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds
_END = object()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(things: Iterable[T], waiting: int = 2) -> Iterator[T]:
    """The things, of which at most `waiting` are made and not yet taken."""
    made: queue.Queue[object] = queue.Queue(waiting)
    stop = threading.Event()

    def give(thing: object) -> None:
        while not stop.is_set():
            try:
                return made.put(thing, timeout=_POLL)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for thing in things:
                give(thing)
                if stop.is_set():
                    return
            give(_END)
        except BaseException as error:  # raised again by whoever takes the things
            give(_Raised(error))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (thing := made.get()) is not _END:
            if isinstance(thing, _Raised):
                raise thing.error
            yield thing  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
