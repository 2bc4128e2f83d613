"""Frames that repeat the one before them are encoded once: a still image is one frame, eight times.

What it saves depends on the batch, for chunks are filled up: four stills take one chunk of 16 instead of two.

Guarantees
- a frame's features are those of encoding every frame (`test_repeated_frames_are_encoded_once`)
- on the CPU a frame's bits do not depend on which frames are encoded beside it, nor on how many
  (`test_a_frame_has_the_same_bits_beside_other_frames`)
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn.functional import pad

Encode = Callable[[UInt8[torch.Tensor, "chunk H W 3"]], tuple[torch.Tensor, ...]]
"""features [chunk, ...] of so many frames"""


def encode_distinct(encode: Encode, frames: UInt8[np.ndarray, "B T H W 3"], chunk: int) -> list[torch.Tensor]:
    """Features [B, T, ...] of all frames, of which those are encoded, `chunk` at once, that differ from the one before.

    The last chunk is filled up, since a library may compute another number of frames another way.
    """
    new = np.ones(frames.shape[:2], bool)
    new[:, 1:] = (frames[:, 1:] != frames[:, :-1]).any(axis=(2, 3, 4))
    places = torch.from_numpy(new.cumsum().reshape(new.shape) - 1)
    shown = torch.from_numpy(frames[new])
    shown = pad(shown, (0, 0) * 3 + (0, -len(shown) % chunk))
    encoded = [encode(part) for part in shown.split(chunk)]
    return [torch.cat(parts)[places] for parts in zip(*encoded, strict=True)]
