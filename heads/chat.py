"""A language model's chat template, taken apart into the pieces that a packed prompt is put together from.

Guarantees
- the pieces, joined, are what the model's own chat template writes
- what a user types never turns into a control token of the model
"""

from dataclasses import dataclass
from typing import Any

from heads.errors import HeadsError

_VIDEO, _QUESTION = "@@video@@", "@@question@@"


@dataclass(frozen=True)
class ChatPieces:
    """Token ids: before, between and behind the videos, up to the question; from there to the answer; its end."""

    around_videos: tuple[tuple[int, ...], ...]
    to_answer: tuple[int, ...]
    end: tuple[int, ...]


class Chat:
    """Tokenizer and template of one model; `pieces(system)` splits a system prompt that holds {video} marks."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            raise HeadsError(
                f"{tokenizer.name_or_path}: no chat template in its tokenizer files; use an instruct/chat model"
            )
        self.tokenizer = tokenizer

    def control_ids(self, text: str) -> tuple[int, ...]:
        """Template text: its control tokens are read as such."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Plain text: what looks like a control token stays text."""
        return tuple(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )

    def pieces(self, system: str) -> ChatPieces:
        messages = [
            {"role": "system", "content": system.replace("{video}", _VIDEO)},
            {"role": "user", "content": _QUESTION},
        ]
        written = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        before, found, to_answer = written.partition(_QUESTION)
        around = before.split(_VIDEO)
        if not found or len(around) != system.count("{video}") + 1:
            raise HeadsError(
                f"{self.tokenizer.name_or_path}: its chat template drops the system prompt; use another model"
            )
        end = self.tokenizer.eos_token_id
        return ChatPieces(
            tuple(self.control_ids(part) for part in around), self.control_ids(to_answer), (end,)
        )
