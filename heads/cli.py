"""What the command lines of this room share: options from a dataclass, errors as one line, `--json`."""

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from jsonargparse import DefaultHelpFormatter

from heads.errors import HeadsError
from store import StoreError
from weights import WeightsError


class Help(DefaultHelpFormatter):
    """Keeps the lines of a description: they hold commands to copy."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text.strip()


def parse(
    options: type,
    argv: list[str] | None,
    program: str,
    description: str | None,
    run: Callable[[Any], dict[str, Any]],
    show: str | Callable[[dict[str, Any]], None],
    positional: tuple[str, ...] = (),
) -> int:
    """Run `run(options)` and show its record; returns the exit status: 1 for an error the user can mend.

    positional: names of options that stand without a flag; a list takes all that stand there.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog=f"python -m {program}", description=description, formatter_class=Help)
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name in positional:
        many = fields[name].type not in (str, "str")
        parser.add_argument(name, nargs="*" if many else "?", type=str, default=[] if many else "")
    parser.add_class_arguments(options, as_group=False, skip=set(positional))
    hyphens(parser)
    given = parser.instantiate(parser.parse_args(argv))
    values = {name: getattr(given, name) for name in fields}
    try:
        record = run(options(**values))
    except (HeadsError, StoreError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(record, allow_nan=False))
    elif callable(show):
        show(record)
    else:
        print(show.format(**record))
    return 0


def hyphens(parser: Any) -> None:
    """Flags read --test-set, in help and in use; the underscores of the fields' names go on working."""
    for action in parser._actions:
        for flag in action.option_strings:
            parser._option_string_actions[flag.replace("_", "-")] = action
        action.option_strings = [flag.replace("_", "-") for flag in action.option_strings]
