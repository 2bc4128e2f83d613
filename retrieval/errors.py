"""The one exception of this room."""


class RetrievalError(Exception):
    """One line: what is wrong, where, and what to run next."""
