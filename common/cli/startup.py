"""The first import of every room: a command that is interrupted while it imports ends in one line too.

`python -m ROOM.VERB` imports the room before the module, so no line of the module itself is early enough. Importing
this module installs handlers of SIGINT and SIGTERM if, and only if, this process was started as one of the project's
commands; `common.cli.command` replaces them once `main` runs. A program that imports a room keeps its own handlers.

It imports only what Python has loaded already: even `signal` takes milliseconds in which Python itself would answer
with a traceback.
"""

import _signal
import os
import sys

ROOMS = frozenset({"store", "weights", "kitchen", "featurize", "retrieval", "heads", "annotate", "benchmarks"})


def module_of(arguments: list[str]) -> str | None:
    """Return the module that Python was started with (`-m`).

    Args:
        arguments: The process's command line, as in `sys.orig_argv`.
    """
    rest = iter(arguments[1:])
    for argument in rest:
        if not argument.startswith("-") or argument.startswith("--"):
            return None
        flags = argument[1:]
        for place, flag in enumerate(flags, 1):
            if flag == "c":
                return None
            if flag == "m":
                return flags[place:] or next(rest, None)
            if flag in "XW":  # what follows is its value
                if place == len(flags):
                    next(rest, None)
                break
    return None


def install() -> None:
    """Install the handlers. A signal that this process was started to ignore (`nohup`) stays ignored."""
    for number in (_signal.SIGINT, _signal.SIGTERM):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    """Nothing was done yet: there is nothing to clean up, and an exception might be lost among half-made imports."""
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(128 + number)


if (module_of(sys.orig_argv) or "").split(".")[0] in ROOMS:
    install()
