"""The exception that every room raises for what a user can fix.

The command lines print its message as one line; anything else is a defect, with a traceback.
"""


class StepDiffError(Exception):
    """Unusable input, or a file or service that fails: one line that says what, where and what to do next."""


class DamageError(StepDiffError):
    """Stored bytes that differ from what was written."""


class HeldError(StepDiffError):
    """A lock that another process holds."""
