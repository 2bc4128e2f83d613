"""The differences of a DiffCap test set one by one, and its pairs, clips and texts.

Guarantees
- order_of_first_appearance: pairs, clips and texts keep the order in which the test set names them first
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.testsets import DiffCap, Pair


@dataclass(frozen=True)
class Difference:
    """One text of one row: what it says about the pair, in one category."""

    pair: Pair
    category: str
    text: str


@dataclass(frozen=True)
class TestSet:
    """The differences in the order of the test set."""

    __test__ = False  # pytest would collect it by its name

    pairs: list[Pair]
    clips: list[str]
    texts: list[str]
    differences: list[Difference]

    @classmethod
    def of(cls, differences: Sequence[Difference]) -> TestSet:
        return cls(
            pairs=list(dict.fromkeys(one.pair for one in differences)),
            clips=list(dict.fromkeys(clip for one in differences for clip in one.pair)),
            texts=list(dict.fromkeys(one.text for one in differences)),
            differences=list(differences),
        )

    @classmethod
    def of_rows(cls, rows: Iterable[DiffCap]) -> TestSet:
        return cls.of([Difference((row.reference, row.candidate), row.category, t) for row in rows for t in row.text])
