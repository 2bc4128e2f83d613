"""The resize of `featurize.video.resize` in PyTorch: several frames of one shape at once, on a CPU or a GPU.

Each pass multiplies and adds 32-bit integers, tap by tap. Such sums have the same bits in any order and on any device,
as sums of float32 have not; PyTorch has no product of integer matrices on CUDA, and many GPUs are slow in float64.

Frames are copied through pinned memory, on a stream that goes before the encoder's. That was never run on a GPU.

Guarantees
- the pixels are those of `resized_part`
- a device without memory for the frames leaves them to `resized_part`; any other error of it is a DeviceError
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from jaxtyping import Int32, UInt8

from featurize.video.resize import HALF, PLACES, DeviceError, Resample, inputs, resized_part, weights_of


def resized_parts(
    pictures: Sequence[UInt8[np.ndarray, "height width 3"]],
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    resample: Resample,
    device: str,
) -> UInt8[np.ndarray, "pictures part_height part_width 3"]:
    """Return `resized_part` of each picture, computed on the device.

    The device needs about 13 bytes for each value of the pictures, or of the parts where they are larger.
    """
    try:
        return _resized(pictures, size, part, resample, torch.device(device))
    except torch.OutOfMemoryError:
        return np.stack([resized_part(picture, size, part, resample) for picture in pictures])
    except RuntimeError as error:
        raise DeviceError(f"{device} cannot resize frames: {error}") from error


def _resized(
    pictures: Sequence[np.ndarray],
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    resample: Resample,
    device: torch.device,
) -> np.ndarray:
    (left, top, right, bottom), (height, width) = part, pictures[0].shape[:2]
    stream = _stream(device)
    with torch.cuda.stream(stream):  # of a CPU: no stream, and no effect
        taken, columns, of_columns = _taps(width, size[0], left, right, resample, device)
        read, rows, of_rows = _taps(height, size[1], top, bottom, resample, device)
        kept = [picture[read, taken] for picture in pictures]
        staged = torch.empty((len(kept), *kept[0].shape), dtype=torch.uint8, pin_memory=stream is not None)
        np.stack(kept, out=staged.numpy())
        across = _pass(staged.to(device, non_blocking=True), 2, columns, of_columns)
        resized = _pass(across, 1, rows, of_rows)
        if stream is not None:  # this wait, unlike that of a copy, leaves the core to other threads
            stream.record_event(torch.cuda.Event(blocking=True)).synchronize()
        return resized.cpu().numpy()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None


@lru_cache(256)
def _taps(
    given: int, size: int, first: int, end: int, resample: Resample, device: torch.device
) -> tuple[slice, Int32[torch.Tensor, "taps outputs"], Int32[torch.Tensor, "taps outputs"]]:
    """Return which inputs are read, and of each tap the places among them and the weights."""
    starts, weights = weights_of(given, size, first, end, resample)
    places = starts - starts[0] + np.arange(weights.shape[1], dtype=np.int32)[:, None]
    return inputs(starts, weights), torch.tensor(places, device=device), torch.tensor(weights.T, device=device)


def _pass(
    pixels: UInt8[torch.Tensor, "N H W 3"],
    axis: int,
    places: Int32[torch.Tensor, "taps outputs"],
    weights: Int32[torch.Tensor, "taps outputs"],
) -> UInt8[torch.Tensor, "N _ _ 3"]:
    """Return pixels resized along an axis, rounded to 8 bits."""
    shape = list(pixels.shape)
    shape[axis] = places.shape[1]
    total = torch.full(shape, int(HALF), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(places, weights, strict=True):
        total += pixels.index_select(axis, place) * weight.view(-1, *[1] * (3 - axis))
    return (total >> PLACES).clamp_(0, 255).to(torch.uint8)
