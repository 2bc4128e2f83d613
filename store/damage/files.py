"""Sealed files that are damaged or missing."""

from collections.abc import Iterable, Iterator

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place
from stepdiff.common.io.sealed import is_sealed

CANNOT = "cannot be read"
"""how the reason begins where the system refused to read a file, which may be whole"""
_MOST_SEALED = 2**40


def unsealed(paths: Iterable[Place]) -> Iterator[tuple[Place, str]]:
    """Yield those of the sealed files `paths` that are missing or damaged, with what is wrong."""
    for path in paths:
        if not path.exists():
            yield path, "is missing"
            continue
        if (what := unreadable(path)) is not None:
            yield path, what


def unreadable(path: Place) -> str | None:
    """Return why a sealed file cannot be read, or that it is not as it was written; None where it is sound or gone."""
    try:
        return None if is_sealed(path.read_whole(_MOST_SEALED)) else "is not as it was written"
    except FileNotFoundError:
        return None  # replaced since it was listed
    except OSError as error:
        return f"{CANNOT} ({error.strerror})"
    except StepDiffError as error:
        return f"{CANNOT} ({error})"
