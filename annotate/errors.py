"""The one exception of this room."""


class AnnotateError(Exception):
    """A user's mistake, or something outside that does not answer, in one line: what, where, what to do."""
