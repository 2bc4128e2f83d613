"""The entries of one JSON object in a file of any size, which is never whole in memory.

Not ijson: HowTo100M's files contain NaN for missing texts, control characters and bytes that are not UTF-8, which it
refuses.

Guarantees
- the entries are those of json.load, in the order of the file
- memory is bounded by the longest entry and one piece of the file
- a byte that is not UTF-8 becomes U+FFFD and loses nothing else
- a damaged file is refused at the damage
"""

import json
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, TextIO

from common.errors import StepDiffError

PIECE = 2**22  # characters read at once
LONGEST = 2**28  # characters of an entry, at most: beyond them the file counts as damaged

_DECODER = json.JSONDecoder(strict=False)  # real captions contain control characters
_SPACES = re.compile(r"[ \t\r\n]*")


def entries(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each entry. StepDiffError: no such file, or not a JSON object."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from _entries(file, path)
    except OSError as error:
        raise StepDiffError(f"{path}: cannot be read ({error.strerror}); correct its path") from error


def _entries(file: TextIO, path: str | Path) -> Iterator[tuple[str, Any]]:
    text, at = _next("", 0, file)
    if text[at : at + 1] != "{":
        raise StepDiffError(f"{path}: not a JSON object; give a file that begins with {{")
    text, at = _next(text, at + 1, file)
    count = 0
    while count or text[at : at + 1] != "}":
        found = _entry(text, at)
        while found is None:
            text, at = text[at:], 0
            more = file.read(max(PIECE, len(text)))
            if not more or len(text) > LONGEST:
                raise StepDiffError(f"{path}: damaged after entry {count}: {text[:40]!r}; copy it again")
            text += more
            found = _entry(text, 0)
        name, value, at = found
        yield name, value
        count += 1
        if text[at] == "}":
            break
        text, at = _next(text, at + 1, file)
    text, at = _next(text, at + 1, file)
    if text:
        raise StepDiffError(f"{path}: damaged after entry {count}: {text[at : at + 40]!r}; copy it again")


def _next(text: str, at: int, file: TextIO) -> tuple[str, int]:
    """Return the buffer and the place of its next character that is not a space, after reading more if needed."""
    while True:
        at = _after_space(text, at)
        if at < len(text):
            return text, at
        text, at = file.read(PIECE), 0
        if not text:
            return "", 0


def _entry(text: str, at: int) -> tuple[str, Any, int] | None:
    """Return the entry at a place, and the place of the comma or brace after it; None if it is incomplete."""
    try:
        if text[at] != '"':
            return None
        name, at = scanstring(text, at + 1, False)
        at = _after_space(text, at)
        if text[at] != ":":
            return None
        value, at = _DECODER.raw_decode(text, _after_space(text, at + 1))
        at = _after_space(text, at)
        return (name, value, at) if text[at] in ",}" else None
    except (ValueError, IndexError, RecursionError):
        return None


def _after_space(text: str, at: int) -> int:
    return _SPACES.match(text, at).end()  # type: ignore[union-attr]
