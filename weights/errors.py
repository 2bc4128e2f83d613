"""The one exception of this room."""


class WeightsError(Exception):
    """A model's files cannot be had. The message is one line: what, where, what to do."""
