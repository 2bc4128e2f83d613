"""DiffMCQ pair by pair: each distinct pair of a test set once, with every text that any question asks of it.

The published set asks about 23 texts of a pair, in questions that lie far apart.

Guarantees
- every pair is asked every text of its questions, and each once
- scores come back to the options that they are of
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.testsets import DiffMCQ, Pair


@dataclass(frozen=True)
class PairTexts:
    """What is asked of one pair of clips."""

    pair: Pair
    """(reference, candidate)"""
    texts: tuple[tuple[str, str], ...]
    """(category, difference)"""

    @property
    def answers(self) -> int:
        """How many scores it is given."""
        return len(self.texts)


def pair_texts(rows: Sequence[DiffMCQ]) -> list[PairTexts]:
    """The pairs of all options with what is asked of them, both in the order in which the rows first name them."""
    asked: dict[Pair, dict[tuple[str, str], None]] = {}
    for row in rows:
        for pair in row.options:
            asked.setdefault(pair, {})[row.category, row.difference] = None
    return [PairTexts(pair, tuple(texts)) for pair, texts in asked.items()]


def option_scores(
    rows: Sequence[DiffMCQ], pairs: Sequence[PairTexts], scores: Sequence[Sequence[float]]
) -> list[list[float]]:
    """The scores of each row's options, from those of each pair's texts."""
    found = {
        (asked.pair, text): score
        for asked, own in zip(pairs, scores, strict=True)
        for text, score in zip(asked.texts, own, strict=True)
    }
    return [[found[pair, (row.category, row.difference)] for pair in row.options] for row in rows]
