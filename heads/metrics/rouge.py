"""ROUGE-L as pycocoevalcap computes it: best precision and best recall over the references, beta 1.2.

Words here are what str.split(" ") leaves: two spaces in a row hold an empty word between them, and an empty text is one
empty word.

Guarantees
- equal to pycocoevalcap's Rouge(), row by row
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

BETA = 1.2


def common_subsequence(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence of `other` and a text of `length` words.

    places: for each word of the text, the bits of the places where it stands. One row of the table of dynamic
    programming is one integer, whose zero bits are the steps up (Hyyro 2004).
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    return length - row.bit_count()


def rouge_rows(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Float64[np.ndarray, " rows"]:
    """The score of each row, 0 to 1; the corpus score is their mean. Every row has a reference."""
    scores = np.zeros(len(captions))
    for number, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        words = caption.split(" ")
        places: dict[str, int] = {}
        for place, word in enumerate(words):
            places[word] = places.get(word, 0) | 1 << place
        precision = recall = 0.0
        for text in texts:
            other = text.split(" ")
            common = common_subsequence(places, len(words), other)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(other))
        if precision and recall:
            scores[number] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores
