"""A place among a projector's outputs for every content word: words that exclude each other share one.

"Whisk" and "fork" are hardly ever said of the same clip, so one output can say which of them it is; "bowl" is said of
both and stands elsewhere. With places fixed, what two clips have in common stands at the same place of both.

Guarantees
- where there are places enough, words that are said together have places of their own
"""

import numpy as np
from jaxtyping import Bool, Int

ALIKE = 0.3  # share of a word's texts that the likeness of its company is worth


def word_places(said: Bool[np.ndarray, "T V"], places: int) -> Int[np.ndarray, " V"]:
    """The place of each of V words. said: whether a text says a word.

    Commonest first, a word goes where the fewest of its texts say another word of that place, and among such places
    to the words that keep the company it keeps: values of one attribute end up together.
    """
    count = said.sum(axis=0).astype(float)
    together = said.T.astype(float) @ said
    np.fill_diagonal(together, 0)
    company = np.log1p(together) - np.log1p(np.outer(count, count) / len(said))
    company /= np.linalg.norm(company, axis=1, keepdims=True) + 1e-9
    likeness = company @ company.T
    members: list[list[int]] = [[] for _ in range(places)]
    chosen = np.zeros(len(count), int)
    for word in np.argsort(-count, kind="stable"):
        costs = [
            together[word, own].sum() / max(count[word], 1) - ALIKE * (likeness[word, own].mean() if own else 0)
            for own in members
        ]
        chosen[word] = int(np.argmin(costs))
        members[chosen[word]].append(int(word))
    return chosen
