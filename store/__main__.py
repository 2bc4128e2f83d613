"""Look at a feature store.

python -m store info data/features            what it holds
python -m store verify data/features          read every byte; exit status 1 on damage
python -m store info data/features --json     the same for programs
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import jsonargparse
from rich.console import Console

from store.errors import StoreError
from store.feature_store import Store
from store.info import heading, info_table, store_info
from store.verify import names, verify

_SHOWN = 10


@dataclass(frozen=True)
class InfoOptions:
    """Say what a store holds: views, features, rows done and failed, bytes."""

    path: str
    """folder of the store"""


@dataclass(frozen=True)
class VerifyOptions:
    """Read every byte of a store and name the clips that damage touches; exit status 1 on damage."""

    path: str
    """folder of the store"""


def info(options: InfoOptions, as_json: bool) -> int:
    """Print what the store holds; returns the exit status."""
    store = Store.open(options.path)
    views = store_info(store)
    if as_json:
        catalogs = {entity: len(store.catalog(entity)) for entity in store.entities()}
        figures = {"path": str(store.path), "rows": catalogs, "views": [dataclasses.asdict(v) for v in views]}
        print(json.dumps(figures))
    else:
        print(heading(store))
        if views:
            Console(width=None if sys.stdout.isatty() else 120).print(info_table(views))
    return 0


def check(options: VerifyOptions, as_json: bool) -> int:
    """Print the damage there is; returns 1 where there is any."""
    store = Store.open(options.path)
    damage = verify(store)
    clips = sorted({clip for found in damage for clip in found.clips})
    if as_json:
        found = [dataclasses.asdict(d) for d in damage]
        print(json.dumps({"path": str(store.path), "ok": not damage, "damage": found, "clips": clips}))
    else:
        for d in damage:
            print(f"{d.path} {d.what}: {names(d.clips, _SHOWN) or 'no clips'}")
        print(f"damaged files: {len(damage)}, clips: {len(clips)}" if damage else f"{store.path} is whole")
    return 1 if damage else 0


_VERBS: dict[str, tuple[type, Callable[..., int]]] = {
    "info": (InfoOptions, info),
    "verify": (VerifyOptions, check),
}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog="python -m store", description="Look at a feature store.")
    verbs = parser.add_subcommands(dest="verb")
    for verb, (options, _) in _VERBS.items():
        about = (options.__doc__ or "").strip()
        one = jsonargparse.ArgumentParser(description=about)
        one.add_argument("--config", action="config", help="YAML file with options")
        one.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        one.add_class_arguments(options, as_group=False, as_positional=True)
        verbs.add_subcommand(verb, one, help=about)
    chosen = parser.parse_args(argv)
    options, run = _VERBS[chosen.verb]
    try:
        return run(options(path=chosen[chosen.verb].path), chosen[chosen.verb].json)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
