"""What both towers of InternVideo-MM are made of: attention, the perceptron, and the block of the two.

Attributes are named as the published checkpoint names its tensors. Notation: B sequences, N tokens, D channels.
"""

import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

HEAD = 64
"""channels of an attention head, in every published size"""


class Attention(nn.Module):
    """Multi-head attention with one matrix for queries, keys and values."""

    def __init__(self, width: int) -> None:
        """`width` channels D, a multiple of HEAD."""
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Float[torch.Tensor, "B N D"], causal: bool = False) -> Float[torch.Tensor, "B N D"]:
        """Every token looks at all tokens; `causal`: at none behind it."""
        mixed = functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        return self._attend(*mixed.chunk(3, -1), causal=causal)

    def look(
        self, query: Float[torch.Tensor, "B Q D"], tokens: Float[torch.Tensor, "B N D"]
    ) -> Float[torch.Tensor, "B Q D"]:
        """Every query looks at all tokens."""
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
        """`width` channels D in and out, four times as many inside."""
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, tokens: Float[torch.Tensor, "B N D"]) -> Float[torch.Tensor, "B N D"]:
        """Each token by itself."""
        inner = self.c_fc(tokens)
        return self.c_proj(inner * torch.sigmoid(1.702 * inner))


class Block(nn.Module):
    """A transformer block with its LayerNorms in front."""

    def __init__(self, width: int) -> None:
        """`width` channels D."""
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Perceptron(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, tokens: Float[torch.Tensor, "B N D"], causal: bool = False) -> Float[torch.Tensor, "B N D"]:
        """`causal`: no token sees one behind it."""
        tokens = tokens + self.attn(self.ln_1(tokens), causal)
        return tokens + self.mlp(self.ln_2(tokens))


def halve(model: nn.Module) -> None:
    """Keep the weights of matrix products in bf16, as autocast would cast them again at every call."""
    for part in model.modules():
        if isinstance(part, Attention | nn.Linear | nn.Conv3d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
