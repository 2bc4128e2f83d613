"""Verification of annotations, and of indexes with their cards.

A version of a stage contains sealed JSON and Parquet files. The card of an index carries a sha256 of its own content,
and names the files of the index with their sizes and sha256.

Guarantees
- a flipped byte below annotations or indexes is found, in every file that is sealed or named in a card
- a card refers to no file in another folder
- files that carry no checksum are reported
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import StepDiffError
from common.io.local import TEMPORARY
from common.io.places import Place
from common.io.seal import is_sealed
from store.format.layout import LOCK

Found = tuple[Place, str]
_MOST_CARD = 64 * 2**20  # bytes
_MOST_SEALED = 2**40
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # in the folder of its card: no separators
_SEALED = (".json", ".parquet")


def annotations(root: Place) -> Iterator[Found]:
    """Yield the damaged files below `annotations/`, and versions without their provenance."""
    for path in _files(root):
        if path.name != LOCK and path.name.endswith(_SEALED):
            yield from sealed(path)
    for stage in _folders(root):
        for version in _folders(stage):
            if not (version / "provenance.json").exists() and any(
                path.name.endswith(".parquet") for path in _files(version)
            ):
                yield version / "provenance.json", "is missing"


def indexes(root: Place) -> Iterator[Found]:
    """Yield the damaged cards and index files below `indexes/`."""
    for path in _files(root):
        while path.name.endswith(".json"):
            card = _card(path)
            found = [(path, "is not as it was written")] if card is None else list(_index(path, card))
            if not found or _card(path) == card:  # else it was rebuilt in the meantime
                yield from found
                break


def _index(path: Place, card: dict[str, Any]) -> Iterator[Found]:
    """Yield the files that a card names, where they differ from it."""
    files = card.get("files")
    for name, known in files.items() if isinstance(files, dict) else ():
        if not _FILE.fullmatch(name):
            yield path, f"names a file {name[:100]!r} that is not in its folder"
        elif (why := _differs(path.parent / name, known)) is not None:
            yield path.parent / name, why


def uncovered(store: Place) -> list[Place]:
    """Return the files below annotations/ and indexes/ that carry no checksum, and that no card names."""
    named: set[str] = set()
    found: list[Place] = []
    for path in _files(store / "indexes"):
        if path.name.endswith(".json"):
            files = (_card(path) or {}).get("files")
            named |= {str(path.parent / name) for name in files} if isinstance(files, dict) else set()
        else:
            found.append(path)
    found = [path for path in found if str(path) not in named]
    return found + [
        path for path in _files(store / "annotations") if path.name == LOCK or not path.name.endswith(_SEALED)
    ]


def sealed(path: Place) -> Iterator[Found]:
    """Yield `path` where it cannot be read, or is not as it was written."""
    try:
        data = path.read_whole(_MOST_SEALED)
    except FileNotFoundError:
        return  # replaced since it was listed
    except OSError as error:
        yield path, f"cannot be read ({error.strerror})"
    except StepDiffError as error:
        yield path, f"cannot be read ({error})"
    else:
        if not is_sealed(data):
            yield path, "is not as it was written"


def _card(path: Place) -> dict[str, Any] | None:
    """Return the content of a card, None where it is not as it was written: its seal is the sha256 of the rest."""
    try:
        card = json.loads(path.read_whole(_MOST_CARD))
        if not isinstance(card, dict):
            return None
        seal = card.pop("seal", None)
        return card if seal == hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest() else None
    except (OSError, StepDiffError, ValueError, RecursionError):
        return None


def _differs(path: Place, known: object) -> str | None:
    """Return what is wrong with a file of an index, None where it matches its card."""
    if not isinstance(known, Mapping) or not isinstance(known.get("sha256"), str):
        return "has no sha256 in its card"
    try:
        total = path.sha256()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if total == known["sha256"] else "is not as it was written"


def _folders(root: Place) -> list[Place]:
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.is_dir()), key=str)


def _files(root: Place) -> list[Place]:
    """Return all files below `root`, but temporary ones."""
    return [path for path in root.files() if not path.name.startswith(TEMPORARY)]
