"""All questions of a pair behind one copy of its video tokens.

    prefix: system prompt, video 1, video 2 | question, answer | question, answer | ...

Guarantees
- every question sees the prefix and itself, and no other question: packed logits equal separate ones
- positions restart behind the prefix in every question
- a target stands at the position that predicts it, and only answers have targets
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heads.chat import Chat, ChatPieces
from heads.prompts import PAIR_SYSTEM

TEXT, NO_TARGET, PADDING = -1, -100, -1


@dataclass(frozen=True)
class Turn:
    """A question and what is said in answer: `given` is a seed that is not scored, `answer` is scored or learned."""

    question: str
    answer: str
    given: str = ""
    weight: float = 1.0
    ends: bool = True


@dataclass
class Row:
    """One row: ids [L], video slot [L] (TEXT, or clip * outputs + token), segment [L], positions [L], targets [L]."""

    ids: list[int]
    video: list[int]
    segment: list[int]
    positions: list[int]
    targets: list[int]
    weights: list[float]
    turn: list[int]


@dataclass(frozen=True)
class Packed:
    """A batch of rows, padded to the longest. Clips are numbered row by row, two a row."""

    ids: Int[Tensor, "B L"]
    video: Int[Tensor, "B L"]
    segment: Int[Tensor, "B L"]
    positions: Int[Tensor, "B L"]
    targets: Int[Tensor, "B L"]
    weights: Float[Tensor, "B L"]
    turn: Int[Tensor, "B L"]

    def to(self, device: torch.device) -> "Packed":
        return Packed(*(x.to(device) for x in vars(self).values()))


class Packer:
    """Puts prompts together for one chat template and a number of tokens a clip (0: the blind control, no video)."""

    def __init__(self, chat: Chat, outputs: int, system: str = PAIR_SYSTEM) -> None:
        self.chat = chat
        self.outputs = outputs
        self.pieces: ChatPieces = chat.pieces(system)

    @property
    def clips(self) -> int:
        return len(self.pieces.around_videos) - 1

    def prefix(self, row: int) -> Row:
        ids: list[int] = []
        video: list[int] = []
        for place, part in enumerate(self.pieces.around_videos):
            if place:
                first = (row * self.clips + place - 1) * self.outputs
                ids += [0] * self.outputs
                video += range(first, first + self.outputs)
            ids += part
            video += [TEXT] * len(part)
        length = len(ids)
        return Row(
            ids,
            video,
            [0] * length,
            list(range(length)),
            [NO_TARGET] * length,
            [0.0] * length,
            [-1] * length,
        )

    def _add(self, into: Row, turn: Turn, number: int, segment: int, start: int) -> None:
        asked = (
            self.chat.text_ids(turn.question) + self.pieces.to_answer + self.chat.text_ids(turn.given)
        )
        # The space that parts seed and answer belongs to the answer: tokenizers glue it to the next word.
        # Where nothing is answered yet there is no such space: a model goes on from one otherwise than from a word.
        answer = self.chat.text_ids(" " + turn.answer if turn.given and turn.answer else turn.answer)
        answer += self.pieces.end if turn.ends else ()
        ids = asked + answer
        first = len(asked) - 1
        targets = [NO_TARGET] * len(ids)
        targets[first : first + len(answer)] = answer
        into.ids += ids
        into.video += [TEXT] * len(ids)
        into.segment += [segment] * len(ids)
        into.positions += range(start, start + len(ids))
        into.targets += targets
        into.weights += [turn.weight] * len(ids)
        into.turn += [number] * len(ids)

    def pack(self, pairs: Sequence[Sequence[Turn]], packed: bool = True) -> Packed:
        """One row a pair, or with packed=False one row a turn, its pair's clips repeated. Turns are numbered on."""
        rows: list[Row] = []
        number = 0
        for turns in pairs:
            for place, turn in enumerate(turns):
                if place == 0 or not packed:
                    row = self.prefix(len(rows))
                    start = len(row.ids)
                    rows.append(row)
                self._add(row, turn, number, place + 1 if packed else 1, start)
                number += 1
        return collate(rows)


def collate(rows: list[Row]) -> Packed:
    length = max(len(row.ids) for row in rows)

    def stack(name: str, fill: int | float, dtype: torch.dtype = torch.long) -> Tensor:
        values = [list(getattr(row, name)) for row in rows]
        return torch.tensor([v + [fill] * (length - len(v)) for v in values], dtype=dtype)

    return Packed(
        stack("ids", 0),
        stack("video", TEXT),
        stack("segment", PADDING),
        stack("positions", 0),
        stack("targets", NO_TARGET),
        stack("weights", 0.0, torch.float32),
        stack("turn", -1),
    )
