"""The one exception of this room."""

import shlex


class RetrievalError(Exception):
    """One line: what is wrong, where, and what to run next."""


def command(*words: object) -> str:
    """A command as a user can paste it, in backquotes."""
    return f"`{shlex.join(str(word) for word in words)}`"
