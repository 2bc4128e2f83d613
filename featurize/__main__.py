"""Turn videos or texts into features of a store, once.

python -m featurize clip.mp4 --store features --encoder efficientnet-lite0
python -m featurize --manifest data/kitchen/clips.csv --store data/features --encoder efficientnet-lite0
python -m featurize --manifest data/kitchen/clips.csv --column narration --store data/features --encoder mpnet-base
ray job submit --working-dir . -- python featurize.py --manifest /data/clips.csv --store /data/features --encoder clip
"""

import dataclasses
import json
import sys
from typing import Any, get_type_hints

import docstring_parser
import jsonargparse

from common.cli import command
from common.cli.config_file import add_config
from common.errors import StepDiffError
from featurize.job import Options

INTERRUPTED = "what is finished stays, run the same command for the rest"
"""what an interrupted run leaves and how to go on"""


def _parser() -> jsonargparse.ArgumentParser:
    """A flag for every option."""
    parser = jsonargparse.ArgumentParser(
        prog="python -m featurize",
        description="Turn videos or texts into features of a store, once: what is there already is left as it is.",
    )
    add_config(parser, "YAML file of these options.")
    types = get_type_hints(Options)
    about = {field.arg_name: field.description for field in docstring_parser.parse_from_object(Options).params}
    for field in dataclasses.fields(Options):
        how: dict[str, Any]
        flag, how = "--" + field.name.replace("_", "-"), {"type": types[field.name], "default": field.default}
        if field.name == "videos":
            flag, how = field.name, {"nargs": "*", "type": str, "default": []}
        elif types[field.name] is bool:
            how = {"action": jsonargparse.ActionYesNo(no_prefix="no-"), "default": field.default}
        elif field.default is dataclasses.MISSING:
            how = {"type": types[field.name], "required": True}
        parser.add_argument(flag, help=about[field.name], **how)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status: 1 where anything asked for failed, 2 for what cannot be used."""
    given = _parser().parse_args(argv)
    values = {field.name: given[field.name] for field in dataclasses.fields(Options)}
    options = Options(**{**values, "videos": tuple(values["videos"])})

    from featurize.job import requested, run

    try:
        asked = requested(options)
    except StepDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        summary = run(options, asked)
    except StepDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(summary.lines()), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(summary.as_dict()))
    return summary.status


if __name__ == "__main__":
    command.run(main, INTERRUPTED)
