"""Neighbours, near-duplicates and hard negatives over a feature store.

    python -m retrieval build --store data/features --view efficientnet-lite0
    python -m retrieval plan --clips 136e6 --dim 768
    python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
    python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
        --test-set data/kitchen/diffcap_test.jsonl --out data/diffmcq.jsonl
    python -m retrieval neighbours --store data/features --view efficientnet-lite0 --out data/neighbours.parquet
    python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser

from common.cli import command
from common.cli.config_file import add_config
from common.errors import StepDiffError
from retrieval.verbs import build, duplicates, negatives, neighbours, plan, query

VERBS: dict[str, Any] = {
    "build": build,
    "plan": plan,
    "query": query,
    "negatives": negatives,
    "neighbours": neighbours,
    "duplicates": duplicates,
}
SHORT = {"k": ["-k"]}  # fields that have a short flag too


def parser() -> ArgumentParser:
    """The command line: a sub-command a verb, a flag a field of the verb's options."""
    top = ArgumentParser(prog="python -m retrieval", description=(__doc__ or "").splitlines()[0])
    verbs = top.add_subcommands(dest="verb", required=True)
    for verb, module in VERBS.items():
        words = docstring_parser.parse_from_object(module.Options)
        help_of = {field.arg_name: field.description for field in words.params}
        types = get_type_hints(module.Options)
        one = ArgumentParser(description=words.short_description)
        add_config(one, "YAML file with these options")
        for field in dataclasses.fields(module.Options):
            how: dict[str, Any] = {"action": "store_true"}
            if types[field.name] is not bool:
                needed = field.default is dataclasses.MISSING
                how = {"required": True} if needed else {"default": field.default}
                how["type"] = field.metadata.get("type", types[field.name])
            flags = [*SHORT.get(field.name, []), "--" + field.name.replace("_", "-")]
            one.add_argument(*flags, help=help_of[field.name], **how)
        verbs.add_subcommand(verb, one, help=words.short_description)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns 0, or 1 after one line on stderr that says what to do."""
    arguments = parser().parse_args(argv)
    module = VERBS[arguments.verb]
    given = arguments[arguments.verb]
    names = [field.name for field in dataclasses.fields(module.Options)]
    try:
        return int(module.run(module.Options(**{name: given[name] for name in names})))
    except StepDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
