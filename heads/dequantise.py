"""int8 features of the store become numbers on the device that uses them: a quarter of the bytes travel.

Guarantees
- the values are those of the store's own kernel, to the bit
"""

import torch
from jaxtyping import Float, Float16, Int8
from torch import Tensor
from torch.nn.functional import pad

from store.format.quantise import BLOCK


def dequantise(
    levels: Int8[Tensor, "*axes D"], scale: Float16[Tensor, "*axes blocks"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*axes D"]:
    """levels * scale of its block of 64 channels, in `dtype`; a float16 stops at 65504."""
    channels = levels.shape[-1]
    blocks = pad(levels, (0, -channels % BLOCK)).unflatten(-1, (-1, BLOCK)).float()
    values = (blocks * scale.float().unsqueeze(-1)).flatten(-2)[..., :channels]
    if dtype == torch.float16:
        values = values.clamp(-65504, 65504)
    return values.to(dtype)
