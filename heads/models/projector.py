"""M_Proj: a Perceiver that maps a clip's frozen tokens to a few tokens in the language model's input space.

Guarantees
- the output starts at the scale of the language model's own input embeddings
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from heads.training.recipe import ProjectorOptions
from stepdiff.common.errors import StepDiffError


class PerceiverLayer(nn.Module):
    """Latents attend to the clip's tokens and to themselves, then a feed-forward block; pre-norm, residual."""

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

    def forward(self, latents: Float[Tensor, "C L W"], tokens: Float[Tensor, "C N W"]) -> Float[Tensor, "C L W"]:
        normed = self.latent_norm(latents)
        query = self.query(normed)
        key, value = self.key_value(torch.cat([tokens, normed], dim=1)).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value)
        latents = latents + self.out(attended.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(latents)


class Projector(nn.Module):
    """Perceiver and linear layer: tokens [C clips, N tokens, D channels] -> [C, outputs, out_dim] (supplement, S3).

    Tokens are frame-major; learned embeddings of the frame and of the place within the frame are added, because a
    Perceiver alone sees a set.
    """

    def __init__(self, options: ProjectorOptions, tokens: int, channels: int, out_dim: int, out_std: float) -> None:
        super().__init__()
        frames = options.frames
        if tokens % frames:
            raise StepDiffError(f"{tokens} tokens per clip do not divide into {frames} frames: set projector.frames")
        width = options.width
        self.input = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.frame_time = nn.Parameter(0.02 * torch.randn(frames, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens // frames, width))
        self.latents = nn.Parameter(0.02 * torch.randn(options.outputs, width))
        self.token_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PerceiverLayer(width, options.heads) for _ in range(options.layers))
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_dim)
        nn.init.normal_(self.output.weight, std=out_std / width**0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Float[Tensor, "C N D"], leave_out: float = 0.0) -> Float[Tensor, "C L E"]:
        """Project. leave_out: share of the tokens to drop, the same of all clips, drawn by torch's seed."""
        place = (self.frame_time + self.position).flatten(0, 1)
        if leave_out:
            count = tokens.shape[1]
            chosen = torch.randperm(count, device="cpu")[: max(1, round(count * (1 - leave_out)))].to(tokens.device)
            tokens, place = tokens[:, chosen], place[chosen]
        tokens = self.token_norm(self.input(tokens) + place)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            latents = layer(latents, tokens)
        return self.output(self.output_norm(latents))
