"""Refusals of commands."""

from collections.abc import Callable, Sequence

import pytest


def refuses(
    main: Callable[[list[str]], int],
    arguments: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    *words: str,
) -> None:
    """Assert that a command ends with status 2 and one line of error with these words, after its
    notices."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    *notices, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and not any(
        line.startswith("error: ") for line in notices
    ), error
    assert all(word in error for word in words), error
