"""Socratic: each clip became a text, and a language model that reads nothing else compares (paper, Sec. 4).

It is asked as the models that see are: the texts stand in the prompt where a clip's tokens stand.

Guarantees
- the prompt is that of the models that see, with texts for clips
- what is said of a clip depends on its text alone
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from heads.chat import Chat
from heads.clip_texts import ClipTexts
from heads.language_model import LanguageModel
from heads.packing import Packed, Packer, Row, Turn
from heads.video_lm import VideoLM

_NONE = -1  # behind the last token of a shorter text


class TokenIds:
    """Texts as features of clips: N tokens of one channel, which is the token's id."""

    def __init__(self, texts: ClipTexts, chat: Chat, most: int = 512) -> None:
        """most: tokens of a text that are read."""
        self.texts, self.chat, self.most = texts, chat, most

    def read(self, keys: Sequence[str], device: torch.device | str = "cpu") -> Float32[Tensor, "K N 1"]:
        """Token ids of each clip's text, -1 behind them. HeadsError names a clip without a text."""
        found = torch.full((len(keys), self.most, 1), _NONE, dtype=torch.float32)  # exact below 2**24
        for row, text in zip(found, self.texts.read(keys), strict=True):
            ids = self.chat.text_ids(text.strip())[: self.most]
            row[: len(ids), 0] = torch.tensor(ids)
        return found.to(device)


class TextPacker(Packer):
    """Packs behind texts of clips: `texts` are token ids, one clip after another, two a prompt."""

    def __init__(self, chat: Chat, texts: Sequence[list[int]]) -> None:
        super().__init__(chat, 0)
        self.texts = texts

    def prefix(self, number: int) -> Row:
        """The system prompt around the texts of the clips of the prompt of that number."""
        row = Row()
        for place, part in enumerate(self.pieces.around_videos):
            if place:
                row.read(self.texts[number * self.clips + place - 1])
            row.read(part)
        return row


class SocraticLM(VideoLM):
    """A language model whose clips are texts."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm, nn.Identity(), 0)
        lm.model.set_attn_implementation("sdpa")  # heads.packed_attention needs prefixes of one length

    def project(self, tokens: Float[Tensor, "C N 1"], leave_out: float = 0.0) -> Float[Tensor, "C N 1"]:
        """A text stands for itself."""
        return tokens

    def pack(
        self, pairs: Sequence[Sequence[Turn]], clips: Float[Tensor, "C N 1"] | None, packed: bool
    ) -> tuple[Packed, None]:
        """Rows for all questions of the pairs behind the texts of their clips; None: the blind control."""
        if clips is None:
            return self.blind_packer.pack(pairs, packed).to(self.lm.device), None
        texts = [row[row != _NONE].long().tolist() for row in clips]
        return TextPacker(self.lm.chat, texts).pack(pairs, packed).to(self.lm.device), None


def load_socratic(
    path: str, kind: str | None, language_model: str, device: str = "cpu"
) -> tuple[SocraticLM, TokenIds, dict[str, Any]]:
    """The model, the texts it reads, and what is to be disclosed beside its scores."""
    texts = ClipTexts(path, kind)
    lm = LanguageModel.load(language_model, device)
    told = {"texts": path, "kind": texts.kind, "provenance": texts.provenance, "language_model": language_model}
    return SocraticLM(lm), TokenIds(texts, lm.chat), told
