"""The exception of this room, and two kinds of it."""


class StoreError(Exception):
    """A store that cannot do what was asked.

    The message is one line: what is wrong, where, and what to do about it.
    """


class DamageError(StoreError):
    """Bytes that are not as they were written."""


class HeldError(StoreError):
    """A lock that another process holds."""
