"""The video-conditioned language model: cached tokens -> projector -> language model.

Guarantees
- log-likelihoods of packed questions equal those of separate ones
- what scores answers is computed from logits in float32, whatever the layers compute in
- in float32 an answer written in a batch is the one written alone
- the language model never drops out
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from heads.data.packing import NO_TARGET, PADDING, TEXT, Packed, Packer, Turn
from heads.models.language_model import LanguageModel
from heads.models.projector import Projector


class VideoLM(nn.Module):
    def __init__(self, lm: LanguageModel, projector: Projector | nn.Identity, outputs: int) -> None:
        super().__init__()
        self.lm = lm
        self.projector = projector
        self.outputs = outputs
        self.packer = Packer(lm.chat, outputs)
        self.blind_packer = Packer(lm.chat, 0)

    def pack(
        self, prompts: Sequence[Sequence[Turn]], clips: Float[Tensor, "C L E"] | None, packed: bool
    ) -> tuple[Packed, Float[Tensor, "C L E"] | None]:
        """Rows for all questions of the prompts, and the clips that they number; None: the blind control."""
        packer = self.blind_packer if clips is None else self.packer
        return packer.pack(prompts, packed).to(self.lm.device), clips

    def token_losses(
        self, batch: Packed, clips: Float[Tensor, "C L E"] | None, exact: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Negative log-likelihood [K], weight [K] and turn number [K] of every target token of the batch.

        clips: projected tokens, one clip after another as the batch numbers them; None for the blind control.
        exact: from logits in float32, not in the precision of autocast.
        """
        hidden = self.hidden(batch, clips)
        places = batch.targets != NO_TARGET
        logits = (self.lm.exact_logits if exact else self.lm.logits)(hidden[places]).float()
        losses = functional.cross_entropy(logits, batch.targets[places], reduction="none")
        return losses, batch.weights[places], batch.turn[places]

    def hidden(self, batch: Packed, clips: Float[Tensor, "C L E"] | None) -> Float[Tensor, "B S E"]:
        """Last hidden states of the batch's tokens."""
        return self.lm.hidden(self.embed(batch, clips), batch.segment, batch.positions)

    def embed(self, batch: Packed, clips: Float[Tensor, "C L E"] | None) -> Float[Tensor, "B S E"]:
        """Input embeddings of the batch's tokens, with the clips where its video slots are."""
        embeddings = self.lm.embed(batch.ids)
        if clips is None:
            return embeddings
        slots = batch.video != TEXT
        return embeddings.masked_scatter(slots[..., None], clips.flatten(0, 1)[batch.video[slots]].to(embeddings.dtype))

    def project(self, tokens: Float[Tensor, "C N D"], leave_out: float = 0.0) -> Float[Tensor, "C L E"]:
        return self.projector(tokens.to(self.lm.device), leave_out)

    @torch.inference_mode()
    def log_likelihoods(
        self, pairs: Sequence[Sequence[Turn]], clips: Float[Tensor, "C L E"] | None, mean: bool
    ) -> list[list[float]]:
        """For each pair and turn: the sum, or the mean over the tokens, of the answer's log-likelihood."""
        # Logits of 16 and more lie 0.125 apart in bfloat16: likely answers of like videos would tie, or trade places.
        losses, _, turn = self.token_losses(*self.pack(pairs, clips, self.lm.packs), exact=True)
        total = sum(len(turns) for turns in pairs)
        sums = torch.zeros(total, dtype=torch.float64).index_add_(0, turn.cpu(), -losses.double().cpu())
        if mean:
            sums /= torch.bincount(turn.cpu(), minlength=total)
        values = iter(sums.tolist())
        return [[next(values) for _ in turns] for turns in pairs]

    @torch.inference_mode()
    def generate(self, turns: Sequence[Turn], clips: Float[Tensor, "C L E"] | None, max_tokens: int) -> list[str]:
        """What is said, greedily, to one question on each pair, behind the words it is given (Turn.given)."""
        return self.go_on(*self.pack([[turn] for turn in turns], clips, packed=True), max_tokens)

    def go_on(self, batch: Packed, clips: Float[Tensor, "C L E"] | None, max_tokens: int) -> list[str]:
        """What is said, greedily, behind the last token of every row."""
        columns = columns_to_front(batch.segment)
        embeddings = self.embed(batch, clips)
        return self.write(
            inputs_embeds=embeddings.gather(1, columns[..., None].expand_as(embeddings)),
            attention_mask=(batch.segment != PADDING).gather(1, columns).long(),
            max_new_tokens=max_tokens,
        )

    def write(self, **inputs: Any) -> list[str]:
        """What the language model writes, greedily, behind its inputs."""
        tokenizer = self.lm.chat.tokenizer
        written = self.lm.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # greedily, whatever the checkpoint's own settings say
            no_repeat_ngram_size=0,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        # Behind ids the whole text comes back, behind embeddings what is new.
        new = written[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else written
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def columns_to_front(segment: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Each row's columns, its padding first: what is written follows the last column."""
    return (segment != PADDING).int().argsort(dim=1, stable=True)
