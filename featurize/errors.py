"""The one exception of this room."""


class FeaturizeError(Exception):
    """Work that cannot go on, in one line: what is wrong, where, and what to do."""
