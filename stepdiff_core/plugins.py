"""Classes of other packages: named as package.module:Class, or by an entry point that their package
installs."""

from importlib import import_module
from importlib.metadata import entry_points
from traceback import extract_tb
from typing import Any

from stepdiff_core.errors import StepDiffError


def installed(group: str) -> list[str]:
    """Return the names of the entry points of a group, sorted."""
    return sorted(entry_points(group=group).names)


def load(name: str, group: str, what: str, advice: str = "") -> tuple[str, Any]:
    """Import a plug-in; return its package.module:Class and the object itself, None if the module
    does not have it.

    Args:
        name: an entry point of the group, or package.module:Class.
        what: precedes the name in error messages.
        advice: follows the message about a module that does not exist.

    Raises:
        StepDiffError: the module does not exist, or fails when it is imported.
    """
    entry = next(iter(entry_points(group=group, name=name)), None)
    place = name if entry is None else entry.value
    module, _, attribute = place.partition(":")
    try:
        return place, getattr(import_module(module), attribute, None)
    except Exception as error:  # whatever another package's code raises
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and f"{module}.".startswith(f"{error.name}.")
        ):
            why = f"no module {error.name}; install it, or name its folder in PYTHONPATH{advice}"
        else:
            last = extract_tb(error.__traceback__)[-1]
            file, line = last.filename, last.lineno
            if isinstance(error, SyntaxError):
                file, line = error.filename or file, error.lineno
            why = f"{file}:{line}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StepDiffError(f"{what} {place} cannot be imported here: {why}") from error
