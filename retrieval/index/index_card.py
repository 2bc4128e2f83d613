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

from common.errors import StepDiffError
from common.io.files import whole
from common.io.places import Place
from retrieval.queries.advice import command
from store import Store, View
from store.view import OK

VERSION = 2
KEYS = 1_000_000  # whose digest is taken at a time
INDEX, SAMPLE = ".faiss", ".sample.npz"
LARGEST = 2**20  # bytes of a card; one has about 2,000

_FORM: dict[str, tuple[type, ...]] = {
    "entity": (str,),
    "view": (str,),
    "feature": (str,),
    "provenance": (dict,),
    "factory": (str,),
    "exact": (bool,),
    "rows": (int,),
    "dim": (int,),
    "digest": (str,),
    "files": (dict,),
    "probes": (int,),
}  # what a search reads of a card

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
    beside: list[Place] = list(path.parent.iterdir())
    for file in beside:
        if _own(path).fullmatch(file.name) and file.name not in card["files"]:
            file.unlink(missing_ok=True)


def _own(path: Place) -> re.Pattern[str]:
    """What names of files of the index at the card `path` look like."""
    ends = "|".join(map(re.escape, (INDEX, SAMPLE)))
    return re.compile(rf"{re.escape(path.stem)}(\.[0-9a-f]{{8}})?({ends})")


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


def read_card(path: Place) -> Card | str:
    """Return the card of an index, or why there is none that can be used.

    The seal shows damage, not intent: whoever writes a card can seal it. So its form, and the files that it names,
    are checked here, and its numbers against the store in `stale`.
    """
    try:
        data = path.read_bytes()
        card = json.loads(data) if len(data) <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        card = None
    if not isinstance(card, dict) or card.pop("seal", None) != _seal(card) or card.get("version") != VERSION:
        return "its card (the .json beside it) is missing or was changed"
    for name, kinds in _FORM.items():
        if type(card.get(name)) not in kinds:
            return f"its card has no usable {name!r}"
    if (card["entity"], card["view"]) != (path.parent.name, path.stem):
        return f"its card is that of {card['entity']}/{card['view']}"
    return _fault_of_files(path, card) or card


def _fault_of_files(path: Place, card: Card) -> str | None:
    """What is wrong with the files that the card at `path` names: they are its own, one of each kind."""
    for name, known in card["files"].items():
        if not _own(path).fullmatch(name):
            return f"its card names {name!r}, which is no file of this index"
        if not isinstance(known, dict) or type(known.get("bytes")) is not int or type(known.get("sha256")) is not str:
            return f"its card does not describe {name!r}"
    ends = sorted(end for name in card["files"] for end in (INDEX, SAMPLE) if name.endswith(end))
    if ends != ([] if card["exact"] else [INDEX, SAMPLE]):
        return f"its card names {len(card['files'])} files, where an index has {0 if card['exact'] else 2}"
    return None


def stale(store: Store, view: View, card: Card) -> str | None:
    """Why the index of the card may not be searched, or None where the store is as it was."""
    try:
        provenance = type(view.provenance).from_dict(card["provenance"])
    except (StepDiffError, TypeError, ValueError):
        return "its card has no usable 'provenance'"
    if provenance != view.provenance:
        return f"its view was made anew ({provenance.difference(view.provenance)})"
    form = view.features.get(card["feature"])
    if form is None or form.shape != (card["dim"],):
        return f"it compares {card['dim']} channels of {card['feature']!r}, which the view does not have"
    if card["probes"] < 1:
        return f"its card says {card['probes']} lists a query"
    rows = np.flatnonzero(view.status() == OK)
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
