"""The words of a caption that its references have too.

Guarantees
- the pieces of a caption are the caption
- function words are never marked
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.clauses import ADVERBS, AUXILIARIES, DETERMINERS, OBJECTS, PREPOSITIONS

_FUNCTION = AUXILIARIES | DETERMINERS | OBJECTS | PREPOSITIONS | ADVERBS
_FUNCTION |= set("and or but that which who while as than instead it he she they there video difference main".split())
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Piece:
    """A part of a caption."""

    text: str
    supported: bool
    """whether it is a word that a reference has too"""


def supported(caption: str, references: Sequence[str]) -> list[Piece]:
    """Return a caption in pieces: each word of content that a reference has, and what is between them."""
    known = {word.casefold() for text in references for word in _WORD.findall(text)} - _FUNCTION
    pieces: list[Piece] = []
    end = 0
    for found in _WORD.finditer(caption):
        if found[0].casefold() in known:
            if found.start() > end:
                pieces.append(Piece(caption[end : found.start()], False))
            pieces.append(Piece(found[0], True))
            end = found.end()
    if end < len(caption):
        pieces.append(Piece(caption[end:], False))
    return pieces
