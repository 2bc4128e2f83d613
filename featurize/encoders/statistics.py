"""Statistics of early maps: mean, maximum, minimum and deviation of each channel over all frames of a clip.

Early layers see shades and textures that the last one has lost, and their statistics need few bytes.

Guarantees
- a clip's statistics come from one summary of each of its frames, which are encoded as for tokens: they depend on other
  clips no more than tokens do
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Float32
from torch import Tensor


def summaries(maps: Iterable[Float[Tensor, "N _ _"]]) -> Float32[Tensor, "N 4 C"]:
    """Return mean, maximum, minimum and variance of each channel over the places of each of N frames.

    maps: [N, places, channels]; their channels follow one another.
    """
    parts = []
    for values in (one.float() for one in maps):
        mean = values.mean(1, keepdim=True)
        variance = (values - mean).square_().mean(1)
        parts.append(torch.stack([mean[:, 0], values.amax(1), values.amin(1), variance], 1))
    return torch.cat(parts, 2)


def statistics_of(frames: Float32[Tensor, "B T 4 C"]) -> Float32[Tensor, "B 4 C"]:
    """Return mean, maximum, minimum and standard deviation over all frames from the summaries of each."""
    means, highest, lowest, variances = frames.unbind(2)
    mean = means.mean(1, keepdim=True)
    variance = variances.mean(1) + (means - mean).square().mean(1)  # within the frames, and between them
    return torch.stack([mean[:, 0], highest.amax(1), lowest.amin(1), variance.sqrt()], 1)
