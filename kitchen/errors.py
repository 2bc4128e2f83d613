"""The one exception of this room."""


class KitchenError(Exception):
    """A user's mistake or a broken world folder; the message is one line: what, where, what to do."""
