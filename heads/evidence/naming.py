"""Evidence on the logits of words, while a language model writes about a pair.

Each word that an answer could name has a value, which depends on the text before it: how sure it is that only the video
that the text is about there shows it. The language model writes the sentence, the values decide what it names, and that
it does not end while something clear is left to name. A word that turns the text to the other video ("not", "instead")
gains or loses as much as the best value that may come next: nothing is left to name of some videos.

While a word is written, its tokens have the value of the best word that they may become. A longer word that only begins
with the tokens of a known one ("panels", "pan") keeps the value of that one.

Guarantees
- the tokens of a word get its value in total, also where it begins another word
- tokens that begin a word and do not end one get nothing in total
- the value of a word is that after the text before it
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

ENDS = 2.0
"""times the value of the best word that it leaves out, which the end of a text or sentence loses"""
TURNS, NEAR = 8, 8.0
"""likeliest next tokens that may turn a text to the other video, and how much less likely than the first they may be"""
Values = Callable[[str], Mapping[str, float]]
"""text so far -> value of each word that may come next; always the same words"""


class _Writing:
    """A row in progress."""

    def __init__(self, values: Values, encode: Callable[[str], Sequence[int]], ends: Sequence[int]) -> None:
        self._values_after, self._ends = values, ends
        self._following = self._values = values("")
        self._begun: tuple[int, ...] = ()
        """tokens of the word in progress"""
        self._words: dict[tuple[int, ...], list[str]] = {}
        """first tokens -> the words that begin with them"""
        self._next: dict[tuple[int, ...], dict[int, None]] = {}
        """first tokens -> those that may come next"""
        self._whole: dict[tuple[int, ...], str] = {}
        for word in self._following:
            ids = tuple(encode(f" {word}"))
            self._whole[ids] = word
            for end, token in enumerate(ids):
                self._next.setdefault(ids[:end], {})[token] = None
                self._words.setdefault(ids[: end + 1], []).append(word)

    def added(self, ids: Sequence[int], text: str) -> tuple[float, dict[int, float]]:
        """Return what all next tokens get, and what some get in addition. ids, text: generated so far."""
        if ids:
            begun = (*self._begun, ids[-1]) if self._begun else ()
            self._begun = begun if begun in self._words else ()
            if not self._begun and (ids[-1],) in self._words:
                self._begun, self._values = (ids[-1],), self._following
        self._following = self._values_after(text)
        begins = dict.fromkeys(self._ends, -ENDS * max(*self._following.values(), 0.0))
        begins |= self._best((), self._following)
        if not self._begun:
            return 0.0, begins
        # The tokens so far got the value of the best word that they could become.
        given = max(self._values[word] for word in self._words[self._begun])
        word = self._whole.get(self._begun)
        back = (0.0 if word is None else self._values[word]) - given
        goes_on = self._best(self._begun, self._values)
        return back, begins | {token: value - given - back for token, value in goes_on.items()}

    def turned(self, text: str) -> float:
        """Return what a token gets that no word begins with and that continues none. text: with that token."""
        return max(self._values_after(text).values()) - max(self._following.values())

    def _best(self, begun: tuple[int, ...], values: Mapping[str, float]) -> dict[int, float]:
        """Return the value of the best word that may still be written after each next token."""
        following = self._next.get(begun, ())
        return {token: max(values[word] for word in self._words[*begun, token]) for token in following}


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
            best, likeliest = scores[row].double().topk(min(TURNS, scores.shape[1]))
            turning = [token for token in likeliest[best >= best[0] - NEAR].tolist() if token not in of_token]
            of_token |= {token: writing.turned(self._decode([*ids, token])) for token in turning}
            scores[row] += every
            tokens = torch.tensor(list(of_token), device=scores.device)
            scores[row, tokens] += torch.tensor(list(of_token.values()), dtype=scores.dtype, device=scores.device)
        return scores
