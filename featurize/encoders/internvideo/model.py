"""InternVideo-MM as a torch module: the video tower and CLIP's text tower, in one space.

Its tensors have the names and shapes of the published checkpoint. Notation: B batch, T frames, F frames of any clips,
N tokens of a frame (its class token, then its patches), M = T * (N - 1) patch tokens of a clip, D channels, E numbers
of an embedding.

Guarantees
- the numbers are those of the published model, within 1e-4 of the largest of each array
  (`test_outputs_equal_those_of_the_published_model`)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import nn

from featurize.encoders.internvideo.vision import Block, VideoTower


@dataclass(frozen=True)
class Size:
    """The sizes of a model."""

    patch: int
    """pixels of a patch's side"""
    width: int
    """channels D of the video tower, a multiple of 64 as `text_width` is"""
    layers: int
    """blocks of the video tower, 4 or more"""
    embedding: int
    """numbers E of an embedding"""
    text_width: int
    """channels of the text tower"""
    text_layers: int = 12
    """blocks of the text tower"""
    image: int = 224
    """pixels of a frame's side"""
    vocabulary: int = 49408
    """token ids, the last of which ends a text"""
    context: int = 77
    """tokens of a text"""

    @property
    def patches(self) -> int:
        """Patches P of a frame."""
        return (self.image // self.patch) ** 2


SIZES = {
    "internvideo-mm-b16": Size(patch=16, width=768, layers=12, embedding=512, text_width=512),
    "internvideo-mm-l14": Size(patch=14, width=1024, layers=24, embedding=768, text_width=768),
}


class TextBlocks(nn.Module):
    """The blocks of the text tower."""

    def __init__(self, width: int, layers: int) -> None:
        """`layers` blocks of `width` channels D."""
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, tokens: Float[torch.Tensor, "B N D"]) -> Float[torch.Tensor, "B N D"]:
        """No token sees a later one."""
        for block in self.resblocks:
            tokens = block(tokens, causal=True)
        return tokens


class InternVideoMM(nn.Module):
    """Both towers. Weights are uninitialised until a checkpoint is loaded."""

    def __init__(self, size: Size) -> None:
        """A model of that size."""
        super().__init__()
        self.visual = VideoTower(size.image, size.patch, size.width, size.layers)
        self.visual_ln_post = nn.LayerNorm(size.width)
        self.visual_proj = nn.Parameter(torch.empty(size.width, size.embedding))
        self.token_embedding = nn.Embedding(size.vocabulary, size.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(size.context, size.text_width))
        self.transformer = TextBlocks(size.text_width, size.text_layers)
        self.ln_final = nn.LayerNorm(size.text_width)
        self.text_projection = nn.Parameter(torch.empty(size.text_width, size.embedding))
        # of the training alone, but every checkpoint has them
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.text_mask_embedding = nn.Parameter(torch.empty(1, 1, size.text_width))

    def encode_video(
        self, pixels: Float[torch.Tensor, "B 3 T H W"]
    ) -> tuple[Float[torch.Tensor, "B E"], Float[torch.Tensor, "B M D"]]:
        """Embeddings, not L2-normalised, and frame-major patch tokens of normalised pixels."""
        states = self.visual(pixels.transpose(1, 2).flatten(0, 1))
        return self.read_clips(tuple(state.unflatten(0, (len(pixels), -1)) for state in states))

    def read_clips(
        self, states: tuple[Float[torch.Tensor, "B T N D"], ...]
    ) -> tuple[Float[torch.Tensor, "B E"], Float[torch.Tensor, "B M D"]]:
        """What `encode_video` gives, from what the video tower makes of the clips' frames."""
        embedding = self.visual_ln_post(self.visual.transformer.extract(states)) @ self.visual_proj
        return embedding, states[-1][:, :, 1:].flatten(1, 2)

    def encode_text(self, ids: Int64[torch.Tensor, "B context"]) -> Float[torch.Tensor, "B E"]:
        """Embeddings, not L2-normalised, read where each text ends: at the first of its largest id."""
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        tokens = self.ln_final(self.transformer(tokens))
        return tokens[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection
