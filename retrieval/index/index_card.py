"""The card of an index: what the index was built from, and whether the store still matches.

On disk: indexes/ENTITY/VIEW.json in the store. It names the index file in the same folder,
VIEW.BUILD.faiss, with size and sha256; an exact index has none. Each build uses a new name for its
file, so one atomic write of the card replaces the index.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from retrieval.vectors import Rows, command, filled_rows
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import LocalPath, Place, write_text
from store import Store, View

VERSION = 2
KEYS = 1_000_000  # digested at a time
INDEX = ".faiss"  # ending of files
LARGEST = 2**20  # bytes of a card, at most; a usual one has about 2,000

_FORM: dict[type, tuple[str, ...]] = {
    str: ("entity", "view", "feature", "factory", "digest"),
    int: ("rows", "dim", "probes"),
    dict: ("provenance", "files"),
    bool: ("exact",),
}  # fields that a search reads

Card = dict[str, Any]


def card_path(store: Store, entity: str, view: str) -> Place:
    """Return the path of the card of a view's index."""
    return store.path / "indexes" / entity / f"{view}.json"


def index_file(card: Card) -> str:
    """Return the name of the card's index file; an exact index has none."""
    (name,) = card["files"]
    return str(name)


def remove_others(path: Place, card: Card) -> None:
    """Remove index files that the card at `path` does not name: of earlier or interrupted
    builds."""
    files: list[Place] = list(path.parent.iterdir())
    for file in files:
        if _own(path).fullmatch(file.name) and file.name not in card["files"]:
            file.unlink(missing_ok=True)


def _own(path: Place) -> re.Pattern[str]:
    """Return the pattern of names of files that belong to the card at `path`."""
    return re.compile(rf"{re.escape(path.stem)}(\.[0-9a-f]{{8}})?{re.escape(INDEX)}")


def build_command(store: Store, view: View, card: Card | None, *more: str) -> str:
    """Return the command that builds the index of `view`."""
    words: list[object] = [
        "python",
        "-m",
        "retrieval",
        "build",
        "--store",
        store.path,
        "--view",
        view.name,
    ]
    words += ["--entity", view.entity] if view.entity != "clips" else []
    words += ["--feature", card["feature"]] if card and card["feature"] != "embedding" else []
    return command(*words, *more)


def write_card(path: Place, card: Card) -> None:
    """Write a card with its seal."""
    write_text(path, json.dumps({**card, "seal": _seal(card)}, indent=2) + "\n")


def read_card(path: Place) -> Card | str:
    """Return the card of an index, or the reason why it cannot be used.

    The seal detects damage, not intent: anyone can seal a card. So its form and the files that it
    names are checked here, and its numbers are compared with the store in `stale`.
    """
    card: Any = None
    try:
        data = path.read_bytes()
        if len(data) <= LARGEST:
            card = json.loads(data)
        valid = (
            isinstance(card, dict)
            and card.pop("seal", None) == _seal(card)
            and card.get("version") == VERSION
        )
    except (OSError, ValueError, RecursionError):
        # the last: of parsing or of sealing a deeply nested card
        valid = False
    if not valid:
        return "its card (the .json file next to it) is missing or was changed"
    for kind, names in _FORM.items():
        for name in names:
            if type(card.get(name)) is not kind:
                return f"its card has no usable {name!r}"
    if (card["entity"], card["view"]) != (path.parent.name, path.stem):
        return f"its card belongs to {card['entity']}/{card['view']}"
    for name, entry in card["files"].items():
        if not _own(path).fullmatch(name):
            return f"its card names {name!r}, which is not a file of this index"
        if (
            not isinstance(entry, dict)
            or type(entry.get("bytes")) is not int
            or type(entry.get("sha256")) is not str
        ):
            return f"its card does not describe {name!r}"
    if (count := len(card["files"])) != (not card["exact"]):
        return f"its card names {count} index files instead of {int(not card['exact'])}"
    return card


def stale(view: View, card: Card) -> str | None:
    """Return the reason why the index may not be searched, or None if the store still matches the
    card."""
    try:
        provenance = type(view.provenance).from_dict(card["provenance"])
    except (StepDiffError, TypeError, ValueError):
        return "its card has no usable 'provenance'"
    if provenance != view.provenance:
        return f"its view was replaced ({provenance.difference(view.provenance)})"
    form = view.features.get(card["feature"])
    if form is None or form.shape != (card["dim"],):
        return (
            f"it compares {card['dim']} channels of {card['feature']!r}, which the view does not "
            "have"
        )
    if card["probes"] < 1:
        return f"its card has {card['probes']} lists a query"
    rows = filled_rows(view)
    if len(rows) != card["rows"]:
        return f"it holds {card['rows']} rows and the view now has {len(rows)}"
    if digest(view, rows) != card["digest"]:
        return "rows of its view were rewritten"
    return None


def damaged(card: Card, folder: Path) -> bool:
    """Return whether a file of the index, in `folder`, differs from its record in the card."""
    for name, entry in card["files"].items():
        path = folder / name
        if (
            not path.exists()
            or path.stat().st_size != entry["bytes"]
            or LocalPath(path).sha256() != entry["sha256"]
        ):
            return True
    return False


def described(path: Path) -> dict[str, Any]:
    """Return the card's entry for a file."""
    return {"bytes": path.stat().st_size, "sha256": LocalPath(path).sha256()}


def digest(view: View, rows: Rows) -> str:
    """Return a sha256 in hex over the keys, rows and stored checksums of the filled `rows`.

    Raises DamageError if checksums are damaged or missing.
    """
    state = hashlib.sha256()
    for start in range(0, len(rows), KEYS):
        part = rows[start : start + KEYS]
        state.update("\n".join(view.catalog.keys(part)).encode())
        state.update(part.astype("<i8").tobytes())
        state.update(view.checksums(part).astype("<u4").tobytes())
    return state.hexdigest()


def _seal(card: Card) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
