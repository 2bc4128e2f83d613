"""StepDiff: compare two how-to videos, on a store of cached features. `stepdiff --help` lists the
commands."""

import stepdiff_core  # noqa: F401  # before the slow imports: an interrupt is one line


def __getattr__(name: str) -> object:
    """Import `compare` when it is first used."""
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("stepdiff.comparison").compare
