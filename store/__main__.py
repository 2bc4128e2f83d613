"""Look at a feature store, move features in and out, and keep it in order.

python -m store info data/features                 what it holds
python -m store verify data/features               read every byte; exit status 1 on damage
python -m store plan --clips 1e6 --encoder efficientnet-lite0 --measured-in data/features
python -m store export-hdf5 clips.h5 --store data/features --view efficientnet-lite0
python -m store import-hdf5 clips.h5 --store data/other --view net --encoder net --weights-sha256 0123... \
    --layer last --frames "8 evenly" --crop "centre 224"
python -m store requantise data/features --view efficientnet-lite0 --to small --dtype int8
python -m store drop data/features --view small --yes
python -m store compact data/features
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from common.cli import command
from common.cli.config_file import add_config
from common.errors import StepDiffError
from store import commands
from store.verbs import options

_VERBS: dict[str, tuple[type, Callable[..., int]]] = {
    "info": (options.InfoOptions, commands.info),
    "verify": (options.VerifyOptions, commands.check),
    "plan": (options.PlanOptions, commands.run_plan),
    "import-hdf5": (options.ImportOptions, commands.run_import),
    "export-hdf5": (options.ExportOptions, commands.run_export),
    "requantise": (options.RequantiseOptions, commands.run_requantise),
    "drop": (options.DropOptions, commands.run_drop),
    "compact": (options.CompactOptions, commands.run_compact),
}

_SPELLINGS = {"requantize": "requantise"}


def _parser(kind: type) -> jsonargparse.ArgumentParser:
    """The parser of a verb: `path` comes first, every other option is a flag."""
    about = docstring_parser.parse_from_object(kind)
    helps = {field.arg_name: field.description for field in about.params}
    parser = jsonargparse.ArgumentParser(description=_in_one_line(about.short_description, about.long_description))
    add_config(parser, "YAML file with options")
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        flag, how = "--" + field.name.replace("_", "-"), _how(field, types[field.name])
        parser.add_argument("path" if field.name == "path" else flag, help=_in_one_line(helps[field.name]), **how)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _how(field: "dataclasses.Field[Any]", kind: Any) -> dict[str, Any]:
    """How jsonargparse adds an option of that type."""
    if field.name == "path":
        return {"type": str}
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is tuple:
        return {"nargs": "+", "type": get_args(kind)[0], "default": []}
    if field.default is dataclasses.MISSING:
        return {"type": kind, "required": True}
    return {"type": kind, "default": field.default}


def _in_one_line(*texts: str | None) -> str:
    return " ".join(" ".join(text.split()) for text in texts if text)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = jsonargparse.ArgumentParser(
        prog="python -m store",
        description="Look at a feature store, move features in and out, and keep it in order.",
    )
    verbs = parser.add_subcommands(dest="verb")
    for verb, (kind, _) in _VERBS.items():
        about = docstring_parser.parse_from_object(kind).short_description
        verbs.add_subcommand(
            verb, _parser(kind), help=about, aliases=[other for other, meant in _SPELLINGS.items() if meant == verb]
        )
    chosen = parser.parse_args(argv)
    kind, run = _VERBS[_SPELLINGS.get(chosen.verb, chosen.verb)]
    given = chosen[chosen.verb]
    values = {field.name: given[field.name] for field in dataclasses.fields(kind)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return run(kind(**values), given.json)
    except StepDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
