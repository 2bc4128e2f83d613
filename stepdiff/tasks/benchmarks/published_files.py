"""Published JSON files of benchmarks, read with errors that name the file, the entry and what to do next."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepdiff.common.errors import StepDiffError

MOST_BYTES = 2**28
"""of a published file; the checklist of ViDiC-1K has 1.4 MB"""


def read_whole(path: Path, source: str) -> bytes:
    """Return the bytes of a published file. source: where to get it, for errors.

    Raises:
        StepDiffError: The file is missing, cannot be read, or is too large to be a published one.
    """
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
    """Return the content of a JSON file. source: where to get it, for errors.

    Raises:
        StepDiffError: The file is missing, damaged or too large.
    """
    data = read_whole(path, source)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StepDiffError(f"{path}: not JSON ({error}); get it again from {source}") from None


def read_entries(path: Path, source: str, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) of a JSON list of objects; `what` names one of them, e.g. "question".

    Raises:
        StepDiffError: as `read_json`, or the file is not a list of objects, or it is empty.
    """
    found = read_json(path, source)
    if not isinstance(found, list) or not found:
        raise StepDiffError(f"{path}: not a list with at least one {what}; get it again from {source}")
    for number, entry in enumerate(found, 1):
        place = f"{path}: {what} {number}"
        if not isinstance(entry, dict):
            raise StepDiffError(f"{place} is {type(entry).__name__}, not an object; get the file again from {source}")
        yield place, entry


def text_of(entry: dict[str, Any], name: str) -> str:
    """Return a text that is not blank. StepDiffError: no such key, or another value."""
    value = value_of(entry, name)
    if not isinstance(value, str) or not value.strip():
        raise StepDiffError(f"{name!r} is {value!r:.60}, not a text")
    return value


def list_of(entry: dict[str, Any], name: str) -> list[Any]:
    """Return a list that is not empty. StepDiffError: no such key, or another value."""
    value = value_of(entry, name)
    if not isinstance(value, list) or not value:
        raise StepDiffError(f"{name!r} is {value!r:.60}, not a list with at least one entry")
    return value


def value_of(entry: dict[str, Any], name: str) -> Any:
    """Return the value of a key. StepDiffError: no such key."""
    if name not in entry:
        raise StepDiffError(f"no {name!r}, only {', '.join(map(repr, entry)) or 'nothing'}")
    return entry[name]
