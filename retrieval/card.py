"""the card beside an index: what it was built from, and whether that still stands

On disk: indexes/ENTITY/VIEW.json in the store. It names the files of the index beside it, VIEW.BUILD.faiss and
VIEW.BUILD.sample.npz, with size and sha256; an exact index has none, since it searches the store itself. Each build
names its files anew, so that the card, which appears whole, is what puts one index in another's place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from retrieval.advice import command
from retrieval.files import whole
from store import Store, View
from store.remote import Place

VERSION = 2
KEYS = 1_000_000  # whose digest is taken at a time
INDEX, SAMPLE = ".faiss", ".sample.npz"

Card = dict[str, Any]


def card_path(store: Store, entity: str, view: str) -> Place:
    """Where the card of a view's index lies."""
    return store.path / "indexes" / entity / f"{view}.json"


def new_files(card: Place) -> tuple[Place, Place]:
    """Names of one build alone for the index beside a card, and for its sample."""
    build = os.urandom(4).hex()
    return card.parent / f"{card.stem}.{build}{INDEX}", card.parent / f"{card.stem}.{build}{SAMPLE}"


def file_of(card: Card, end: str) -> str:
    """The name of the card's file with that end; it has one unless it is exact."""
    return next(name for name in card["files"] if name.endswith(end))


def remove_others(path: Place, card: Card) -> None:
    """Remove the files of every index that lay beside the card at `path` before, or never came to a card."""
    ends = "|".join(map(re.escape, (INDEX, SAMPLE)))
    own = re.compile(rf"{re.escape(path.stem)}(\.[0-9a-f]{{8}})?({ends})")
    beside: list[Place] = list(path.parent.iterdir())
    for file in beside:
        if own.fullmatch(file.name) and file.name not in card["files"]:
            file.unlink(missing_ok=True)


def build_command(store: Store, view: View, card: Card | None, *more: str) -> str:
    """The command that builds the index of `view` anew."""
    words: list[object] = ["python", "-m", "retrieval", "build", "--store", store.path, "--view", view.name]
    words += ["--entity", view.entity] if view.entity != "clips" else []
    words += ["--feature", card["feature"]] if card and card["feature"] != "embedding" else []
    return command(*words, *more)


def write_card(path: Place, card: Card) -> None:
    """Write a card, sealed."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps({**card, "seal": _seal(card)}, indent=2) + "\n", encoding="utf-8")


def read_card(path: Place) -> Card | None:
    """The card, or None where there is none or it is not as it was written."""
    try:
        card = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(card, dict) or card.pop("seal", None) != _seal(card):
        return None
    return card if card["version"] == VERSION else None


def stale(store: Store, view: View, card: Card | None) -> str | None:
    """Why the index of the card may not be searched, or None where the store is as it was."""
    if card is None:
        return "its card (the .json beside it) is missing or was changed"
    provenance = type(view.provenance).from_dict(card["provenance"])
    if provenance != view.provenance:
        return f"its view was made anew ({provenance.difference(view.provenance)})"
    rows = np.flatnonzero(view.status() == 1)
    if len(rows) != card["rows"]:
        return f"it holds {card['rows']} rows and the view now has {len(rows)}"
    if digest(store, view, rows) != card["digest"]:
        return "the rows of its view were written anew"
    return None


def damaged(card: Card, folder: Path) -> bool:
    """Whether any file of the index, all in `folder`, is not as it was written."""
    for name, known in card["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != known["bytes"] or sha256(path) != known["sha256"]:
            return True
    return False


def described(*files: Path) -> dict[str, dict[str, Any]]:
    """Files as a card names them."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def digest(store: Store, view: View, rows: Int64[np.ndarray, " rows"]) -> str:
    """sha256, in hex, over the keys, rows and stored checksums of the filled `rows`.

    DamageError where checksums are damaged or missing.
    """
    catalog = store.catalog(view.entity)
    state = hashlib.sha256()
    for start in range(0, len(rows), KEYS):
        part = rows[start : start + KEYS]
        state.update("\n".join(catalog.keys(part)).encode())
        state.update(part.astype("<i8").tobytes())
        state.update(view.checksums(part).astype("<u4").tobytes())
    return state.hexdigest()


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(card: Card) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
