"""The video language model: cached tokens -> projector -> language model.

The projector is M_Proj of the paper, a Perceiver that maps the frozen tokens of a clip to a few
tokens in the language model's input space. Its output starts at the scale of the input embeddings
of the language model.

Guarantees
- log-likelihoods of packed questions equal log-likelihoods of separate ones, and scores come from
  logits in float32
- in float32 an answer generated in a batch is the same as one generated alone
- the words that are passed on while an answer is generated, joined, are the answer, to the byte
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from heads.data.packing import NO_TARGET, PADDING, TEXT, Packed, Packer, Turn
from heads.llm.model import CutOff
from heads.models.language_model import LanguageModel
from heads.training.recipe import ProjectorOptions
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import system

HELD = 24
"""characters"""
Say = Callable[[str], None]
"""receives the text that a token adds to the answer: whole words, often nothing; its exception ends
the generation"""


class Tokens:
    """Calls a function after every token: the `streamer` of transformers' generate. Its exception
    ends that."""

    def __init__(self, each: Callable[[], None]) -> None:
        self._each = each

    def put(self, value: Tensor) -> None:
        """Take the prompt [B, L], or the next token of every row [B]."""
        if value.ndim == 1:
            self._each()

    def end(self) -> None:
        """Take the end of the generation."""


class Words:
    """Passes on each word of one answer once the next one begins, or the answer ends.

    The last HELD characters of a word that goes on are held back, because the next token may change
    them, for example characters of a cut-off byte sequence. So only words that are longer, as in
    scripts without spaces, arrive in parts.
    """

    def __init__(self, decode: Callable[[list[int]], str], say: Say) -> None:
        """decode: token ids of the answer so far -> its text; say: receives the new text."""
        self._decode, self._say = decode, say
        self._ids: list[int] = []
        self._passed = ""

    def put(self, value: Tensor) -> None:
        """Take the prompt [1, L], or the next token [1]."""
        if value.ndim > 1:
            return
        self._ids += value.tolist()
        text = self._decode(self._ids)
        last = "" if text[-1:].isspace() else (text.split() or [""])[-1]
        self._pass_on(text[: len(text) - min(len(last), HELD)].rstrip())

    def end(self) -> None:
        """Take the end of the generation."""
        self._pass_on(self._decode(self._ids))

    def _pass_on(self, text: str) -> None:
        new = text[len(self._passed) :] if text.startswith(self._passed) else ""
        self._passed += new
        self._say(new)


class PerceiverLayer(nn.Module):
    """Latents attend to the clip's tokens and to themselves, then a feed-forward block; pre-norm,
    residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.latent_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, latents: Float[Tensor, "C L W"], tokens: Float[Tensor, "C N W"]
    ) -> Float[Tensor, "C L W"]:
        normed = self.latent_norm(latents)
        query = self.query(normed)
        key, value = self.key_value(torch.cat([tokens, normed], dim=1)).chunk(2, dim=-1)
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        latents = latents + self.out(attended.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(latents)


class Projector(nn.Module):
    """Perceiver and linear layer: tokens [C clips, N tokens, D channels] -> [C, outputs, out_dim]
    (supplement, S3).

    Tokens are frame-major; learned embeddings of the frame and of the place within the frame are
    added, because a Perceiver alone sees a set.
    """

    def __init__(
        self, options: ProjectorOptions, tokens: int, channels: int, out_dim: int, out_std: float
    ) -> None:
        super().__init__()
        frames = options.frames
        if tokens % frames:
            raise StepDiffError(
                f"{tokens} tokens per clip do not divide into {frames} frames: set projector.frames"
            )
        width = options.width
        self.input = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.frame_time = nn.Parameter(0.02 * torch.randn(frames, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens // frames, width))
        self.latents = nn.Parameter(0.02 * torch.randn(options.outputs, width))
        self.token_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            PerceiverLayer(width, options.heads) for _ in range(options.layers)
        )
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_dim)
        nn.init.normal_(self.output.weight, std=out_std / width**0.5)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, tokens: Float[Tensor, "C N D"], leave_out: float = 0.0
    ) -> Float[Tensor, "C L E"]:
        """Project. leave_out: share of the tokens to drop, the same of all clips, drawn by torch's
        seed."""
        place = (self.frame_time + self.position).flatten(0, 1)
        if leave_out:
            count = tokens.shape[1]
            chosen = torch.randperm(count, device="cpu")[
                : max(1, round(count * (1 - leave_out)))
            ].to(tokens.device)
            tokens, place = tokens[:, chosen], place[chosen]
        tokens = self.token_norm(self.input(tokens) + place)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(latents, tokens)
        return self.output(self.output_norm(latents))


class VideoLM(nn.Module):
    def __init__(self, lm: LanguageModel, projector: Projector | nn.Identity, outputs: int) -> None:
        super().__init__()
        self.lm = lm
        self.projector = projector
        self.outputs = outputs
        self.packer = Packer(lm.chat, outputs)
        self.blind_packer = Packer(lm.chat, 0)

    def packer_of(self, count: int | None, blind: bool) -> Packer:
        """Return the builder of prompts that show `count` clips; None: as many as the model usually
        compares."""
        usual = self.blind_packer if blind else self.packer
        return (
            usual
            if count in (None, usual.clips)
            else Packer(self.lm.chat, usual.outputs, system(count))
        )

    def pack(
        self,
        prompts: Sequence[Sequence[Turn]],
        clips: Float[Tensor, "C L E"] | None,
        packed: bool,
        count: int | None = None,
    ) -> tuple[Packed, Float[Tensor, "C L E"] | None]:
        """Return rows for all questions of the prompts, and their clips; None: the blind control.

        count: the number of clips of a prompt, as `packer_of` takes it.
        """
        packer = self.packer_of(count, blind=clips is None)
        return packer.pack(prompts, packed).to(self.lm.device), clips

    def token_losses(
        self, batch: Packed, clips: Float[Tensor, "C L E"] | None, exact: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return negative log-likelihood [K] and turn number [K] of every target token of the
        batch.

        clips: projected tokens, in the order of the batch's numbers; None for the blind control.
        exact: compute logits in float32, not in the precision of autocast.
        """
        hidden = self.hidden(batch, clips)
        places = batch.targets != NO_TARGET
        logits = (self.lm.exact_logits if exact else self.lm.logits)(hidden[places]).float()
        losses = functional.cross_entropy(logits, batch.targets[places], reduction="none")
        return losses, batch.turn[places]

    def hidden(self, batch: Packed, clips: Float[Tensor, "C L E"] | None) -> Float[Tensor, "B S E"]:
        """Return the last hidden states of the batch's tokens."""
        return self.lm.hidden(self.embed(batch, clips), batch.segment, batch.positions)

    def embed(self, batch: Packed, clips: Float[Tensor, "C L E"] | None) -> Float[Tensor, "B S E"]:
        """Return the input embeddings of the batch's tokens, with the clips in its video slots."""
        embeddings = self.lm.embed(batch.ids)
        if clips is None:
            return embeddings
        slots = batch.video != TEXT
        shown = clips.flatten(0, 1)[batch.video[slots]]
        return embeddings.masked_scatter(slots[..., None], shown.to(embeddings.dtype))

    def project(self, tokens: Float[Tensor, "C N D"]) -> Float[Tensor, "C L E"]:
        return self.projector(tokens.to(self.lm.device))

    @torch.inference_mode()
    def log_likelihoods(
        self,
        pairs: Sequence[Sequence[Turn]],
        clips: Float[Tensor, "C L E"] | None,
        mean: bool,
        count: int | None = None,
    ) -> list[list[float]]:
        """Return, for each pair and turn, the sum of the answer's log-likelihood, or its mean over
        the tokens.

        count: the number of clips of a prompt, as `packer_of` takes it.
        """
        # bfloat16 logits above 16 are 0.125 apart: likely answers of similar videos would tie or
        # swap.
        losses, turn = self.token_losses(*self.pack(pairs, clips, self.lm.packs, count), exact=True)
        total = sum(len(turns) for turns in pairs)
        sums = torch.zeros(total, dtype=torch.float64).index_add_(
            0, turn.cpu(), -losses.double().cpu()
        )
        if mean:
            sums /= torch.bincount(turn.cpu(), minlength=total)
        values = iter(sums.tolist())
        return [[next(values) for _ in turns] for turns in pairs]

    @torch.inference_mode()
    def generate(
        self,
        turns: Sequence[Turn],
        clips: Float[Tensor, "C L E"] | None,
        max_tokens: int,
        streamer: Tokens | Words | None = None,
        count: int | None = None,
    ) -> list[str]:
        """Return greedy answers to one question about each pair, after the words of Turn.seed;
        CutOff: one that max_tokens ended.

        streamer: receives the tokens as they are generated; count: as `packer_of` takes it.
        """
        packed = self.pack([[turn] for turn in turns], clips, True, count)
        return self.go_on(*packed, max_new_tokens=max_tokens, streamer=streamer)

    def go_on(self, batch: Packed, clips: Float[Tensor, "C L E"] | None, **how: Any) -> list[str]:
        """Return the greedy continuation of every row; how: further arguments of transformers'
        generate."""
        columns = columns_to_front(batch.segment)
        embeddings = self.embed(batch, clips)
        return self.write(
            inputs_embeds=embeddings.gather(1, columns[..., None].expand_as(embeddings)),
            attention_mask=(batch.segment != PADDING).gather(1, columns).long(),
            **how,
        )

    def write(self, **inputs: Any) -> list[str]:
        """Return the greedy continuation of the language model's inputs."""
        tokenizer = self.lm.chat.tokenizer
        written = self.lm.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # overrides the checkpoint's own settings
            no_repeat_ngram_size=0,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        # After ids the whole text is returned, after embeddings only what is new.
        new = written[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else written
        ends = self.lm.model.generation_config.eos_token_id
        stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        full = new.shape[1] == inputs["max_new_tokens"]
        return [
            (CutOff if full and stops.isdisjoint(ids.tolist()) else str)(self.decode(ids))
            for ids in new
        ]

    def decode(self, ids: Sequence[int] | Int[Tensor, " L"]) -> str:
        """Return the text of an answer's tokens."""
        return str(self.lm.chat.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def columns_to_front(segment: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Return each row's columns, padding first, so that the continuation follows the last
    column."""
    return (segment != PADDING).int().argsort(dim=1, stable=True)
