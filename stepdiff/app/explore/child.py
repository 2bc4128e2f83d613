"""Coordinates that a child process computes: UMAP takes minutes without a pause, and a thread cannot be ended.

Guarantees
- a computation of the child is that of project, and is ended if nobody wants it
- an error of the child is an error of the caller
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from retrieval.projection import Advance, project
from stepdiff.common.errors import StepDiffError
from store import Store, View

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of the server hold
_POLL = 0.2  # seconds between two looks whether the result is still wanted


def write_coordinates(
    view: View, rows: Int64[np.ndarray, " rows"], projection: str, path: Path, advance: Advance = lambda count: None
) -> None:
    """Write `xy` and `shares` of the rows of a view to an .npz file. Raises StepDiffError as `project`."""
    xy, shares = project(view, rows, projection, advance=advance)
    with path.open("wb") as file:
        np.savez(file, xy=xy, shares=np.array(shares))


def write_in_child(
    store: Store, view: str, rows: Int64[np.ndarray, " rows"], projection: str, path: Path, check: Callable[[], None]
) -> None:
    """Write the same file as `write_coordinates` from a child process.

    Args:
        check: Called several times a second. What it raises ends the computation, and is raised here.

    Raises:
        StepDiffError: As `project`, or the child ended without a result.
    """
    here, there = _SPAWN.Pipe(duplex=False)
    given = (there, store, view, rows, projection, str(path))
    child = _SPAWN.Process(target=_compute, args=given, name=f"map of {view}", daemon=True)
    child.start()
    there.close()
    try:
        while not here.poll(_POLL):
            check()
        problem = here.recv_bytes().decode()
    except EOFError:
        child.join()
        why = f"its process ended with status {child.exitcode}"
        raise StepDiffError(f"the map of {view} failed ({why}): is there enough memory?") from None
    finally:
        child.kill()
        child.join()
        here.close()
    if problem:
        raise StepDiffError(problem)


def _compute(answer: Connection, store: Store, view: str, rows: np.ndarray, projection: str, path: str) -> None:
    """Write the coordinates, and send an empty message or what is wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the server, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write_coordinates(store.view("clips", view), rows, projection, Path(path))
        answer.send_bytes(b"")
    except StepDiffError as error:
        answer.send_bytes(str(error).encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
