"""A place among a projector's outputs for every content word: words that exclude each other share one.

"Whisk" and "fork" are hardly ever said of the same clip, and are said in the same surroundings ("a ... in use"), so
one output can say which of them it is; "bowl" is said of both and stands elsewhere. With places fixed, what two clips
have in common stands at the same place of both, and a model compares them place by place.

Guarantees
- words that are said in like surroundings, and hardly ever together, share a place before others do
- where there is a place for every word, each has its own
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.spatial.distance import squareform

EDGE = ""  # stands before and behind a text


def word_places(
    texts: Sequence[Sequence[str]], column: Mapping[str, int], said: Bool[np.ndarray, "T V"], places: int
) -> Int[np.ndarray, " V"]:
    """The place of each of V words.

    texts: their words in order; column: which of the V a word is, for those that are; said: whether a text says one.
    """
    number = said.shape[1]
    if number <= places:
        return np.arange(number)
    distance = 1 - likeness(texts, column) + together(said)
    np.fill_diagonal(distance, 0)
    return fcluster(linkage(squareform(distance, checks=False), "complete"), places, "maxclust") - 1


def together(said: Bool[np.ndarray, "T V"]) -> Float[np.ndarray, "V V"]:
    """Of two words' texts, the share of the rarer's that say both."""
    count = said.sum(axis=0)
    return (said.T.astype(float) @ said) / np.maximum(np.minimum.outer(count, count), 1)


def likeness(texts: Sequence[Sequence[str]], column: Mapping[str, int]) -> Float[np.ndarray, "V V"]:
    """Cosine of two words' surroundings, each weighted by how much oftener than by chance a word has it (positive
    pointwise mutual information)."""
    counts = Counter((column[word], around) for text in texts for word, around in surroundings(text) if word in column)
    contexts = {around: i for i, around in enumerate(dict.fromkeys(around for _, around in counts))}
    rows = np.array([word for word, _ in counts])
    columns = np.array([contexts[around] for _, around in counts])
    met = np.fromiter(counts.values(), float)
    shape = (max(column.values()) + 1, len(contexts))
    of_word, of_context = np.bincount(rows, met, shape[0]), np.bincount(columns, met)
    lift = np.log(met * met.sum() / (of_word[rows] * of_context[columns]))
    weights = coo_array((np.maximum(lift, 0), (rows, columns)), shape).tocsr()
    norms = np.maximum(np.sqrt(weights.multiply(weights).sum(axis=1)), 1e-9)
    return (weights @ weights.T).toarray() / np.outer(norms, norms)


def surroundings(text: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each word of a text with what stands left and right of it: one word, two, and one on either side."""
    padded = [EDGE, EDGE, *text, EDGE, EDGE]
    for i in range(2, len(padded) - 2):
        before, behind = padded[i - 2 : i], padded[i + 1 : i + 3]
        left, right = before[1], behind[0]
        for around in (("<", left), (">", right), ("<", *before), (">", *behind), ("<>", left, right)):
            yield padded[i], around
