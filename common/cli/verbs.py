"""Sub-commands: `python -m ROOM VERB ...` imports the module of the chosen verb and no other.

It imports only the standard library, so that `python -m ROOM --help` is as fast as importing the room.
"""

import difflib
import sys
from collections.abc import Mapping
from importlib import import_module


def choose(
    program: str,
    description: str,
    verbs: Mapping[str, tuple[str, str]],
    argv: list[str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> int:
    """Call the function of the verb that the command line names; returns its exit status, 2 where no verb is named.

    Args:
        program: What follows `python -m `.
        description: Printed by `--help`, before the list of verbs.
        verbs: Verb -> (`module:function`, its help in one line). The function takes the remaining arguments and
            returns the exit status; without `:function` it is `main`.
        argv: Arguments, by default those of the process.
        aliases: Other spelling -> verb.
    """
    first, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if first in ("", "-h", "--help"):
        width = max(map(len, verbs))
        lines = [f"  {verb:<{width}}  {about}" for verb, (_, about) in verbs.items()]
        head = [f"usage: python -m {program} COMMAND [OPTIONS]", "", description.strip(), "", "commands:"]
        tail = ["", f"Options of a command: python -m {program} COMMAND --help"]
        print("\n".join([*head, *lines, *tail]), file=None if first else sys.stderr)
        return 0 if first else 2
    verb = (aliases or {}).get(first, first)
    if verb not in verbs:
        near = difflib.get_close_matches(verb, verbs, 1)
        meant = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(verbs)}"
        print(f"error: python -m {program} has no command {first}: {meant}", file=sys.stderr)
        return 2
    module, _, function = verbs[verb][0].partition(":")
    return int(getattr(import_module(module), function or "main")(rest))
