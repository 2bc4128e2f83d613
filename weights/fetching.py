"""A registered name -> its folder in the cache, made once.

Guarantees
----------
- A folder appears in the cache whole or not at all (`test_an_interrupted_fetch_leaves_nothing`).
- Two fetches at once do the work once (`test_two_fetches_at_once_do_the_work_once`).
- Repeated, a fetch downloads nothing (`test_a_second_fetch_does_nothing`).
"""

import sys
from pathlib import Path

from weights import registry
from weights.cache import cache_folder, install, is_complete, staging
from weights.download import download
from weights.registry import Source


def fetch(name: str) -> Path:
    """Download, check, unpack and convert a registered model, where the cache has none yet.

    Says on standard error what it does.

    Raises:
        StepDiffError: the name is not registered, or the download failed or was not the pinned one.
    """
    return fetch_source(registry.source(name))


def fetch_source(source: Source) -> Path:
    """`fetch` of a description that need not be registered."""
    target = cache_folder() / source.name
    if is_complete(source):
        _say(f"{source.name}: already at {target}, nothing to do")
        return target
    with staging(source) as folder:
        if is_complete(source):
            _say(f"{source.name}: another fetch has put it at {target}, nothing to do")
            return target
        wheels = download(source, folder)
        _say(f"{source.name}: unpacking and converting")
        made = folder / "made"
        made.mkdir()
        source.convert(wheels, made)
        install(made, source)
    _say(f"{source.name}: at {target}")
    return target


def _say(line: str) -> None:
    print(line, file=sys.stderr)
