"""Evidence on the logits of words, while a language model writes about a pair.

Each word that an answer could name has a value, which depends on the text before it: how sure it is that only the video
that the text is about there shows it. The language model writes the sentence, the values decide what it names, and that
it does not end while something clear is left to name.

While a word is written, its tokens have the value of the best word that they may become. A longer word that only begins
with the tokens of a known one ("panels", "pan") keeps the value of that one.

Guarantees
- the tokens of a word get its value in total, also where it begins another word
- tokens that begin a word and do not end one get nothing in total
- the value of a word is that after the text before it
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

ENDS = 2.0
"""times the value of the best word that it leaves out, which the end of a text or sentence loses"""
Values = Callable[[str], Mapping[str, float]]
"""text so far -> value of each word that may come next; always the same words"""


@dataclass
class _Node:
    """A place in the tree of the words' tokens."""

    children: dict[int, "_Node"] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    """words whose tokens begin with those up to here"""
    word: str | None = None
    """the one that ends here"""

    def most(self, values: Mapping[str, float]) -> float:
        """Return the value of the best word that may still be written."""
        return max(values[word] for word in self.words)


def _tree(words: Sequence[str], encode: Callable[[str], Sequence[int]]) -> _Node:
    root = _Node()
    for word in words:
        node = root
        for token in encode(f" {word}"):
            node = node.children.setdefault(token, _Node())
            node.words.append(word)
        node.word = word
    return root


class _Writing:
    """A row in progress."""

    def __init__(self, values: Values, encode: Callable[[str], Sequence[int]], ends: Sequence[int]) -> None:
        self._values_after = values
        self._ends = ends
        self._following = self._values = values("")
        self._root = _tree(list(self._following), encode)
        self._node: _Node | None = None

    def added(self, ids: Sequence[int], text: str) -> tuple[float, dict[int, float]]:
        """Return what all next tokens get, and what some get in addition. ids, text: generated so far."""
        if ids:
            self._node = self._node.children.get(ids[-1]) if self._node is not None else None
            if self._node is None and ids[-1] in self._root.children:
                self._node, self._values = self._root.children[ids[-1]], self._following
        self._following = self._values_after(text)
        begins = dict.fromkeys(self._ends, -ENDS * max(*self._following.values(), 0.0))
        begins |= {token: child.most(self._following) for token, child in self._root.children.items()}
        node = self._node
        if node is None:
            return 0.0, begins
        # The tokens so far got the value of the best word that they could become.
        back = (0.0 if node.word is None else self._values[node.word]) - node.most(self._values)
        goes_on = {token: child.most(self._values) - node.most(self._values) for token, child in node.children.items()}
        return back, begins | {token: value - back for token, value in goes_on.items()}


class Naming:
    """A logits processor of transformers' generate: adds evidence to the logits of each row."""

    def __init__(
        self,
        rows: Sequence[Values | None],
        encode: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        ends: Sequence[int] = (),
    ) -> None:
        """rows: of a batch, None: without evidence; encode: text within a prompt -> its tokens; decode: generated
        tokens -> their text; ends: tokens that end a sentence or the text."""
        encode = cache(encode)  # rows of a batch have many words in common
        self._rows = [None if values is None else _Writing(values, encode, ends) for values in rows]
        self._decode = decode

    def __call__(self, generated: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Return the logits of the next token of each row. generated: tokens so far, without the prompt."""
        for row, (writing, ids) in enumerate(zip(self._rows, generated.tolist(), strict=True)):
            if writing is None:
                continue
            every, of_token = writing.added(ids, self._decode(ids))
            scores[row] += every
            tokens = torch.tensor(list(of_token), device=scores.device)
            scores[row, tokens] += torch.tensor(list(of_token.values()), dtype=scores.dtype, device=scores.device)
        return scores
