"""Socratic: each clip became a text, and a language model that reads nothing else compares (paper, Sec. 4).

It is asked as the models that see are: the texts stand in the prompt where a clip's tokens stand.

Guarantees
- the prompt is that of the models that see, with texts for clips
- what is said of a clip depends on its text alone
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from heads.data.chat import Chat
from heads.data.clip_texts import ClipTexts
from heads.data.packing import PADDING, TEXT, Packed, Turn
from heads.models.language_model import LanguageModel
from heads.models.video_lm import VideoLM

_NONE = -1  # behind the last token of a shorter text


class TokenIds:
    """Texts as features of clips: N tokens of one channel, which is the token's id; N is that of the longest text."""

    def __init__(self, texts: ClipTexts, chat: Chat, most: int = 512) -> None:
        """most: tokens of a text that are read."""
        self.texts = texts
        whole = {key: chat.text_ids(text.strip()) for key, text in texts.items()}
        self.cut = sum(len(ids) > most for ids in whole.values())
        """texts of which not all is read"""
        self._ids = {key: ids[:most] for key, ids in whole.items()}
        self.longest = max(map(len, self._ids.values()))

    def read(self, keys: Sequence[str], device: torch.device | str = "cpu") -> Float32[Tensor, "K N 1"]:
        """Token ids of each clip's text, -1 behind them. StepDiffError names a clip without a text."""
        self.texts.check(keys)
        found = torch.full((len(keys), self.longest, 1), _NONE, dtype=torch.float32)  # exact below 2**24
        for row, key in zip(found, keys, strict=True):
            row[: len(self._ids[key]), 0] = torch.tensor(self._ids[key])
        return found.to(device)


class SocraticLM(VideoLM):
    """A language model whose clips are texts."""

    def __init__(self, lm: LanguageModel, longest: int) -> None:
        super().__init__(lm, nn.Identity(), longest)
        lm.model.set_attn_implementation("sdpa")  # heads.models.packed_attention knows no prefixes of several lengths

    def project(self, tokens: Float[Tensor, "C N 1"], leave_out: float = 0.0) -> Float[Tensor, "C N 1"]:
        """A text stands for itself."""
        return tokens.to(self.lm.device)

    def pack(
        self, prompts: Sequence[Sequence[Turn]], clips: Float[Tensor, "C N 1"] | None, packed: bool
    ) -> tuple[Packed, None]:
        """Rows for all questions of the prompts, with the texts in them."""
        batch, clips = super().pack(prompts, clips, packed)
        return (batch if clips is None else with_texts(batch, clips)), None


def with_texts(batch: Packed, clips: Float[Tensor, "C N 1"]) -> Packed:
    """The texts in the places of their clips. Each has as many places as the longest needs: what it leaves over goes,
    so that a batch is as long as its longest row, and not as the longest texts there are."""
    slots = batch.video != TEXT
    ids = batch.ids.masked_scatter(slots, clips.flatten(0, 1)[batch.video[slots], 0].long())
    holes = slots & (ids == _NONE)
    segment = batch.segment.masked_fill(holes, PADDING)
    told = segment != PADDING
    columns = (~told).int().argsort(dim=1, stable=True)[:, : int(told.sum(dim=1).max())]
    positions = (batch.positions - holes.cumsum(1)).clamp(min=0)
    filled = replace(batch, ids=ids.clamp(min=0), segment=segment, positions=positions)
    return Packed(*(x.gather(1, columns) for x in vars(filled).values()))


def load_socratic(
    path: str, kind: str | None, language_model: str, device: str = "cpu", precision: str = "float32"
) -> tuple[SocraticLM, TokenIds, dict[str, Any]]:
    """The model, the texts it reads, and what is to be disclosed beside its scores."""
    texts = ClipTexts(path, kind)
    lm = LanguageModel.load(language_model, device)
    if precision == "bfloat16":
        lm.hold_frozen(torch.bfloat16)
    ids = TokenIds(texts, lm.chat)
    told = {"texts": path, "kind": texts.kind, "texts_cut": ids.cut, "provenance": texts.provenance}
    told |= {"language_model": language_model}
    return SocraticLM(lm, ids.longest), ids, told
