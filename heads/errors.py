"""The one exception of this room."""


class HeadsError(Exception):
    """A user's mistake, or a file that is not what it should be, in one line: what, where, what to do."""


def at_least(least: int, where: str, options: object, *names: str) -> None:
    """HeadsError: one of the options' numbers is smaller."""
    for name in names:
        if (value := getattr(options, name)) < least:
            raise HeadsError(f"{where}.{name} is {value}; it must be {least} or more")
