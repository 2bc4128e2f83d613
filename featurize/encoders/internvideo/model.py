"""InternVideo-MM as a torch module: a video tower and CLIP's text tower, with embeddings in one
space.

The video tower is a ViT that reads frames one by one, and extractors that read all frames of a
clip: after each of the last blocks an extractor lets one learned query attend to the tokens of all
frames. Only there do frames meet, so the ViT's output for a frame does not depend on the others.

Attributes are named as the published checkpoint names its tensors. Notation: B clips (of attention:
sequences), T frames, F frames of any clips, N tokens of a frame (its class token, then its patches
row by row), M = T * (N - 1) patch tokens of a clip, D channels, E numbers of an embedding, H W
pixels.

Guarantees
- the numbers are those of the published model, within 1e-4 of the largest of each array
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import nn
from torch.nn import functional

HEAD = 64  # channels of an attention head, in every published size


class Attention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, tokens: Float[torch.Tensor, "B N D"], causal: bool = False
    ) -> Float[torch.Tensor, "B N D"]:
        """Every token attends to all tokens; with `causal` to no later one."""
        mixed = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        return self._attend(*mixed.chunk(3, -1), causal=causal)

    def look(
        self, query: Float[torch.Tensor, "B Q D"], tokens: Float[torch.Tensor, "B N D"]
    ) -> Float[torch.Tensor, "B Q D"]:
        """Every query attends to all tokens."""
        width = query.shape[-1]
        q = functional.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
        kv = functional.linear(tokens, self.in_proj_weight[width:], self.in_proj_bias[width:])
        return self._attend(q, *kv.chunk(2, -1), causal=False)

    def _attend(self, *qkv: torch.Tensor, causal: bool) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in qkv)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two layers with QuickGELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, tokens: Float[torch.Tensor, "B N D"]) -> Float[torch.Tensor, "B N D"]:
        inner = self.c_fc(tokens)
        return self.c_proj(inner * torch.sigmoid(1.702 * inner))


class ResidualBlock(nn.Module):
    """A transformer block with its LayerNorms in front."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Perceptron(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[torch.Tensor, "B N D"], causal: bool = False
    ) -> Float[torch.Tensor, "B N D"]:
        tokens = tokens + self.attn(self.ln_1(tokens), causal)
        return tokens + self.mlp(self.ln_2(tokens))


def halve(model: nn.Module) -> None:
    """Keep the weights of matrix products in bf16, as autocast would cast them again at every
    call."""
    for part in model.modules():
        if isinstance(part, Attention | nn.Linear | nn.Conv3d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()


EXTRACTORS = 4


class Extractor(ResidualBlock):
    """A block in which a query looks at tokens, normalised by themselves."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.ln_3 = nn.LayerNorm(width)

    def forward(  # type: ignore[override]
        self, query: Float[torch.Tensor, "B 1 D"], tokens: Float[torch.Tensor, "B N D"]
    ) -> Float[torch.Tensor, "B 1 D"]:
        """Return the query with what it found."""
        query = query + self.attn.look(self.ln_1(query), self.ln_3(tokens))
        return query + self.mlp(self.ln_2(query))


class Transformer(nn.Module):
    """The ViT's blocks and the extractors after the last of them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.temporal_cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.balance = nn.Parameter(torch.empty(width))
        self.resblocks = nn.ModuleList(ResidualBlock(width) for _ in range(layers))
        self.dpe = nn.ModuleList(
            nn.Conv3d(width, width, 3, padding=1, groups=width) for _ in range(EXTRACTORS)
        )
        self.dec = nn.ModuleList(Extractor(width) for _ in range(EXTRACTORS))

    def forward(
        self, tokens: Float[torch.Tensor, "F N D"]
    ) -> tuple[Float[torch.Tensor, "F N D"], ...]:
        """Return what each of the last EXTRACTORS blocks gives."""
        states = []
        for place, block in enumerate(self.resblocks, EXTRACTORS - len(self.resblocks)):
            tokens = block(tokens)
            if place >= 0:
                states.append(tokens)
        return tuple(states)

    def extract(
        self, states: tuple[Float[torch.Tensor, "B T N D"], ...]
    ) -> Float[torch.Tensor, "B D"]:
        """Return one vector a clip, from what `forward` gives for its frames."""
        query = self.temporal_cls_token.expand(len(states[0]), 1, -1)
        for state, position, extractor in zip(states, self.dpe, self.dec, strict=True):
            query = extractor(query, _placed(state, position).flatten(1, 2))
        share = self.balance.sigmoid()
        return (1 - share) * query[:, 0] + share * states[-1][:, :, 0].mean(1)


class VideoTower(nn.Module):
    """Frames in; tokens of frames and one vector a clip out."""

    def __init__(self, image: int, patch: int, width: int, layers: int) -> None:
        """`image` pixels of a frame's side, `patch` of a patch's, `width` channels D, `layers`
        blocks."""
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + (image // patch) ** 2, width))
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), stride=(1, patch, patch), bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers)

    def forward(
        self, frames: Float[torch.Tensor, "F 3 H W"]
    ) -> tuple[Float[torch.Tensor, "F N D"], ...]:
        """Return the class token and the patches of each frame after each of the last EXTRACTORS
        blocks."""
        patches = self.conv1(frames.unsqueeze(2)).flatten(2).transpose(1, 2)
        classes = self.class_embedding.expand(len(frames), 1, -1)
        tokens = torch.cat([classes, patches], 1) + self.positional_embedding
        return self.transformer(self.ln_pre(tokens))


def _placed(
    state: Float[torch.Tensor, "B T N D"], position: nn.Module
) -> Float[torch.Tensor, "B T N D"]:
    """Return the tokens, to whose patches a convolution over frame, height and width is added."""
    patches = state[:, :, 1:]
    side = round(patches.shape[2] ** 0.5)
    grid = patches.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    moved = position(grid).permute(0, 2, 3, 4, 1).flatten(2, 3)
    return torch.cat([state[:, :, :1], patches + moved], 2)


@dataclass(frozen=True)
class Size:
    """The sizes of a model."""

    patch: int  # pixels of a patch's side
    width: int  # channels D of the video tower, a multiple of 64 as `text_width` is
    layers: int  # blocks of the video tower, 4 or more
    embedding: int  # numbers E of an embedding
    text_width: int  # channels of the text tower
    text_layers: int = 12
    image: int = 224  # pixels of a frame's side
    vocabulary: int = 49408  # token ids, the last of which ends a text
    context: int = 77  # tokens of a text

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
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(width) for _ in range(layers))

    def forward(self, tokens: Float[torch.Tensor, "B N D"]) -> Float[torch.Tensor, "B N D"]:
        """No token sees a later one."""
        for block in self.resblocks:
            tokens = block(tokens, causal=True)
        return tokens


class InternVideoMM(nn.Module):
    """Both towers. Weights are uninitialised until a checkpoint is loaded."""

    def __init__(self, size: Size) -> None:
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
        """Return embeddings, not L2-normalised, and frame-major patch tokens of normalised
        pixels."""
        states = self.visual(pixels.transpose(1, 2).flatten(0, 1))
        return self.read_clips(tuple(state.unflatten(0, (len(pixels), -1)) for state in states))

    def read_clips(
        self, states: tuple[Float[torch.Tensor, "B T N D"], ...]
    ) -> tuple[Float[torch.Tensor, "B E"], Float[torch.Tensor, "B M D"]]:
        """Return what `encode_video` gives, from what the video tower makes of the clips'
        frames."""
        embedding = self.visual_ln_post(self.visual.transformer.extract(states)) @ self.visual_proj
        return embedding, states[-1][:, :, 1:].flatten(1, 2)

    def encode_text(self, ids: Int64[torch.Tensor, "B context"]) -> Float[torch.Tensor, "B E"]:
        """Return embeddings, not L2-normalised, read where each text ends: at the first of its
        largest id."""
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        tokens = self.ln_final(self.transformer(tokens))
        return tokens[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection
