"""Commands from dataclasses: each field is a flag, `--config FILE` and `--json` are always there.

Guarantees
- invalid options give one line that names the option and the expected value, a StepDiffError is one: exit status 2
"""

import dataclasses
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import use_json


class Bytes(int):
    """A size in bytes: the `type` of a field's metadata whose values are `20GB`, `512MiB` or a number of bytes."""

    bare = 1
    """bytes that a number without a unit counts"""

    def __new__(cls, size: str | int | float) -> "Bytes":
        """Read a size. Raises ValueError for any other text."""
        parts = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*(?:([KMGT])(i?))?(B?)", str(size).strip(), re.IGNORECASE)
        if parts is None:
            raise ValueError(f"{size!r} is no size")
        number, unit, binary, byte = parts.groups()
        factor = (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper())
        return super().__new__(cls, float(number) * (factor if unit or byte else cls.bare))


class Mebibytes(Bytes):
    """A size in bytes whose values are `64MiB`, `2GB` or a number of MiB."""

    bare = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailureOptions:
    """What a command that keeps the failures of single items does about them."""

    allow_failed: bool = False
    """exit with status 0 even if items failed for good, for scripts that go on with the others"""


def at_least(options: Any, **smallest: int | float) -> None:
    """Raise StepDiffError for an option below its smallest value; one that is None has none."""
    for name, least in smallest.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise StepDiffError(f"--{name.replace('_', '-')} {value} is too small: give {least} or more")


def incomplete(record: Mapping[str, Any]) -> int:
    """Return the exit status of a command: 1 where items are absent, or failed and that is not allowed."""
    return int(bool(record.get("absent") or (record.get("failed") and not record.get("allowed"))))


def parse(
    options: type,
    argv: list[str] | None,
    program: str,
    description: str | None,
    run: str | Callable[[Any], Any],
    show: str | Callable[[Any], None] | None = None,
    positional: Collection[str] = (),
    status: Callable[[Any], int] = lambda record: 0,
    recipes: Path | None = None,
) -> int:
    """Run a command and show its record; returns the exit status: 0 done, 1 some items failed, 2 unusable input.

    Args:
        options: Dataclass of the options.
        argv: Arguments, by default those of the process.
        program: Module of the command.
        description: Printed by `--help`; None: the docstring of `options`.
        run: Takes the options and returns the record: a dictionary or a dataclass. A text is MODULE:FUNCTION, which is
            imported after the options were read, so that `--help` is fast.
        show: Prints the record, or is its format string. None: `run` prints by itself and returns the exit status.
        positional: Options without a flag; a list takes all values that follow.
        status: The exit status of a record.
        recipes: Folder whose YAML files `--config` also takes by name.
    """
    from stepdiff.common.cli.command import spoken
    from stepdiff.common.cli.parser import Help, Parser

    prog = spoken(program)
    usage = " ".join([prog, *(name.upper() for name in positional), "[OPTIONS]"])
    parser = Parser(prog=prog, usage=usage, description=description or options.__doc__, formatter_class=Help)
    parser.add(options, positional, recipes)
    if "json" not in {field.name for field in dataclasses.fields(options)}:
        parser.add_argument("--json", type=bool, default=False, help="print one JSON object and nothing else")
    lines = "what is printed to standard error while the command runs: text, or json, an object a line"
    parser.add_argument("--progress", type=Literal["text", "json"], default="text", help=lines)
    given, as_json, json_lines = parser.values(sys.argv[1:] if argv is None else argv)
    use_json(json_lines)
    try:
        record = (pkgutil.resolve_name(run) if isinstance(run, str) else run)(given)
    except StepDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if show is None:
        return int(record)
    values: Any = record if isinstance(record, dict) else dataclasses.asdict(record)
    if as_json:
        print(json.dumps(values, allow_nan=False))
    elif isinstance(show, str):
        print(show.format(**values))
    else:
        show(record)
    return status(record)
