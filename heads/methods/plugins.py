"""Methods from outside this package: `--method package.module:Class`, or a name of the entry-point group.

Guarantees
- a_wrong_method_lists_what_is_known_in_one_line
"""

import importlib
from importlib.metadata import entry_points

from common.errors import StepDiffError

GROUP = "stepdiff.methods"
"""entry-point group: name -> package.module:Class"""


def installed() -> dict[str, str]:
    """Return the names of installed plug-ins with their classes as package.module:Class."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def load(name: str) -> type:
    """Return the class of a plug-in: an installed name, or package.module:Class.

    Raises:
        StepDiffError: no such module or class; an error inside the module itself keeps its traceback.
    """
    reference = installed().get(name, name)
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise StepDiffError(
            f"--method {name}: no module {error.name}; install it, or name its folder in PYTHONPATH"
        ) from None
    kind = getattr(found, attribute, None)
    if not isinstance(kind, type):
        own = [key for key, value in vars(found).items() if isinstance(value, type) and value.__module__ == module]
        raise StepDiffError(f"--method {name}: {module} has no class {attribute}; it has {', '.join(own) or 'none'}")
    return kind
