"""Flags as people write them: `--test-set` means the option `test_set`."""

from collections.abc import Sequence


def underscored(arguments: Sequence[str]) -> list[str]:
    """The arguments with `-` inside a flag's name made `_`; values, also those behind `=`, stay as they are."""
    found = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            argument = "--" + name.replace("-", "_") + equals + value
        found.append(argument)
    return found
