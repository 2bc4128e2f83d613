"""The words of a caption that its references have too.

Words of grammar, and words that the texts of many rows share ("person", "cook"), say nothing about a difference.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from stepdiff.tasks.clauses import ADVERBS, AUXILIARIES, DETERMINERS, OBJECTS, PREPOSITIONS

FREQUENT = 0.2
"""words in the texts of more than this share of the rows, and of more than two rows, are frequent"""
_GRAMMAR = AUXILIARIES | DETERMINERS | OBJECTS | PREPOSITIONS | ADVERBS | {"and", "but", "or"}
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Piece:
    """A part of a caption."""

    text: str
    supported: bool
    """whether it is a word that a reference has too"""


def frequent(rows: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return the words that the texts of many rows have, by the texts of each row; rows without a text do not count."""
    words_of = [_words(texts) for texts in rows if texts]
    counts = Counter(word for words in words_of for word in words)
    return frozenset(word for word, count in counts.items() if count > max(2, FREQUENT * len(words_of)))


def _words(texts: Iterable[str]) -> set[str]:
    return {word.casefold() for text in texts for word in _WORD.findall(text)}


def supported(caption: str, references: Sequence[str], common: Collection[str] = ()) -> list[Piece]:
    """Return a caption in pieces: each word of content that a reference has, and what is between them.

    common: words that are not marked, as `frequent` returns.
    """
    known = _words(references) - _GRAMMAR - set(common)
    pieces: list[Piece] = []
    end = 0
    for word in _WORD.finditer(caption):
        if word[0].casefold() in known:
            if word.start() > end:
                pieces.append(Piece(caption[end : word.start()], False))
            pieces.append(Piece(word[0], True))
            end = word.end()
    if end < len(caption):
        pieces.append(Piece(caption[end:], False))
    return pieces
