"""Names that are safe as folders, and the key of a text."""

import hashlib
import re

from common.errors import StepDiffError

ENTITIES = ("clips", "texts")
INTERNAL = ("scale", "checksum", "status")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def text_key(text: str) -> str:
    """The key of a text: the sha256, in hex, of its exact UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_entity(entity: str) -> str:
    """`entity` itself; StepDiffError where it is not one of ENTITIES."""
    if entity not in ENTITIES:
        raise StepDiffError(f"no entity {entity!r}: a store has rows for {' and '.join(ENTITIES)}")
    return entity


def check_name(what: str, name: str) -> str:
    """`name` itself; StepDiffError where it could not be a folder on every file system."""
    if not _SAFE.fullmatch(name):
        raise StepDiffError(
            f"{what} name {name!r} is refused: use up to 100 letters, digits, '-' and '_', a letter or digit first"
        )
    return name
