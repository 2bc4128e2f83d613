"""One step description of a clip, out of its narration, its action caption and its grounded objects (S1).

Guarantees
- the language model reads the supplement's prompt with what was said of this clip, and nothing of another
- hours of narration, or none, fit the prompt
- a clip without an action caption fails, and says what to run
- a sentence that the limit of tokens ended is left out, where a whole one stands before it
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from annotate.llm.options import LLM, CutOff, LLMOptions, Sampling
from annotate.qa.prompts import NOTHING, Message, Prompt
from annotate.stages.job import Answer, Failure, Item, plain

KIND = "step description"
_SENTENCES = re.compile(r".*[.!?](?=\s)", re.DOTALL)  # up to where the last begins


@dataclass(frozen=True)
class DescribeJob:
    llm: LLMOptions
    prompt: Prompt
    words: int
    """of a narration that are read"""
    reads: dict[str, Any]
    """stage -> version of what is put together"""

    def provenance(self) -> dict[str, Any]:
        """Model, weights, sampling, prompt and what is read."""
        return {
            **self.llm.provenance(),
            "prompt": self.prompt.sha256,
            "narration_words": self.words,
            "reads": self.reads,
        }

    def load(self, device: str, threads: int) -> "Describer":
        return Describer(self.llm.load(device), self.llm.sampling, self.prompt, self.words)


class Describer:
    def __init__(self, llm: LLM, sampling: Sampling, prompt: Prompt, words: int) -> None:
        self.llm, self.sampling, self.prompt, self.words = llm, sampling, prompt, words

    @property
    def busy(self) -> float:
        """Seconds that the language model has worked."""
        return self.llm.busy

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """items: key, narration, action_caption, object_caption, each of the last three a text or None.

        A clip may go without narration; captions that are still to come are waited for.
        """
        able = []
        for item in items:
            if item["action_caption"] is None:
                yield item["key"], Failure("no action caption: run python -m annotate.captions, then --retry-failed")
            elif item["object_caption"] is None:
                yield item["key"], Failure("objects not grounded: run python -m annotate.ground, then --retry-failed")
            else:
                able.append(item)
        for place, text in self.llm.chat([self.messages(item) for item in able], self.sampling):
            if isinstance(text, str):
                whole = _SENTENCES.match(text) if isinstance(text, CutOff) else None
                words = " ".join(plain(whole[0] if whole else text).split())
                text = words or Failure("the language model said nothing")
            yield able[place]["key"], text if isinstance(text, Failure) else {KIND: text}

    def messages(self, item: Item) -> list[Message]:
        """What the language model is sent about a clip."""
        return self.prompt.messages(
            narration=one_line(item["narration"], " ", self.words),
            action_caption=one_line(item["action_caption"], " "),
            object_caption=one_line(item["object_caption"], ", "),
        )


def one_line(text: str | None, between: str, words: int | None = None) -> str:
    """The lines of a text, joined, cut behind so many words and without the end stop that the prompt sets itself."""
    lines = [line.strip(" \t-*•") for line in plain(text or "").splitlines()]
    joined = between.join(filter(None, lines))
    if words is not None:
        joined = " ".join(joined.split(maxsplit=words)[:words])
    return joined.rstrip(" .") or NOTHING
