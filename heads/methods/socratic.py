"""Socratic: a language model compares clips by reading a text about each (paper, Sec. 4).

The texts take the places of the clips' tokens in the same prompt.

Guarantees
- the prompt is the prompt of the video language models, with texts for clips
- the model's input for a clip depends only on its text
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from heads.data.clip_texts import ClipTexts
from heads.data.packing import PADDING, TEXT, Chat, Packed, Turn
from heads.models.language_model import LanguageModel
from heads.models.video_lm import VideoLM

_NONE = -1  # padding after a shorter text


class TokenIds:
    """Texts as features of clips: N tokens of one channel, the token's id; N is the length of the
    longest text."""

    def __init__(self, texts: ClipTexts, chat: Chat, most: int = 512) -> None:
        """most: longest text in tokens; longer ones are cut."""
        self.texts = texts
        whole = {key: chat.text_ids(text.strip()) for key, text in texts.items()}
        self.cut = sum(len(ids) > most for ids in whole.values())
        """number of texts that were cut"""
        self._ids = {key: ids[:most] for key, ids in whole.items()}
        self.longest = max(map(len, self._ids.values()))

    def read(
        self, keys: Sequence[str], device: torch.device | str = "cpu"
    ) -> Float32[Tensor, "K N 1"]:
        """Return token ids of each clip's text, padded with -1. StepDiffError names a clip without
        a text."""
        self.texts.check(keys)
        # exact below 2**24
        padded = torch.full((len(keys), self.longest, 1), _NONE, dtype=torch.float32)
        for row, key in zip(padded, keys, strict=True):
            row[: len(self._ids[key]), 0] = torch.tensor(self._ids[key])
        return padded.to(device)


class SocraticLM(VideoLM):
    """A language model whose clips are texts."""

    def __init__(self, lm: LanguageModel, longest: int) -> None:
        super().__init__(lm, nn.Identity(), longest)
        lm.model.set_attn_implementation("sdpa")  # packed attention needs prefixes of one length

    def project(self, tokens: Float[Tensor, "C N 1"]) -> Float[Tensor, "C N 1"]:
        """Return the texts as they are."""
        return tokens.to(self.lm.device)

    def pack(
        self,
        prompts: Sequence[Sequence[Turn]],
        clips: Float[Tensor, "C N 1"] | None,
        packed: bool,
        count: int | None = None,
    ) -> tuple[Packed, None]:
        """Return rows for all questions of the prompts, with the texts in them."""
        batch, clips = super().pack(prompts, clips, packed, count)
        return (batch if clips is None else with_texts(batch, clips)), None


def with_texts(batch: Packed, clips: Float[Tensor, "C N 1"]) -> Packed:
    """Put the texts in the places of their clips, and remove the unused places of shorter texts."""
    slots = batch.video != TEXT
    ids = batch.ids.masked_scatter(slots, clips.flatten(0, 1)[batch.video[slots], 0].long())
    holes = slots & (ids == _NONE)
    segment = batch.segment.masked_fill(holes, PADDING)
    used = segment != PADDING
    columns = (~used).int().argsort(dim=1, stable=True)[:, : int(used.sum(dim=1).max())]
    positions = (batch.positions - holes.cumsum(1)).clamp(min=0)
    filled = replace(batch, ids=ids.clamp(min=0), segment=segment, positions=positions)
    return Packed(*(x.gather(1, columns) for x in vars(filled).values()))


def load_socratic(
    path: str,
    kind: str | None,
    language_model: str,
    device: str = "cpu",
    precision: str = "float32",
) -> tuple[SocraticLM, TokenIds, dict[str, Any]]:
    """Return the model, the texts that it reads, and facts to disclose next to its scores."""
    texts = ClipTexts(path, kind)
    lm = LanguageModel.load(language_model, device)
    if precision == "bfloat16":
        lm.hold_frozen(torch.bfloat16)
    ids = TokenIds(texts, lm.chat)
    disclosed = {
        "texts": path,
        "kind": texts.kind,
        "texts_cut": ids.cut,
        "provenance": texts.provenance,
    }
    return SocraticLM(lm, ids.longest), ids, disclosed | {"language_model": language_model}
