"""The one exception of this room."""


class HeadsError(Exception):
    """A user's mistake, or a file that is not what it should be, in one line: what, where, what to do."""
