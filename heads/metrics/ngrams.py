"""Counts of the word n-grams of many texts at once, as sorted sparse tables.

Words are what str.split() leaves: nothing is lower-cased, no punctuation is cut off.

Guarantees
- an n-gram has one id wherever it stands, so equal ids mean equal words
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int64, Shaped


@dataclass(frozen=True)
class Counts:
    """How often each n-gram of one length stands in each text: E entries, sorted by text, then n-gram."""

    text: Int64[np.ndarray, " E"]
    ngram: Int64[np.ndarray, " E"]
    count: Int64[np.ndarray, " E"]
    distinct: int
    """n-gram ids are 0 .. distinct - 1"""


def count_pairs(
    major: Int64[np.ndarray, " P"], minor: Int64[np.ndarray, " P"], minors: int
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"], Int64[np.ndarray, " E"]]:
    """Distinct (major, minor) pairs in sorted order, and how often each occurs; minor < minors."""
    pairs, counts = np.unique(major * max(minors, 1) + minor, return_counts=True)
    first, second = np.divmod(pairs, max(minors, 1))
    return first, second, counts.astype(np.int64)


def look_up(
    keys: Int64[np.ndarray, " E"], values: Shaped[np.ndarray, " E"], wanted: Int64[np.ndarray, " W"]
) -> Shaped[np.ndarray, " W"]:
    """The value of each wanted key, 0 where it is not among the keys, which are sorted."""
    if len(keys) == 0:
        return np.zeros(len(wanted), values.dtype)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def ngram_counts(texts: Sequence[str], longest: int) -> list[Counts]:
    """Counts of 1-grams, 2-grams, ... up to `longest` words."""
    split = [text.split() for text in texts]
    said = list(chain.from_iterable(split))
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(said))}
    words = np.fromiter(map(vocabulary.__getitem__, said), np.int64, len(said))
    text = np.repeat(np.arange(len(split)), np.fromiter(map(len, split), np.int64, len(split)))
    tables, gram, distinct = [], words, len(vocabulary)
    starts = np.arange(len(words))  # where each n-gram begins
    for length in range(1, longest + 1):
        if length > 1:
            # an n-gram is the (n-1)-gram at its start and one word more, where that word is of the same text
            ends = starts + length - 1
            whole = ends < len(words)
            whole[whole] = text[ends[whole]] == text[starts[whole]]
            starts, gram, ends = starts[whole], gram[whole], ends[whole]
            known, gram = np.unique(gram * max(len(vocabulary), 1) + words[ends], return_inverse=True)
            distinct = len(known)
        tables.append(Counts(*count_pairs(text[starts], gram, distinct), distinct))
    return tables
