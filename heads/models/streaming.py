"""The words of an answer while it is generated.

Guarantees
- the words that were passed on, joined, are the answer, to the byte
- what the caller raises ends the generation before the next token
"""

from collections.abc import Callable

from torch import Tensor

HELD = 24
"""characters"""
Say = Callable[[str], None]
"""receives what a token adds to the answer: whole words, often nothing; what it raises ends the generation"""


class Tokens:
    """Calls a function after every token: the `streamer` of transformers' generate."""

    def __init__(self, each: Callable[[], None]) -> None:
        self._each = each

    def put(self, value: Tensor) -> None:
        """Take the prompt [B, L], or the next token of every row [B]."""
        if value.ndim == 1:
            self._each()

    def end(self) -> None:
        """Take the end of the generation."""


class Words:
    """Passes on each word of one answer once the next one begins, or the answer ends.

    The last HELD characters of a word that goes on are held back, because the next token may change them, for example
    those of a cut-off byte sequence. So only words that are longer, as in scripts without spaces, arrive in parts.

    Args:
        decode: Token ids of the answer so far -> its text.
        say: Receives what is new.
    """

    def __init__(self, decode: Callable[[list[int]], str], say: Say) -> None:
        self._decode, self._say = decode, say
        self._ids: list[int] = []
        self._said = ""

    def put(self, value: Tensor) -> None:
        """Take the prompt [1, L], or the next token [1]."""
        if value.ndim > 1:
            return
        self._ids += value.tolist()
        text = self._decode(self._ids)
        self._pass_on(text[: len(text) - min(len(last_word(text)), HELD)].rstrip())

    def end(self) -> None:
        """Take the end of the generation."""
        self._pass_on(self._decode(self._ids))

    def _pass_on(self, text: str) -> None:
        new = text[len(self._said) :] if text.startswith(self._said) else ""
        self._said += new
        self._say(new)


def last_word(text: str) -> str:
    """Return the last word of a text that does not end in a space, else an empty text."""
    return "" if text[-1:].isspace() else (text.split() or [""])[-1]
