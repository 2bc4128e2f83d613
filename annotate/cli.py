"""What the command lines of this room share: those of heads, with this room's errors and exit status."""

from collections.abc import Callable
from typing import Any

from heads import cli


def parse(
    options: type,
    argv: list[str] | None,
    program: str,
    description: str | None,
    run: Callable[[Any], dict[str, Any]],
    show: str | Callable[[dict[str, Any]], None],
    positional: tuple[str, ...] = (),
) -> int:
    """As heads.cli.parse. The exit status is 1 too where a stage's record tells of items that are absent, or of some
    that failed, unless those are allowed."""
    errors: tuple[type[Exception], ...] = cli.ERRORS
    return cli.parse(options, argv, program, description, run, show, positional, errors, _status)


def _status(record: dict[str, Any]) -> int:
    return int(bool(record.get("absent") or (record.get("failed") and not record.get("allowed"))))
