"""What the command lines of this room share: those of heads, with this room's errors and exit status."""

from collections.abc import Callable
from typing import Any

from common.cli import options as cli


def parse(
    options: type,
    argv: list[str] | None,
    program: str,
    description: str | None,
    run: Callable[[Any], dict[str, Any]],
    show: str | Callable[[dict[str, Any]], None],
    positional: tuple[str, ...] = (),
) -> int:
    """Call common.cli.options.parse; the exit status is also 1 where items of a stage are absent, or failed and
    that is not allowed."""
    errors: tuple[type[Exception], ...] = cli.ERRORS
    return cli.parse(options, argv, program, description, run, show, positional, errors, _status)


def _status(record: dict[str, Any]) -> int:
    return int(bool(record.get("absent") or (record.get("failed") and not record.get("allowed"))))
