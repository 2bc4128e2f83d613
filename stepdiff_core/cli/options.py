"""Commands from dataclasses: each field is a flag, `--config FILE` and `--json` are always there.

Guarantees
- invalid options give one line that names the option and the expected value, a StepDiffError is
  one: exit status 2
- no command replaces a file that another of its options names, however the paths are written
"""

import dataclasses
import inspect
import json
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import use_json


class Bytes(int):
    """A size in bytes: the `type` of a field's metadata whose values are `20GB`, `512MiB` or a
    number of bytes."""

    bare = 1
    """bytes that a number without a unit counts"""

    def __new__(cls, size: str | int | float) -> "Bytes":
        """Read a size. Raises ValueError for any other text."""
        parts = re.fullmatch(
            r"(\d+(?:\.\d*)?(?:e\+?\d+)?)\s*(?:([KMGT])(i?))?(B?)", str(size).strip(), re.IGNORECASE
        )
        if parts is None:
            raise ValueError(f"{size!r} is no size")
        number, unit, binary, byte = parts.groups()
        factor = (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper())
        return super().__new__(cls, float(number) * (factor if unit or byte else cls.bare))

    def __str__(self) -> str:
        return f"{int(self)}B"  # which every kind of size reads as the same size

    def __getnewargs__(self) -> Any:  # of copies
        return (str(self),)


class Mebibytes(Bytes):
    """A size in bytes whose values are `64MiB`, `2GB` or a number of MiB."""

    bare = 2**20


WRITTEN: Mapping[str, tuple[str, ...]] = {"written": ()}
"""metadata of a field that names a file or folder to write. `{"written": (".rows.jsonl",
"/report.md")}` also lists files that are written with it: the name with another suffix, or a file
in the folder"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailureOptions:
    """What a command that keeps the failures of single items does about them."""

    allow_failed: bool = False
    """exit with status 0 even if items failed for good, for scripts that go on with the others"""


def at_least(options: Any, **smallest: int | float) -> None:
    """Raise StepDiffError for an option below its smallest value; one that is None has none."""
    for name, least in smallest.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise StepDiffError(f"{flag(name)} {value} is too small: give {least} or more")


def refuse_overwriting(
    options: Any, positional: Collection[str] = (), configs: Sequence[str] = ()
) -> None:
    """Raise StepDiffError if an option that is `WRITTEN` names the file of another option, or of
    `--config`.

    Folders, which are added to, may have other uses.
    """
    fields = dataclasses.fields(options)
    paths = [
        named for field in fields for named in _texts(field.name, getattr(options, field.name))
    ]
    paths += [("config", name) for name in configs]
    written = {
        field.name: field.metadata["written"] for field in fields if "written" in field.metadata
    }
    for option, text in paths:
        if option not in written:
            continue
        for path in (text, *(written_with(text, other) for other in written[option])):
            for other, named in paths:
                if other != option and _is_file(path, named, new=other in written):
                    one, two = (
                        each.upper() if each in positional else flag(each)
                        for each in (option, other)
                    )
                    raise StepDiffError(
                        f"{two} {named}: {one} {text} would overwrite it; name another {one}"
                    )


def flag(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def written_with(text: str, other: str) -> str:
    """Return the path that `other`, an entry of `written`, is for an option with the value
    `text`."""
    return os.path.splitext(text)[0] + other if other.startswith(".") else text + other


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield each text or path in the value of an option, with the name of the option."""
    if isinstance(value, (str, os.PathLike)):
        yield name, os.fspath(value)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(name, each)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _texts(f"{name}.{field.name}", getattr(value, field.name))


def _is_file(path: str, named: str, new: bool) -> bool:
    """Return whether `named`, also as FILE@START-END, is the file at `path`. new: it need not exist
    yet."""
    from stepdiff_core.io.files import LocalPath, place

    for text in {named, named.rpartition("@")[0] or named}:
        try:
            one, other = place(path), place(text)
        except StepDiffError:  # a URL that is no file, as of a server
            continue
        if not isinstance(one, LocalPath) or not isinstance(other, LocalPath):
            if str(one) == str(other):
                return True
        elif os.path.exists(one) and os.path.exists(other):
            if not os.path.isdir(other) and os.path.samefile(one, other):
                return True
        elif new and os.path.realpath(one) == os.path.realpath(other):
            return True
    return False


def incomplete(record: Mapping[str, Any]) -> int:
    """Return the exit status of a command: 1 if items are absent, or failed and that is not
    allowed."""
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
    """Run a command and show its record; returns the exit status: 0 done, 1 some items failed, 2
    unusable input.

    Args:
        options: Dataclass of the options.
        argv: Arguments; default: `sys.argv[1:]`.
        program: Module of the command.
        description: Printed by `--help`; None: the docstring of `options`.
        run: Takes the options and returns the record: a dictionary or a dataclass. A text is
            MODULE:FUNCTION, which is imported after the options were read, so that `--help` is
            fast.
        show: Prints the record, or is its format string. None: `run` prints by itself and returns
            the exit status.
        positional: Options without a flag; a list takes all values that follow.
        status: The exit status of a record.
        recipes: Folder whose YAML files `--config` also takes by name.
    """
    from stepdiff_core.cli.command import spoken
    from stepdiff_core.cli.parser import Parser

    about = description or inspect.getdoc(options)
    parser = Parser(prog=spoken(program), description=about)
    parser.add(options, positional, recipes)
    if "json" not in {field.name for field in dataclasses.fields(options)}:
        parser.add_argument(
            "--json", type=bool, default=False, help="print one JSON object and nothing else"
        )
    lines = (
        "what is printed to standard error while the command runs: text, or json, an object a line"
    )
    parser.add_argument("--progress", type=Literal["text", "json"], default="text", help=lines)
    option_values, as_json, json_lines = parser.values(sys.argv[1:] if argv is None else argv)
    use_json(json_lines)
    try:
        refuse_overwriting(option_values, positional, parser.config.files)
        record = (pkgutil.resolve_name(run) if isinstance(run, str) else run)(option_values)
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
