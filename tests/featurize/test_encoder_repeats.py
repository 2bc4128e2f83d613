"""Guarantees of featurize.encoders.preprocessing, also for each encoder."""

import numpy as np
import pytest
import torch

from common.errors import StepDiffError
from featurize.encoders import load
from featurize.encoders.preprocessing import encode_distinct
from weights import resolve


def clips() -> np.ndarray:
    """Return a still, a moving clip, a clip of three repeated frames, and one that returns to its first frame."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 6, 3), dtype=np.uint8)
    frames[0] = frames[0, 0]
    frames[2] = frames[2, [0, 0, 0, 3, 3, 3, 6, 6]]
    frames[3, 7] = frames[3, 0]
    return frames


def test_repeated_frames_are_encoded_once() -> None:
    seen: list[torch.Tensor] = []

    def encode(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(part)
        return part.float().mean((1, 2)), part.flatten(1).double()

    frames = clips()
    mean, pixels = encode_distinct(encode, frames, chunk=5)
    assert [len(part) for part in seen] == [5] * 4  # 1 + 8 + 3 + 8 frames differ from their predecessor
    every = encode(torch.from_numpy(frames).flatten(0, 1))
    torch.testing.assert_close(mean, every[0].unflatten(0, (4, 8)), rtol=0, atol=0)
    torch.testing.assert_close(pixels, every[1].unflatten(0, (4, 8)), rtol=0, atol=0)


def test_the_last_chunk_is_padded() -> None:
    sizes: list[int] = []

    def encode(part: torch.Tensor) -> tuple[torch.Tensor]:
        sizes.append(len(part))
        return (part.flatten(1),)

    (pixels,) = encode_distinct(encode, clips()[:1], chunk=16)
    assert sizes == [16] and pixels.shape == (1, 8, 108)


def test_a_frame_has_the_same_bits_in_any_batch() -> None:
    try:
        resolve("efficientnet-lite0")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    encoder = load("efficientnet-lite0", device="cpu")
    frames = np.random.default_rng(1).integers(0, 256, (4, 8, 224, 224, 3), dtype=np.uint8)
    frames[1] = frames[1, 0]
    together = encoder.encode_clips(frames)
    for places in ([1], [3, 1], [1, 2], [0, 2, 3]):
        few = np.zeros_like(frames)  # other clips are padded, as featurize.shard does
        few[places] = frames[places]
        alone = encoder.encode_clips(few)
        for name, values in together.items():
            assert alone[name][places].tobytes() == values[places].tobytes()
