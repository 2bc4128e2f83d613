"""Packed prompts: all questions about a pair after one copy of its video tokens.

    prefix: system prompt, video 1, video 2 | question, answer | question, answer | ...

They are built of the pieces of a language model's chat template (`Chat`).

Guarantees
- every question sees the prefix and itself, and no other question: packed logits equal separate
  ones
- the joined pieces are the tokens of the text that the model's own chat template writes, up to the
  end of the answer
- a user's text never becomes a control token of the model
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import PAIR_SYSTEM

_VIDEO, _QUESTION = "@@video@@", "@@question@@"
# a piece is cut after the first of them that the tokenizer does not join to it
_BEFORE = ("\n", "x")


@dataclass(frozen=True)
class ChatPieces:
    """Token ids before, between and after the videos, up to the question; from there to the answer;
    its end."""

    around_videos: tuple[tuple[int, ...], ...]
    to_answer: tuple[int, ...]
    end: tuple[int, ...]
    before_question: str = ""
    """space between the question and the text before it"""
    before_answer: str = ""
    """space between the answer and the text before it"""


class Chat:
    """Tokenizer and template of a model; `pieces(system)` splits a system prompt at its {video}
    marks."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            raise StepDiffError(
                f"{tokenizer.name_or_path}: no chat template in its tokenizer files; use an "
                "instruct/chat model"
            )
        self.tokenizer = tokenizer
        self._before = {
            splits: [self._ids(before, splits) for before in _BEFORE] for splits in (False, True)
        }

    def _ids(self, text: str, split_special_tokens: bool) -> list[int]:
        return self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens
        )["input_ids"]

    def control_ids(self, text: str) -> tuple[int, ...]:
        """Encode template text with its control tokens."""
        return self._cut(text, split_special_tokens=False)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Encode plain text; control tokens in it stay text. StepDiffError: the tokenizer cannot do
        that."""
        ids = self._cut(text, split_special_tokens=True)
        if set(ids) & set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}:
            raise StepDiffError(f"{text!r}: the tokenizer reads a control token in it; remove that")
        return ids

    def _cut(self, text: str, split_special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of a piece within a prompt: at the start of a text, SentencePiece would
        add a space."""
        for before, first in zip(_BEFORE, self._before[split_special_tokens], strict=True):
            whole = self._ids(before + text, split_special_tokens)
            if whole[: len(first)] == first:
                return tuple(whole[len(first) :])
        raise StepDiffError(
            f"{self.tokenizer.name_or_path}: its tokens cannot be cut before {text!r}; use another "
            "model"
        )

    def packer(self, outputs: int, system: str = PAIR_SYSTEM) -> "Packer":
        """Return the builder of prompts with this system prompt; outputs: tokens per clip, 0:
        without clips."""
        return Packer(self, outputs, system)

    def pieces(self, system: str) -> ChatPieces:
        messages = [
            {"role": "system", "content": system.replace("{video}", _VIDEO)},
            {"role": "user", "content": _QUESTION},
        ]
        written = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        before, mark, to_answer = written.partition(_QUESTION)
        around = before.split(_VIDEO)
        if not mark or len(around) != system.count("{video}") + 1:
            raise StepDiffError(
                f"{self.tokenizer.name_or_path}: its chat template drops the system prompt; use "
                "another model"
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


TEXT, NO_TARGET, PADDING = -1, -100, -1


@dataclass(frozen=True)
class Turn:
    """A question and its answer: `seed` is text that is not scored, `answer` is scored or
    learned."""

    question: str
    answer: str
    seed: str = ""
    ends: bool = True
    about: str = ""
    """category of the question, whose words of evidence it shows; empty: unknown"""


@dataclass
class Row:
    """One row, built from left to right: ids [L], video slot [L] (TEXT, or clip * outputs + token),
    segment [L], positions [L], targets [L], turn [L]."""

    ids: list[int] = field(default_factory=list)
    video: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)

    def read(self, ids: Sequence[int], segment: int = 0) -> None:
        """Append text without targets."""
        self._add(ids, [TEXT] * len(ids), segment, len(self.ids))

    def show(self, clip: int, outputs: int, segment: int = 0) -> None:
        """Append the tokens of a clip of the batch."""
        self._add(
            [0] * outputs, range(clip * outputs, (clip + 1) * outputs), segment, len(self.ids)
        )

    def say(
        self, before: Sequence[int], answer: Sequence[int], segment: int, start: int, turn: int
    ) -> None:
        """Append text from position `start` on, and an answer that is scored or learned."""
        ids = [*before, *answer]
        first = len(self.ids) + len(before) - 1
        self._add(ids, [TEXT] * len(ids), segment, start)
        self.targets[first : first + len(answer)] = answer
        self.turn[-len(ids) :] = [turn] * len(ids)

    def _add(self, ids: Sequence[int], video: Sequence[int], segment: int, start: int) -> None:
        self.ids += ids
        self.video += video
        self.segment += [segment] * len(ids)
        self.positions += range(start, start + len(ids))
        self.targets += [NO_TARGET] * len(ids)
        self.turn += [-1] * len(ids)


@dataclass(frozen=True)
class Packed:
    """A batch of rows, padded to the longest. Clips are numbered prompt by prompt, in their order
    in the prompt."""

    ids: Int[Tensor, "B L"]
    video: Int[Tensor, "B L"]
    segment: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    turn: Int[Tensor, "B L"]

    def to(self, device: torch.device) -> "Packed":
        return Packed(*(x.to(device) for x in vars(self).values()))

    @property
    def tokens(self) -> int:
        """Tokens of all rows, without padding."""
        return int((self.segment != PADDING).sum())


class Packer:
    """Builder of prompts for a chat template and a number of tokens per clip (0: the blind control,
    no video)."""

    def __init__(self, chat: Chat, outputs: int, system: str = PAIR_SYSTEM) -> None:
        self.chat = chat
        self.outputs = outputs
        self.pieces: ChatPieces = chat.pieces(system)

    @property
    def clips(self) -> int:
        return len(self.pieces.around_videos) - 1

    def prefix(self, number: int) -> Row:
        """Return a row up to its question, with the clips of the prompt of that number."""
        row = Row()
        for place, part in enumerate(self.pieces.around_videos):
            if place:
                row.show(number * self.clips + place - 1, self.outputs)
            row.read(part)
        return row

    def _add(self, into: Row, turn: Turn, number: int, segment: int, start: int) -> None:
        pieces, chat = self.pieces, self.chat
        seed_text = pieces.before_answer + turn.seed if turn.seed else ""
        question = (
            chat.text_ids(pieces.before_question + turn.question)
            + pieces.to_answer
            + chat.text_ids(seed_text)
        )
        # The space between seed and answer belongs to the answer: tokenizers join it to the next
        # word. Without an answer there is no such space: a model continues differently after a
        # space than after a word.
        space = " " if turn.seed else pieces.before_answer
        answer = chat.text_ids(space + turn.answer if turn.answer else "")
        answer += pieces.end if turn.ends else ()
        into.say(question, answer, segment, start, number)

    def pack(
        self, prompts: Sequence[Sequence[Turn]], packed: bool = True, clips: Sequence[str] = ()
    ) -> Packed:
        """Return one row per prompt (a pair, or one clip), or with packed=False one row per turn,
        all with the same clips. Turns are numbered consecutively.

        clips: ids of the prompts' clips; only a subclass reads them, whose prompts depend on what a
        clip is.
        """
        rows: list[Row] = []
        turn_number = 0
        for number, turns in enumerate(prompts):
            for place, turn in enumerate(turns):
                if place == 0 or not packed:
                    row = self.prefix(number)
                    start = len(row.ids)
                    rows.append(row)
                self._add(row, turn, turn_number, place + 1 if packed else 1, start)
                turn_number += 1
        return collate(rows)


def collate(rows: list[Row]) -> Packed:
    length = max(len(row.ids) for row in rows)
    filled = {
        "ids": 0,
        "video": TEXT,
        "segment": PADDING,
        "positions": 0,
        "targets": NO_TARGET,
        "turn": -1,
    }
    tensors = {}
    for name, fill in filled.items():
        values = [list(getattr(row, name)) for row in rows]
        tensors[name] = torch.tensor(
            [v + [fill] * (length - len(v)) for v in values], dtype=torch.long
        )
    return Packed(**tensors)
