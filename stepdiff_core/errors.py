"""The exception that every room raises for faults that a user can fix.

The command lines print its message as one line; anything else is a defect, with a traceback.
"""

from collections.abc import Collection


def some(names: Collection[str], most: int = 8) -> str:
    """Return `a, b and 3 more` for a line: at most `most` names, "none" if there are none."""
    shown = ", ".join(list(names)[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


class StepDiffError(Exception):
    """Unusable input, or a file or service that fails: one line that says what, where and what to
    do next."""


class DamageError(StepDiffError):
    """Stored bytes that differ from the written bytes."""


class HeldError(StepDiffError):
    """A lock that another process holds."""
