"""Spatial pooling of tokens: the mean of P x P neighbouring patches of each frame.

A view's tokens are frame by frame (or time step by time step), row by row of a square grid. The provenance records
pooling at the end of the layer: `last hidden state, patch tokens; mean of 2 x 2 patches`.

Guarantees
- the bits of a row depend on the row only: patches are added one after another in float32
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32

from stepdiff.common.errors import StepDiffError
from store.provenance import Feature, Provenance

TOKENS = "tokens"
"""the feature that is pooled"""
_POOLED = re.compile(r"; mean of (\d+) x (\d+) patches\Z")


def pooled(tokens: Float[np.ndarray, "K N D"], steps: int, pool: int) -> Float32[np.ndarray, "K n D"]:
    """Return tokens of `steps` square grids, each `pool` x `pool` patches averaged: n is N / pool^2."""
    count, number, channels = tokens.shape
    side = math.isqrt(number // steps)
    grid = tokens.reshape(count, steps, side // pool, pool, side // pool, pool, channels)
    total = grid[:, :, :, 0, :, 0].astype(np.float32)
    for place in range(1, pool * pool):
        total += grid[:, :, :, place // pool, :, place % pool]
    total /= np.float32(pool * pool)
    return total.reshape(count, -1, channels)


def pooled_view(
    made: Provenance, features: Mapping[str, Feature], pool: int
) -> tuple[Provenance, dict[str, Feature], int]:
    """Return provenance and features of a view whose tokens are pooled, and its `steps`.

    Raises StepDiffError where they cannot be.
    """
    if pool < 1:
        raise StepDiffError(f"--pool {pool} is too small: give 2 or more, or 1 for no pooling")
    tokens = features.get(TOKENS)
    if tokens is None or len(tokens.shape) != 2 or "layout" in features:  # of a video language model: no squares
        raise StepDiffError(f"--pool is for views with tokens of patches: this one has {', '.join(features)}")
    number, channels = tokens.shape
    steps = time_steps(number, made.frames)
    side = math.isqrt(number // steps)
    if side % pool:
        divisors = [str(n) for n in range(2, side + 1) if side % n == 0]
        raise StepDiffError(f"--pool {pool} does not divide {side} x {side} patches: give {' or '.join(divisors)}")
    if pool == 1:
        return made, dict(features), steps
    smaller = replace(tokens, shape=(number // pool**2, channels))
    layer = f"{made.layer}; mean of {pool} x {pool} patches"
    return replace(made, layer=layer), {**features, TOKENS: smaller}, steps


def time_steps(number: int, frames: str) -> int:
    """Return how many square grids `number` tokens are: one a frame, or one for two frames.

    frames: the provenance's rule, which begins with the number of frames. StepDiffError where they are no squares.
    """
    count = re.match(r"\d+", frames)
    if count is None or not int(count[0]):
        raise StepDiffError(f"--pool needs the number of frames, and the frame rule {frames!r} does not begin with one")
    shown = int(count[0])
    for steps in (shown, shown // 2) if shown % 2 == 0 else (shown,):
        if number % steps == 0 and math.isqrt(number // steps) ** 2 == number // steps:
            return steps
    raise StepDiffError(f"{number} tokens of {shown} frames are no square grids of patches: they cannot be pooled")


def pool_of(made: Provenance) -> int:
    """Return the side of the squares that a view's tokens are the means of; 1 where they are not pooled."""
    match = _POOLED.search(made.layer)
    return int(match[1]) if match else 1


def unpooled(made: Provenance) -> Provenance:
    """Return the provenance before pooling."""
    return replace(made, layer=_POOLED.sub("", made.layer))
