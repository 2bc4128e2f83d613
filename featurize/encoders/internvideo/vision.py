"""The video tower of InternVideo-MM: a ViT that sees frames one by one, and extractors that read all frames of a clip.

Behind each of the last blocks an extractor lets one learned query look at the tokens of all frames.
Frames meet there alone, so what the ViT makes of a frame does not depend on the others.

Notation: B clips, T frames, F frames of any clips, N tokens of a frame (its class token, then its patches row by
row), D channels, H W pixels.
"""

import torch
from jaxtyping import Float
from torch import nn

from featurize.encoders.internvideo_layers import Block

EXTRACTORS = 4


class Extractor(Block):
    """A block in which a query looks at tokens, normalised by themselves."""

    def __init__(self, width: int) -> None:
        """`width` channels D."""
        super().__init__(width)
        self.ln_3 = nn.LayerNorm(width)

    def forward(  # type: ignore[override]
        self, query: Float[torch.Tensor, "B 1 D"], tokens: Float[torch.Tensor, "B N D"]
    ) -> Float[torch.Tensor, "B 1 D"]:
        """The query, with what it found."""
        query = query + self.attn.look(self.ln_1(query), self.ln_3(tokens))
        return query + self.mlp(self.ln_2(query))


class Transformer(nn.Module):
    """The ViT's blocks and the extractors behind the last of them."""

    def __init__(self, width: int, layers: int) -> None:
        """`width` channels D, `layers` blocks, EXTRACTORS or more."""
        super().__init__()
        self.temporal_cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.balance = nn.Parameter(torch.empty(width))
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.dpe = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1, groups=width) for _ in range(EXTRACTORS))
        self.dec = nn.ModuleList(Extractor(width) for _ in range(EXTRACTORS))

    def forward(self, tokens: Float[torch.Tensor, "F N D"]) -> tuple[Float[torch.Tensor, "F N D"], ...]:
        """What each of the last EXTRACTORS blocks gives."""
        kept = []
        for place, block in enumerate(self.resblocks, EXTRACTORS - len(self.resblocks)):
            tokens = block(tokens)
            if place >= 0:
                kept.append(tokens)
        return tuple(kept)

    def extract(self, states: tuple[Float[torch.Tensor, "B T N D"], ...]) -> Float[torch.Tensor, "B D"]:
        """One vector a clip out of what `forward` gave for its frames."""
        query = self.temporal_cls_token.expand(len(states[0]), 1, -1)
        for state, position, extractor in zip(states, self.dpe, self.dec, strict=True):
            query = extractor(query, _placed(state, position).flatten(1, 2))
        share = self.balance.sigmoid()
        return (1 - share) * query[:, 0] + share * states[-1][:, :, 0].mean(1)


class VideoTower(nn.Module):
    """Frames in; tokens of frames and one vector a clip out."""

    def __init__(self, image: int, patch: int, width: int, layers: int) -> None:
        """`image` pixels of a frame's side, `patch` of a patch's, `width` channels D, `layers` blocks."""
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + (image // patch) ** 2, width))
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), stride=(1, patch, patch), bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers)

    def forward(self, frames: Float[torch.Tensor, "F 3 H W"]) -> tuple[Float[torch.Tensor, "F N D"], ...]:
        """The class token and the patches of each frame behind each of the last EXTRACTORS blocks."""
        patches = self.conv1(frames.unsqueeze(2)).flatten(2).transpose(1, 2)
        classes = self.class_embedding.expand(len(frames), 1, -1)
        tokens = torch.cat([classes, patches], 1) + self.positional_embedding
        return self.transformer(self.ln_pre(tokens))


def _placed(state: Float[torch.Tensor, "B T N D"], position: nn.Module) -> Float[torch.Tensor, "B T N D"]:
    """The tokens, to whose patches a convolution over frame, height and width is added."""
    patches = state[:, :, 1:]
    side = round(patches.shape[2] ** 0.5)
    grid = patches.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    moved = position(grid).permute(0, 2, 3, 4, 1).flatten(2, 3)
    return torch.cat([state[:, :, :1], patches + moved], 2)
