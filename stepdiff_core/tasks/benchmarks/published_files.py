"""Published files of benchmarks, read with errors that name the file, the entry and what to do next."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError

MOST_BYTES = 2**28
"""of a published file; the checklist of ViDiC-1K has 1.4 MB"""
Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""a text that is not blank"""
Entry = TypeVar("Entry")


def read_whole(path: Path, source: str) -> bytes:
    """Return the bytes of a published file. source: where to get it, for errors."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise StepDiffError(f"{path}: no such file; get it from {source}") from None
    except OSError as error:
        raise StepDiffError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if len(data) > MOST_BYTES:
        raise StepDiffError(f"{path}: has more than {MOST_BYTES >> 20} MiB; get the published file from {source}")
    return data


def read_json(path: Path, source: str) -> Any:
    """Return the content of a JSON file."""
    data = read_whole(path, source)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: not JSON ({error}); get it again from {source}") from None


def find(folder: Path, names: Sequence[str], source: str) -> Path:
    """Return the first of the files in a folder that exists. StepDiffError: none does."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise StepDiffError(f"{folder}: has no {' or '.join(names)}; get it from {source}")


def entry(validate: Callable[[Any], Entry], value: Any, place: str, source: str) -> Entry:
    """Return what pydantic makes of an entry at a place of a published file, or of a whole file."""
    return checked(validate, value, f"{place}: ", f"; get the file again from {source}")


def read_entries(path: Path, source: str, what: str, validate: Callable[[Any], Entry]) -> Iterator[Entry]:
    """Yield the entries of a JSON list as pydantic makes them; `what` names one of them, e.g. "question"."""
    entries = read_json(path, source)
    if not isinstance(entries, list) or not entries:
        raise StepDiffError(f"{path}: not a list with at least one {what}; get it again from {source}")
    for number, value in enumerate(entries, 1):
        yield entry(validate, value, f"{path}: {what} {number}", source)
