"""A language model's chat template, cut into the pieces of which packed prompts are built.

Guarantees
- the joined pieces are the tokens of what the model's own chat template writes, up to the end of the answer
- a user's text never becomes a control token of the model
"""

from dataclasses import dataclass
from typing import Any

from common.errors import StepDiffError

_VIDEO, _QUESTION = "@@video@@", "@@question@@"
_BEFORE = ("\n", "x")  # a piece is cut after the first of them that the tokenizer does not join to it


@dataclass(frozen=True)
class ChatPieces:
    """Token ids before, between and after the videos, up to the question; from there to the answer; its end."""

    around_videos: tuple[tuple[int, ...], ...]
    to_answer: tuple[int, ...]
    end: tuple[int, ...]
    before_question: str = ""
    """space between the question and the text before it"""
    before_answer: str = ""
    """space between the answer and the text before it"""


class Chat:
    """Tokenizer and template of a model; `pieces(system)` splits a system prompt at its {video} marks."""

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
        """Encode template text with its control tokens."""
        return self._cut(text, split_special_tokens=False)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Encode plain text; control tokens in it stay text. StepDiffError: the tokenizer cannot do that."""
        ids = self._cut(text, split_special_tokens=True)
        if set(ids) & set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}:
            raise StepDiffError(f"{text!r}: the tokenizer reads a control token in it; remove that")
        return ids

    def _cut(self, text: str, split_special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of a piece within a prompt: at the start of a text, SentencePiece would add a space."""
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
            before_answer=space_after(to_answer),
        )


def space_after(text: str) -> str:
    """Return the space between a text and the answer after it."""
    return "" if not text or text[-1].isspace() else " "
