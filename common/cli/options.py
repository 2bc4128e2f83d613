"""What the command lines of this room share: options from a dataclass, errors as one line, `--json`."""

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter

from common.cli.config_file import add_config
from common.errors import StepDiffError

ERRORS: tuple[type[Exception], ...] = (StepDiffError,)


class Help(DefaultHelpFormatter):
    """Keeps the lines of a description, which hold commands to copy, and writes flags with hyphens."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text.strip()

    def format_help(self) -> str:
        return re.sub(r"--[a-z_.]+", lambda flag: flag[0].replace("_", "-"), super().format_help())


def parse(
    options: type,
    argv: list[str] | None,
    program: str,
    description: str | None,
    run: Callable[[Any], dict[str, Any]],
    show: str | Callable[[dict[str, Any]], None],
    positional: tuple[str, ...] = (),
    errors: tuple[type[Exception], ...] = ERRORS,
    status: Callable[[dict[str, Any]], int] = lambda record: 0,
    recipes: Path | None = None,
) -> int:
    """Run `run(options)` and show its record; returns the exit status: 1 for an error the user can mend.

    positional: names of options that stand without a flag; a list takes all that stand there.
    errors: what the user can mend; status: of a record, 0 where all went well.
    recipes: folder whose YAML files `--config` also takes by name.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog=f"python -m {program}", description=description, formatter_class=Help)
    add_config(parser, recipes=recipes)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name in positional:
        many = fields[name].type not in (str, "str")
        parser.add_argument(name, nargs="*" if many else "?", type=str, default=[] if many else "")
    parser.add_class_arguments(options, as_group=False, skip=set(positional))
    switches = {name for name, field in fields.items() if field.type in (bool, "bool")}
    lists = {name for name, field in fields.items() if holds_texts(field.type)} - set(positional)
    arguments = gathered(sys.argv[1:] if argv is None else argv, lists)
    given = parser.instantiate(parser.parse_args(underscored(arguments, switches)))
    required = [name for name in positional if fields[name].default is dataclasses.MISSING]
    if absent := [name for name in required if not getattr(given, name)]:
        parser.error(f"the following arguments are required: {', '.join(absent)}")
    values = {name: getattr(given, name) for name in fields}
    try:
        record = run(options(**values))
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(record, allow_nan=False))
    elif callable(show):
        show(record)
    else:
        print(show.format(**record))
    return status(record)


def holds_texts(kind: object) -> bool:
    """Return whether a field of this type holds several texts."""
    return typing.get_origin(kind) in (list, tuple) and typing.get_args(kind)[0] is str


def gathered(arguments: Sequence[str], lists: Collection[str]) -> list[str]:
    """Return the arguments with each `--flag a b` whose field is in `lists` as one argument, a JSON list.

    The values of a flag that is given again are added to its earlier ones. A single value that begins with [ is a list.
    """
    found, values = [], dict[str, list[str]]()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if flag.startswith("--") and name in lists:
            own = [value] if equals else []
            while not equals and rest and not rest[0].startswith("-"):
                own.append(rest.pop(0))
            if len(own) == 1 and own[0].startswith("["):
                argument = f"{flag}={own[0]}"
            elif own:  # a flag without a value stays one, which is refused
                argument = f"{flag}={json.dumps(values.setdefault(name, []) + own)}"
                values[name] += own
        found.append(argument)
    return found


def underscored(arguments: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """Flags as people write them: `--test-set` means the field `test_set`; values stay as they are.

    switches: fields of type bool: `--parse` alone means true, `--no-parse` false.
    """
    found = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name in switches and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            elif name.startswith("no_") and name[3:] in switches:
                name, equals, value = name[3:], "=", "false"
            argument = "--" + name + equals + value
        found.append(argument)
    return found
