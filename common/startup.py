"""The first import of every room: a command that is interrupted while it imports ends in one line too.

`python -m ROOM.VERB` imports the room before the module, so no line of the module itself is early enough. Importing
this module installs the handlers of `common.command` if, and only if, this process was started as one of the project's
commands. A program that imports a room keeps its own.
"""

import re
import sys
from collections.abc import Sequence

from common import command

ROOMS = frozenset({"store", "weights", "kitchen", "featurize", "retrieval", "heads", "annotate", "benchmarks"})
_MODULE = re.compile(r"-[A-Za-z]*?m(.*)")  # `-m NAME`, `-mNAME`, `-um NAME`


def module_of(arguments: Sequence[str]) -> str | None:
    """Return the module that Python was started with (`-m`).

    Args:
        arguments: The process's command line, as in `sys.orig_argv`.
    """
    rest = iter(arguments[1:])
    for argument in rest:
        if argument in ("-X", "-W"):
            next(rest, None)
        elif not argument.startswith("-") or argument == "-" or argument.startswith("--"):
            return None
        elif argument.startswith(("-c", "-X", "-W")):
            if argument.startswith("-c"):
                return None
        elif found := _MODULE.fullmatch(argument):
            return found[1] or next(rest, None)
    return None


if (module_of(sys.orig_argv) or "").split(".")[0] in ROOMS:
    command.start()
