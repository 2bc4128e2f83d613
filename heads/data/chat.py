"""A language model's chat template, taken apart into the pieces that a packed prompt is put together from.

Guarantees
- the pieces, joined, are the tokens of what the model's own chat template writes, up to the answer's end
- what a user types never turns into a control token of the model
"""

from dataclasses import dataclass
from typing import Any

from common.errors import StepDiffError

_VIDEO, _QUESTION = "@@video@@", "@@question@@"
_BEFORE = ("\n", "x")  # a piece is cut behind the first of them that the tokenizer does not join to it


@dataclass(frozen=True)
class ChatPieces:
    """Token ids: before, between and behind the videos, up to the question; from there to the answer; its end."""

    around_videos: tuple[tuple[int, ...], ...]
    to_answer: tuple[int, ...]
    end: tuple[int, ...]
    before_question: str = ""
    """space that parts the question from what stands before it"""
    before_answer: str = ""
    """space that parts the answer from what stands before it"""


class Chat:
    """Tokenizer and template of one model; `pieces(system)` splits a system prompt that holds {video} marks."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            raise StepDiffError(
                f"{tokenizer.name_or_path}: no chat template in its tokenizer files; use an instruct/chat model"
            )
        self.tokenizer = tokenizer
        self._before = {splits: [self._ids(before, splits) for before in _BEFORE] for splits in (False, True)}

    def _ids(self, text: str, split_special_tokens: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"]

    def control_ids(self, text: str) -> tuple[int, ...]:
        """Template text: its control tokens are read as such."""
        return self._cut(text, split_special_tokens=False)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Encode plain text; control tokens in it stay text. StepDiffError where the tokenizer cannot do that."""
        ids = self._cut(text, split_special_tokens=True)
        if set(ids) & set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}:
            raise StepDiffError(f"{text!r}: the tokenizer reads a control token in it; leave that out")
        return ids

    def _cut(self, text: str, split_special_tokens: bool) -> tuple[int, ...]:
        """The ids that a piece has within a prompt: at the beginning of a text, sentence pieces set a space before."""
        for before, first in zip(_BEFORE, self._before[split_special_tokens], strict=True):
            whole = self._ids(before + text, split_special_tokens)
            if whole[: len(first)] == first:
                return tuple(whole[len(first) :])
        raise StepDiffError(
            f"{self.tokenizer.name_or_path}: its tokens cannot be cut before {text!r}; use another model"
        )

    def pieces(self, system: str) -> ChatPieces:
        messages = [
            {"role": "system", "content": system.replace("{video}", _VIDEO)},
            {"role": "user", "content": _QUESTION},
        ]
        written = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, found, to_answer = written.partition(_QUESTION)
        around = before.split(_VIDEO)
        if not found or len(around) != system.count("{video}") + 1:
            raise StepDiffError(
                f"{self.tokenizer.name_or_path}: its chat template drops the system prompt; use another model"
            )
        end = self.tokenizer.eos_token_id
        return ChatPieces(
            tuple(self.control_ids(part) for part in around),
            self.control_ids(to_answer),
            (end,),
            before_answer=space_behind(to_answer),
        )


def space_behind(text: str) -> str:
    """What parts an answer from the text before it."""
    return "" if not text or text[-1].isspace() else " "
