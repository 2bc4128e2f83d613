"""The captions of a test set and its references, their words read once for every figure that counts n-grams.

Guarantees
- captions stand before references in every table, both in the order of the rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int64

from heads.metrics.ngrams import Counts, ngram_counts

LONGEST = 4


@dataclass(frozen=True)
class Corpus:
    """R rows, each of a caption and one reference or more, as counts of n-grams."""

    rows: int
    owner: Int64[np.ndarray, " references"]
    """the row of each reference"""
    tables: list[Counts]
    """of 1- to 4-grams: captions are texts 0 .. rows - 1, references follow"""


def count_corpus(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Corpus:
    """references [R][1 or more] beside captions [R]. Every row has a reference."""
    rows = len(captions)
    owner = np.repeat(np.arange(rows), [len(texts) for texts in references])
    return Corpus(rows, owner, ngram_counts([*captions, *chain.from_iterable(references)], LONGEST))
