"""Spatial pooling of tokens: the mean of P x P neighbouring patches of each frame.

A view's tokens are frame by frame (or time step by time step), row by row of a grid, which is
square except in views of video language models; their encoder pools, because only it knows the
grid. The provenance records pooling at the end of the layer: `last hidden state, patch tokens; mean
of 2 x 2 patches`.

Guarantees
- the bits of a row depend on the row only: patches are added one after another in float32
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from stepdiff_core.errors import StepDiffError
from store.provenance import Feature, Provenance

TOKENS = "tokens"
"""the feature that is pooled"""
_POOLED = re.compile(r"; mean of (\d+) x (\d+) patches\Z")


Grids = tuple[int, int, int]
"""how many grids a clip's tokens are, their rows and their columns"""


def pooled(
    tokens: Float[np.ndarray, "K N D"], grids: Grids, pool: int
) -> Float32[np.ndarray, "K n D"]:
    """Return tokens averaged over squares of `pool` x `pool` patches, at the edges over the patches
    that there are."""
    count, _, channels = tokens.shape
    grid = tokens.reshape(count, *grids, channels)
    total = grid[:, :, ::pool, ::pool].astype(np.float32)
    patches = np.ones(total.shape[2:4], np.float32)
    for place in range(1, pool * pool):
        more = grid[:, :, place // pool :: pool, place % pool :: pool]
        within = np.s_[: more.shape[2], : more.shape[3]]
        total[:, :, *within] += more
        patches[within] += 1
    total /= patches[:, :, None]
    return total.reshape(count, -1, channels)


def pooled_view(
    made: Provenance, features: Mapping[str, Feature], pool: int
) -> tuple[Provenance, dict[str, Feature], Grids]:
    """Return provenance and features of a view whose tokens are pooled, and the grids before.

    Raises StepDiffError if they cannot be.
    """
    if pool < 1:
        raise StepDiffError(f"--pool {pool} is too small: give 2 or more, or 1 for no pooling")
    tokens = features.get(TOKENS)
    if tokens is not None and "layout" in features:
        raise StepDiffError(
            "tokens of a video language model are pooled as they are computed: featurize --pool"
        )
    if tokens is None or len(tokens.shape) != 2:
        raise StepDiffError(
            f"--pool is for views with tokens of patches: this one has {', '.join(features)}"
        )
    number, channels = tokens.shape
    grids = square_grids(number, made.frames)
    side = grids[1]
    if side % pool:
        divisors = [str(n) for n in range(2, side + 1) if side % n == 0]
        raise StepDiffError(
            f"--pool {pool} does not divide {side} x {side} patches: give {' or '.join(divisors)}"
        )
    if pool == 1:
        return made, dict(features), grids
    smaller = replace(tokens, shape=(number // pool**2, channels))
    return replace(made, layer=pooled_layer(made.layer, pool)), {**features, TOKENS: smaller}, grids


def pooled_layer(layer: str, pool: int) -> str:
    """Return the layer of a provenance, pooled."""
    return f"{layer}; mean of {pool} x {pool} patches" if pool > 1 else layer


def square_grids(number: int, frames: str) -> Grids:
    """Return the square grids that `number` tokens are: one a frame, or one for two frames.

    frames: the provenance's rule, which begins with the number of frames. StepDiffError if they are
    no squares.
    """
    count = re.match(r"\d+", frames)
    if count is None or not int(count[0]):
        raise StepDiffError(
            f"--pool needs the number of frames, and the frame rule {frames!r} does not begin with "
            "one"
        )
    shown = int(count[0])
    for steps in (shown, shown // 2) if shown % 2 == 0 else (shown,):
        if number % steps == 0 and math.isqrt(number // steps) ** 2 == number // steps:
            return steps, math.isqrt(number // steps), math.isqrt(number // steps)
    raise StepDiffError(
        f"{number} tokens of {shown} frames are no square grids of patches: they cannot be pooled"
    )


def pool_of(made: Provenance) -> int:
    """Return the side of the squares that a view's tokens are the means of; 1 if they are not
    pooled."""
    match = _POOLED.search(made.layer)
    return int(match[1]) if match else 1


def unpooled(made: Provenance) -> Provenance:
    """Return the provenance before pooling."""
    return replace(made, layer=_POOLED.sub("", made.layer))
